//! PEFT directories: what is written comes back, what PEFT wrote is read and written again to the byte, what is broken says where.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use vblora::{
    LoraConfig, Selection, Site, SitePlan, StoredVbLora, Targets, VbLoraConfig, VeraConfig,
    rng::Key,
    storage::{
        Codes, HostAdapter, HostLora, HostTensor, HostVbLora, HostVera, TensorFile,
        peft::{PeftAdapter, PeftDirectory, PeftMethod},
    },
};

use crate::support::{fixtures, random_vblora};

const ONE: &str = "base_model.model.layer.0.one.vblora_logits";

fn sites() -> Vec<Site> {
    vec![
        Site::new("layer.0.one", 8, 12),
        Site::new("layer.0.two", 12, 4),
    ]
}

fn plan() -> SitePlan {
    Targets::all_linear().select(&sites()).unwrap()
}

fn full(bank: usize, topk: usize) -> HostVbLora {
    random_vblora(&sites(), bank, topk)
}

fn lora(rslora: bool) -> HostLora {
    let config = LoraConfig {
        rank: 3,
        alpha: 6.5,
        dropout: 0.25,
        rslora,
    };
    let draw = |name: &str, dims: [usize; 2]| {
        dims.map(|dim| Key::new(5).name(name).normal(3 * dim, 1.0))
            .to_vec()
    };
    HostLora::new(
        config.check(&plan()).unwrap(),
        draw("a", [8, 12]),
        draw("b", [12, 4]),
    )
    .unwrap()
}

/// Random values throughout; the first site has the widest output, the second the widest input.
fn vera() -> HostVera {
    let config = VeraConfig {
        rank: 5,
        projection_seed: 3,
        ..VeraConfig::default()
    };
    let settings = config.check(&plan()).unwrap();
    let draw = |name: &str, dims: [usize; 2]| {
        dims.map(|dim| Key::new(6).name(name).normal(dim, 1.0))
            .to_vec()
    };
    let (d, b) = (draw("d", [5, 5]), draw("b", [12, 4]));
    HostVera::new(settings.clone(), settings.projection(), d, b).unwrap()
}

fn written(adapter: HostAdapter) -> (tempfile::TempDir, PeftAdapter) {
    let dir = tempfile::tempdir().unwrap();
    let adapter = PeftAdapter {
        prefix: "net.".into(),
        modules_to_save: vec!["classifier".into()],
        saved: vec![(
            "classifier.out.weight".into(),
            HostTensor {
                shape: vec![2, 3],
                values: vec![0.5, -1.0, 2.0, 1e-8, 3.0, 0.1],
            },
        )],
        task_type: Some("SEQ_CLS".into()),
        base_model: Some("some/base".into()),
        ..PeftAdapter::new(adapter)
    };
    adapter.write(dir.path()).unwrap();
    (dir, adapter)
}

fn read(dir: &Path) -> Result<PeftAdapter, String> {
    PeftDirectory::open(dir)
        .and_then(|found| found.bind(&sites()))
        .map_err(|e| e.to_string())
}

#[test]
fn every_form_comes_back_as_it_was() {
    // The bank sizes at which PEFT's index type changes.
    for (bank, topk) in [(1, 1), (10, 1), (255, 2), (256, 2), (257, 3), (32_768, 3)] {
        let full = full(bank, topk);
        for adapter in [
            HostAdapter::TopK(full.store()),
            HostAdapter::VbLora(full.clone()),
        ] {
            let (dir, expected) = written(adapter);
            assert_eq!(
                read(dir.path()).unwrap(),
                expected,
                "h = {bank}, k = {topk}"
            );
        }
    }
    for adapter in [
        HostAdapter::Lora(lora(false)),
        HostAdapter::Lora(lora(true)),
        HostAdapter::Vera(vera()),
    ] {
        let (dir, expected) = written(adapter);
        assert_eq!(read(dir.path()).unwrap(), expected);
    }
}

#[test]
fn index_types_are_pefts() {
    for (bank, dtype) in [
        (255, Dtype::U8),
        (256, Dtype::I16),
        (32_767, Dtype::I16),
        (32_768, Dtype::I32),
    ] {
        let (dir, _) = written(HostAdapter::TopK(full(bank, 2).store()));
        let file = TensorFile::read(&dir.path().join("adapter_model.safetensors")).unwrap();
        let name = "base_model.model.net.layer.0.one.vblora_logits_A_topk_indices";
        assert_eq!(file.dtype(name), Some(dtype), "h = {bank}");
        assert_eq!(file.shape(name), Some(&[3, 2, 2][..]));
    }
}

/// The same values by another selection, perhaps with a gate.
fn selected(selection: Selection, gate: bool) -> HostVbLora {
    let full = full(10, 2);
    let config = VbLoraConfig {
        selection,
        gate,
        ..full.settings().config().clone()
    };
    let settings = config.check(&plan()).unwrap();
    HostVbLora::new(settings, full.bank().to_vec(), full.logits().to_vec()).unwrap()
}

#[test]
fn whatever_was_drawn_in_training_a_file_is_top_k() {
    for selection in Selection::ALL {
        let adapter = selected(selection, false);
        if selection != Selection::SelectAll {
            assert_eq!(adapter, full(10, 2), "{selection}");
            continue;
        }
        // PEFT has no name for it: all logits, or codes, with topk = h.
        for form in [
            HostAdapter::TopK(adapter.store()),
            HostAdapter::VbLora(adapter.clone()),
        ] {
            let (dir, written) = written(form);
            let found = PeftDirectory::open(dir.path()).unwrap();
            let PeftMethod::VbLora(config) = &found.config().method else {
                panic!("VB-LoRA")
            };
            assert_eq!(config.topk, 10);
            let found = found.bind(&sites()).unwrap().adapter.to_lora();
            let expected = written.adapter.to_lora();
            for (found, expected) in found.a().iter().zip(expected.a()) {
                let close = |(f, e): (&f32, &f32)| (f - e).abs() < 1e-6;
                assert!(found.iter().zip(expected).all(close));
            }
        }
    }
}

#[test]
fn a_gate_has_no_place_in_pefts_vblora_but_in_lora() {
    let adapter = selected(Selection::TopK, true).with_gate(-0.5).unwrap();
    for form in [
        HostAdapter::TopK(adapter.store()),
        HostAdapter::VbLora(adapter.clone()),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let error = PeftAdapter::new(form).write(dir.path()).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("gate") && error.contains("to_lora"),
            "{error}"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    let (gated, plain) = (
        HostAdapter::VbLora(adapter).to_lora(),
        HostAdapter::VbLora(full(10, 2)).to_lora(),
    );
    assert_eq!(gated.a(), plain.a());
    let half = |v: &Vec<f32>| v.iter().map(|v| v * -0.5).collect::<Vec<_>>();
    assert_eq!(gated.b(), plain.b().iter().map(half).collect::<Vec<_>>());
    let error = full(10, 2).with_gate(1.0).unwrap_err().to_string();
    assert!(error.contains("gate"), "{error}");
    let error = selected(Selection::TopK, true).with_gate(f32::NAN);
    assert!(error.unwrap_err().to_string().contains("gate"));
}

#[test]
fn a_bank_is_taken_out_of_a_directory_alone() {
    let full = full(10, 2);
    for form in [
        HostAdapter::TopK(full.store()),
        HostAdapter::VbLora(full.clone()),
    ] {
        let (dir, _) = written(form);
        let bank = PeftDirectory::open(dir.path()).unwrap().bank().unwrap();
        assert_eq!((bank.shape(), bank.values()), ([10, 4], full.bank()));
    }
    let (dir, _) = written(HostAdapter::Lora(lora(false)));
    let error = PeftDirectory::open(dir.path()).unwrap().bank().unwrap_err();
    assert!(error.to_string().contains("no bank"), "{error}");
}

#[test]
fn an_older_adapter_in_the_directory_is_replaced_whole() {
    let (dir, _) = written(HostAdapter::VbLora(full(10, 2)));
    PeftAdapter::new(HostAdapter::Lora(lora(false)))
        .write(dir.path())
        .unwrap();
    assert_eq!(
        read(dir.path()).unwrap().adapter,
        HostAdapter::Lora(lora(false))
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn as_lora_it_is_the_same_update_with_alpha_equal_to_the_rank() {
    for (bank, topk) in [(10, 1), (10, 2), (300, 3)] {
        let full = full(bank, topk);
        let lora = HostAdapter::VbLora(full.clone()).to_lora();
        assert_eq!(lora.settings().config().alpha, 3.0);
        assert_eq!(HostAdapter::TopK(full.store()).to_lora(), lora);
        // Sub-vector t of component rho, composed by hand, lies at row rho, columns 4 t to 4 t + 4 of A.
        let stored = full.store();
        let (codes, weights) = (stored.codes(), stored.codes().full_weights());
        for rho in 0..3 {
            for column in 0..8 {
                let row = rho * 2 + column / 4;
                let at = |j: usize| {
                    stored.bank()[codes.indices[row * topk + j] as usize * 4 + column % 4]
                };
                let expected: f32 = (0..topk).map(|j| weights[row * topk + j] * at(j)).sum();
                assert!((lora.a()[0][rho * 8 + column] - expected).abs() < 1e-6);
            }
        }
    }
    assert_eq!(HostAdapter::Lora(lora(false)).to_lora(), lora(false));
}

#[test]
fn codes_alone_cannot_be_trained() {
    type B = vblora_backend::B;
    let full = full(10, 2);
    let error = HostAdapter::TopK(full.store())
        .trainable::<B>(&Default::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("training needs all logits"), "{error}");
    let adapter = HostAdapter::VbLora(full);
    let trained = adapter.trainable::<B>(&Default::default()).unwrap();
    assert_eq!(HostAdapter::read(&trained).unwrap(), adapter);
    let adapter = HostAdapter::Lora(lora(false));
    let trained = adapter.trainable::<B>(&Default::default()).unwrap();
    assert_eq!(HostAdapter::read(&trained).unwrap(), adapter);
}

/// Any backend: nothing is computed.
mod vblora_backend {
    #[cfg(feature = "flex")]
    pub(super) type B = burn::backend::Flex;
    #[cfg(not(feature = "flex"))]
    pub(super) type B = burn::backend::NdArray;
}

/// A directory whose tensors and settings can be tampered with.
struct Tampered {
    dir: tempfile::TempDir,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    config: Value,
}

impl Tampered {
    fn new(adapter: HostAdapter) -> Self {
        let dir = tempfile::tempdir().unwrap();
        PeftAdapter::new(adapter).write(dir.path()).unwrap();
        let bytes = std::fs::read(dir.path().join("adapter_model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes)
            .unwrap()
            .iter()
            .map(|(name, view)| {
                let parts = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
                (name.to_owned(), parts)
            })
            .collect();
        let config = fixtures::json(&dir.path().join("adapter_config.json"));
        Self {
            dir,
            tensors,
            config,
        }
    }

    fn read(&self) -> Result<PeftAdapter, String> {
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        std::fs::write(
            self.dir.path().join("adapter_model.safetensors"),
            safetensors::serialize(views, None).unwrap(),
        )
        .unwrap();
        std::fs::write(
            self.dir.path().join("adapter_config.json"),
            self.config.to_string(),
        )
        .unwrap();
        read(self.dir.path())
    }

    /// Holds the error to naming each of `parts`.
    #[track_caller]
    fn refused(&self, parts: &[&str]) {
        let error = self.read().unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{part:?} in {error}");
        }
    }

    fn floats(&mut self, name: &str, edit: impl Fn(&mut Vec<f32>)) {
        let (_, _, bytes) = self.tensors.get_mut(name).expect(name);
        let mut values: Vec<f32> = bytes
            .chunks_exact(4)
            .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
            .collect();
        edit(&mut values);
        *bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    }

    /// Gives a tensor another shape of as many values.
    fn reshape(&mut self, name: &str, shape: &[usize]) {
        self.tensors.get_mut(name).expect(name).1 = shape.to_vec();
    }

    /// Stores a tensor of floats in another type.
    fn retype(&mut self, name: &str, dtype: Dtype) {
        let (stored, _, bytes) = self.tensors.get_mut(name).expect(name);
        let word = |c: &[u8]| f32::from_le_bytes(c.try_into().unwrap());
        *bytes = bytes
            .chunks_exact(4)
            .flat_map(|c| match dtype {
                Dtype::F16 => half::f16::from_f32(word(c)).to_le_bytes(),
                Dtype::BF16 => half::bf16::from_f32(word(c)).to_le_bytes(),
                other => panic!("{other}"),
            })
            .collect();
        *stored = dtype;
    }
}

fn topk(bank: usize, k: usize) -> Tampered {
    Tampered::new(HostAdapter::TopK(full(bank, k).store()))
}

#[test]
fn the_tensors_decide_not_the_flag() {
    for flag in [true, false] {
        let mut dir = topk(10, 2);
        dir.config["save_only_topk_weights"] = flag.into();
        assert_eq!(
            dir.read().unwrap().adapter,
            HostAdapter::TopK(full(10, 2).store())
        );
        let mut dir = Tampered::new(HostAdapter::VbLora(full(10, 2)));
        dir.config["save_only_topk_weights"] = flag.into();
        assert_eq!(
            dir.read().unwrap().adapter,
            HostAdapter::VbLora(full(10, 2))
        );
    }
}

#[test]
fn indices_of_any_integer_type_are_read() {
    let expected = HostAdapter::TopK(full(100, 2).store());
    for dtype in [
        Dtype::U8,
        Dtype::I8,
        Dtype::U16,
        Dtype::I16,
        Dtype::U32,
        Dtype::I32,
        Dtype::I64,
    ] {
        let mut dir = topk(100, 2);
        let width = dtype.bitsize() / 8;
        for (name, (stored, _, bytes)) in &mut dir.tensors {
            if name.ends_with("_indices") {
                *bytes = bytes
                    .iter()
                    .flat_map(|&byte| u64::from(byte).to_le_bytes().into_iter().take(width))
                    .collect();
                *stored = dtype;
            }
        }
        assert_eq!(dir.read().unwrap().adapter, expected, "{dtype}");
    }
}

#[test]
fn half_precision_is_read_and_a_sum_rounded_over_one_is_brought_back() {
    for (dtype, tolerance) in [(Dtype::F16, 5e-4), (Dtype::BF16, 4e-3)] {
        let mut dir = topk(10, 3);
        // Both round up in either type, to a sum over 1.
        let name = format!("{ONE}_A_topk_weights");
        dir.floats(&name, |weights| {
            (weights[0], weights[1]) = (0.500_2 + 0.001_76, 0.498_04)
        });
        let floats: Vec<String> = dir
            .tensors
            .keys()
            .filter(|name| !name.ends_with("_indices"))
            .cloned()
            .collect();
        floats.iter().for_each(|name| dir.retype(name, dtype));
        let HostAdapter::TopK(found) = dir.read().unwrap().adapter else {
            panic!("top-k")
        };
        let expected = full(10, 3).store();
        assert_eq!(found.codes().indices, expected.codes().indices);
        let pairs = found.codes().weights[2..]
            .iter()
            .zip(&expected.codes().weights[2..]);
        assert!(pairs.into_iter().all(|(f, e)| (f - e).abs() < tolerance));
        assert!(found.codes().full_weights().iter().all(|w| *w >= 0.0));
    }
}

#[test]
fn a_missing_bank_is_named() {
    let mut dir = topk(10, 2);
    dir.tensors.remove("base_model.vblora_vector_bank");
    dir.refused(&[
        "adapter_model.safetensors",
        "no tensor \"base_model.vblora_vector_bank\"",
    ]);
}

#[test]
fn a_bank_of_another_shape_is_named() {
    let mut dir = topk(10, 2);
    dir.config["num_vectors"] = 9.into();
    dir.refused(&["vblora_vector_bank", "expected shape [9, 4], found [10, 4]"]);
}

#[test]
fn broken_codes_are_named() {
    let indices = format!("{ONE}_A_topk_indices");
    let mut dir = topk(10, 2);
    dir.tensors.get_mut(&indices).unwrap().2[3] = 10;
    dir.refused(&[&indices, "index 10 into a bank of 10"]);
    let mut dir = topk(10, 2);
    let bytes = &mut dir.tensors.get_mut(&indices).unwrap().2;
    bytes[1] = bytes[0];
    dir.refused(&["different within a sub-vector"]);
    let mut dir = topk(10, 2);
    dir.tensors.get_mut(&indices).unwrap().0 = Dtype::I8;
    dir.tensors.get_mut(&indices).unwrap().2[0] = 0xff;
    dir.refused(&[&indices, "-1 is no index"]);
    let weights = format!("{ONE}_A_topk_weights");
    for (value, reason) in [
        (f32::NAN, "not finite"),
        (1.5, "from 0 to 1"),
        (-0.1, "from 0 to 1"),
    ] {
        let mut dir = topk(10, 2);
        dir.floats(&weights, |weights| weights[0] = value);
        dir.refused(&[reason]);
    }
    let mut dir = topk(10, 2);
    dir.tensors.get_mut(&weights).unwrap().1 = vec![2, 3, 1];
    dir.refused(&[&weights, "expected shape [3, any, 1], found [2, 3, 1]"]);
}

#[test]
fn modules_that_do_not_fit_the_model_are_named() {
    // A part is missing.
    let mut dir = topk(10, 2);
    let weights = format!("{ONE}_B_topk_weights");
    dir.tensors.remove(&weights);
    dir.refused(&[&format!("no tensor {weights:?}")]);
    // A whole module is missing, though it is targeted.
    let mut dir = Tampered::new(HostAdapter::VbLora(full(10, 2)));
    dir.tensors.retain(|name, _| !name.contains(".two."));
    dir.refused(&["layer.0.two.vblora_logits_A", "target_modules"]);
    // A module that the model does not have.
    let mut dir = Tampered::new(HostAdapter::VbLora(full(10, 2)));
    for side in ["A", "B"] {
        let tensor = dir.tensors[&format!("{ONE}_{side}")].clone();
        let name = format!("base_model.model.layer.7.one.vblora_logits_{side}");
        dir.tensors.insert(name, tensor);
    }
    dir.refused(&["layer.7.one", "no linear map"]);
    // A tensor of nothing.
    let mut dir = Tampered::new(HostAdapter::VbLora(full(10, 2)));
    let stray = dir.tensors[&format!("{ONE}_A")].clone();
    dir.tensors
        .insert("base_model.model.score.weight".into(), stray);
    dir.refused(&["base_model.model.score.weight", "modules_to_save"]);
    // Both forms at once.
    let mut dir = topk(10, 2);
    let both = Tampered::new(HostAdapter::VbLora(full(10, 2)));
    dir.tensors.extend(both.tensors.clone());
    dir.refused(&["vblora_logits_A\" belongs neither"]);
    // Another base.
    let dir = Tampered::new(HostAdapter::Lora(lora(false)));
    dir.read().unwrap();
    let wide = [
        Site::new("layer.0.one", 8, 16),
        Site::new("layer.0.two", 12, 4),
    ];
    let error = PeftDirectory::open(dir.dir.path())
        .unwrap()
        .bind(&wide)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("layer.0.one.lora_B.weight") && error.contains("12") && error.contains("16"),
        "{error}"
    );
}

#[test]
fn settings_that_change_the_outcome_are_refused_by_name() {
    for (key, value) in [
        ("use_dora", json!(true)),
        ("bias", json!("all")),
        ("rank_pattern", json!({"one": 4})),
        ("peft_type", json!("IA3")),
        ("r", json!("three")),
        ("lora_alpha", json!(null)),
    ] {
        let mut dir = Tampered::new(HostAdapter::Lora(lora(false)));
        dir.config[key] = value;
        dir.refused(&["adapter_config.json", key]);
    }
    let mut dir = topk(10, 2);
    dir.config["topk"] = 0.into();
    assert!(dir.read().is_err());
    dir.config["topk"] = json!(u64::MAX);
    assert!(dir.read().is_err());
}

#[test]
fn vera_shares_its_matrices_and_is_refused_without_them() {
    let (dir, _) = written(HostAdapter::Vera(vera()));
    let file = TensorFile::read(&dir.path().join("adapter_model.safetensors")).unwrap();
    let shape = |name: &str| file.shape(name).unwrap().to_vec();
    assert_eq!(shape("base_model.vera_A"), [5, 12]);
    assert_eq!(shape("base_model.vera_B"), [12, 5]);
    assert_eq!(file.names().count(), 2 + 2 * 2 + 1);
    for name in ["base_model.vera_A", "base_model.vera_B"] {
        let mut dir = Tampered::new(HostAdapter::Vera(vera()));
        dir.tensors.remove(name);
        dir.refused(&[name, "torch"]);
        let mut dir = Tampered::new(HostAdapter::Vera(vera()));
        dir.reshape(name, &[60]);
        dir.refused(&[name, "[60]"]);
    }
    let mut dir = Tampered::new(HostAdapter::Vera(vera()));
    dir.config["r"] = 6.into();
    dir.refused(&["vera_A", "6"]);
    let mut dir = Tampered::new(HostAdapter::Vera(vera()));
    let lost = "base_model.model.layer.0.two.vera_lambda_d";
    dir.tensors.remove(lost);
    dir.refused(&[lost]);
}

/// The directory does not say how wide a module's input is; that the widest is the random matrix's it does.
#[test]
fn vera_takes_the_models_input_widths_as_far_as_its_matrix_goes() {
    let (dir, _) = written(HostAdapter::Vera(vera()));
    let found = PeftDirectory::open(dir.path()).unwrap();
    let bind = |d_in: [usize; 2]| {
        let sites = [
            Site::new("layer.0.one", d_in[0], 12),
            Site::new("layer.0.two", d_in[1], 4),
        ];
        found.bind(&sites).map_err(|e| e.to_string())
    };
    for d_in in [[8, 12], [12, 3], [12, 12]] {
        assert!(bind(d_in).is_ok(), "{d_in:?}");
    }
    let error = bind([8, 13]).unwrap_err();
    assert!(
        error.contains("layer.0.two.vera_lambda_d") && error.contains("13"),
        "{error}"
    );
    let error = bind([8, 11]).unwrap_err();
    assert!(error.contains("vera_A"), "{error}");
}

#[test]
fn absent_and_broken_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        read(dir.path())
            .unwrap_err()
            .contains("adapter_config.json")
    );
    std::fs::write(dir.path().join("adapter_config.json"), "{\"peft_type\": ").unwrap();
    assert!(
        read(dir.path())
            .unwrap_err()
            .contains("adapter_config.json")
    );
    let (dir, _) = written(HostAdapter::Lora(lora(false)));
    let path = dir.path().join("adapter_model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 7, 8, 100, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = read(dir.path()).unwrap_err();
        assert!(error.contains("adapter_model.safetensors"), "{error}");
    }
}

/// Every directory that PEFT wrote, under any folder of the fixtures.
fn recorded() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<_> = ["models", "peft_linear", "train", "baselines/lora"]
        .iter()
        .filter_map(|kind| fixtures::folder(kind))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.join("adapter_config.json").is_file() {
                found.push(path);
            } else if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn fixture_directories_of_peft_are_written_again_to_the_byte() {
    for path in recorded() {
        println!("{}", path.display());
        let found = PeftDirectory::open(&path).unwrap();
        let adapter = found.bind(found.sites()).unwrap();
        let copy = tempfile::tempdir().unwrap();
        adapter.write(copy.path()).unwrap();
        let tensors = |dir: &Path| {
            let bytes = std::fs::read(dir.join("adapter_model.safetensors")).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let owned = file.iter().map(|(name, view)| {
                let parts = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
                (name.to_owned(), parts)
            });
            owned.collect::<BTreeMap<_, _>>()
        };
        assert!(tensors(copy.path()) == tensors(&path), "{}", path.display());
        let [ours, theirs] =
            [copy.path(), &path].map(|dir| fixtures::json(&dir.join("adapter_config.json")));
        for (key, value) in ours.as_object().unwrap() {
            // Modules are named in full; what stands in a class of the recording script is not ours to know.
            if !["target_modules", "auto_mapping", "exclude_modules"].contains(&key.as_str()) {
                let same = match (value.as_f64(), theirs[key].as_f64()) {
                    (Some(a), Some(b)) => a == b,
                    _ => *value == theirs[key],
                };
                assert!(same, "{key}: {value} instead of {}", theirs[key]);
            }
        }
    }
}

#[test]
fn fixture_updates_are_pefts() {
    type B = vblora_backend::B;
    for path in recorded() {
        let io = path.parent().unwrap();
        let (case, recorded) = (
            fixtures::json(&io.join("io.json")),
            fixtures::Tensors::read(&io.join("io.safetensors")),
        );
        let (name, module) = match case["first_module"].as_str() {
            Some(module) => (
                "delta_first",
                module["base_model.model.".len()..].to_owned(),
            ),
            None if recorded.contains("delta") => ("delta", "lin".to_owned()),
            None if recorded.contains("delta.lin") => ("delta.lin", "lin".to_owned()),
            None => continue,
        };
        println!("{}", path.display());
        let found = PeftDirectory::open(&path).unwrap();
        let adapter = found.bind(found.sites()).unwrap().adapter;
        let device = Default::default();
        let as_lora = HostAdapter::Lora(adapter.to_lora());
        for factors in [adapter.factors::<B>(&device), as_lora.factors::<B>(&device)] {
            // [d_in, d_out]; torch's is the transpose, Conv1D's is not.
            let delta = factors.get(&module).unwrap().delta();
            let conv1d = case["modules"][format!("base_model.model.{module}")][2] == json!(true);
            let delta = if conv1d { delta } else { delta.transpose() };
            let delta: Vec<f32> = delta.into_data().into_vec().unwrap();
            let expected = recorded.get(name);
            let scale = expected.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
            assert_eq!(delta.len(), expected.len());
            for (f, e) in delta.iter().zip(expected) {
                assert!((f64::from(*f) - e).abs() < 1e-5 * scale, "{f} {e}");
            }
        }
    }
}

#[test]
fn a_row_pushed_over_one_gives_no_negative_weight() {
    let full = full(10, 3);
    let mut codes = full.store().codes().clone();
    (codes.weights[0], codes.weights[1]) = (0.7, 0.300_000_1);
    let stored =
        StoredVbLora::new(full.settings().clone(), full.bank().to_vec(), codes.clone()).unwrap();
    let (dir, _) = written(HostAdapter::TopK(stored.clone()));
    let found = read(dir.path()).unwrap().adapter;
    assert_eq!(found, HostAdapter::TopK(stored));
    assert_eq!(Codes::full_weights(&codes)[2], 0.0);
}

#[test]
fn an_older_adapter_is_replaced_and_what_lies_beside_it_stays() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("net");
    let write = |adapter: HostAdapter| PeftAdapter::new(adapter).write(&place).unwrap();
    write(HostAdapter::VbLora(full(10, 2)));
    for (file, text) in [
        ("README.md", "mine"),
        ("adapter_model.bin", "the older one's"),
    ] {
        std::fs::write(place.join(file), text).unwrap();
    }
    std::fs::create_dir_all(place.join("deep/er")).unwrap();
    std::fs::write(place.join("deep/er/notes"), "mine too").unwrap();
    write(HostAdapter::Lora(lora(false)));
    assert_eq!(
        read(&place).unwrap().adapter,
        HostAdapter::Lora(lora(false))
    );
    let text = |file: &str| std::fs::read_to_string(place.join(file)).unwrap();
    assert_eq!(
        (text("README.md"), text("deep/er/notes")),
        ("mine".into(), "mine too".into())
    );
    assert!(!place.join("adapter_model.bin").exists());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Whatever of the two files is read while they are replaced is of one adapter: the directory is exchanged as a whole.
#[cfg(unix)]
#[test]
fn a_reader_never_sees_a_directory_without_an_adapter() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("net");
    let forms = [
        HostAdapter::Lora(lora(false)),
        HostAdapter::VbLora(full(10, 2)),
    ];
    PeftAdapter::new(forms[0].clone()).write(&place).unwrap();
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..60 {
                let form = forms[round % 2].clone();
                PeftAdapter::new(form).write(&place).unwrap();
            }
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !ended.load(std::sync::atomic::Ordering::Relaxed) {
            assert!(place.join("adapter_config.json").exists());
        }
    });
}

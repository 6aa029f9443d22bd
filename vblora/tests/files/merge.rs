//! A base with an adapter added in: every sum, layout and type; what is not changed stays to the byte; what does not fit leaves nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use vblora::{
    LoraConfig, Result, Site, Targets,
    rng::Key,
    storage::{
        HostAdapter, HostLora, HostTensor, Merged, Whole, merge, merge_as,
        peft::{PeftAdapter, PeftDirectory, PeftMethod},
        to_f32,
    },
};

use crate::support::{fixtures, random_vblora, reference::Matrix};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Name, type, shape and values of a tensor.
type Stored = (String, Dtype, Vec<usize>, Vec<f32>);

fn sites() -> Vec<Site> {
    vec![
        Site::new("layer.0.one", 8, 12),
        Site::new("layer.0.two", 12, 4),
    ]
}

fn lora() -> HostLora {
    let plan = Targets::all_linear().select(&sites()).unwrap();
    let config = LoraConfig {
        rank: 3,
        alpha: 6.5,
        dropout: 0.25,
        ..LoraConfig::default()
    };
    let draw = |name: &str, dims: [usize; 2]| {
        dims.map(|dim| Key::new(5).name(name).normal(3 * dim, 1.0))
            .to_vec()
    };
    let (a, b) = (draw("a", [8, 12]), draw("b", [12, 4]));
    HostLora::new(config.check(&plan).unwrap(), a, b).unwrap()
}

/// LoRA with a head, on a model that the sites' names stand behind `net.` in.
fn adapter() -> PeftAdapter {
    PeftAdapter {
        prefix: "net.".into(),
        modules_to_save: vec!["classifier".into()],
        saved: vec![(
            "classifier.weight".into(),
            HostTensor {
                shape: vec![2, 4],
                values: Key::new(6).normal(8, 1.0),
            },
        )],
        ..PeftAdapter::new(HostAdapter::Lora(lora()))
    }
}

fn tensor(name: &str, dtype: Dtype, shape: &[usize]) -> Stored {
    let values = Key::new(7).name(name).normal(shape.iter().product(), 2.0);
    (name.into(), dtype, shape.into(), values)
}

/// The base that [`adapter`] is for, as torch stores it.
fn base(dtype: Dtype) -> Vec<Stored> {
    vec![
        tensor("net.layer.0.one.weight", dtype, &[12, 8]),
        tensor("net.layer.0.one.bias", dtype, &[12]),
        tensor("net.layer.0.two.weight", dtype, &[4, 12]),
        tensor("net.embedding.weight", Dtype::F32, &[5, 3]),
        tensor("classifier.weight", dtype, &[2, 4]),
    ]
}

fn rounded(dtype: Dtype, value: f32) -> Vec<u8> {
    match dtype {
        Dtype::F32 => value.to_le_bytes().into(),
        Dtype::F16 => f16::from_f32(value).to_le_bytes().into(),
        Dtype::BF16 => bf16::from_f32(value).to_le_bytes().into(),
        Dtype::I32 => (value as i32).to_le_bytes().into(),
        other => panic!("{other}"),
    }
}

fn write(path: &Path, tensors: &[Stored]) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, dtype, _, values)| values.iter().flat_map(|&v| rounded(*dtype, v)).collect())
        .collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, dtype, shape, _), bytes)| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    std::fs::write(path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
}

/// A directory `base` with these tensors, and a place for the output.
fn on_disk(tensors: &[Stored]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("base")).unwrap();
    write(&dir.path().join("base").join(SINGLE), tensors);
    std::fs::write(dir.path().join("base/config.json"), "{}").unwrap();
    dir
}

fn merged(dir: &Path, adapter: &PeftAdapter) -> Result<Merged> {
    merge(&dir.join("base"), adapter, &dir.join("out"), false)
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// Type, shape and bytes of each tensor of a file.
fn read(path: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.iter().map(|(name, view)| {
        let stored = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        (name.to_owned(), stored)
    });
    tensors.collect()
}

/// The update of a site in f64, `[d_in, d_out]`.
fn update(lora: &HostLora, site: usize) -> Matrix {
    let config = lora.settings().config();
    let widen = |values: &[f32]| {
        let values = values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        Matrix::new(config.rank, values.len() / config.rank, values)
    };
    let (a, b) = (widen(&lora.a()[site]), widen(&lora.b()[site]));
    let scale = config.alpha / config.rank as f64;
    a.transposed().times(&b).map(|v| v * scale)
}

/// Asserts that a weight is the sum, rounded once: no further off than half a step of its type and the error of an f32 sum.
#[track_caller]
fn assert_sum(what: &str, found: &(Dtype, Vec<usize>, Vec<u8>), weight: &Stored, update: &Matrix) {
    let half_step = match found.0 {
        Dtype::F32 => 0.0,
        Dtype::F16 => 2f64.powi(-11),
        _ => 2f64.powi(-8),
    };
    assert_eq!((found.0, &found.1), (weight.1, &weight.2), "{what}");
    let before = weight.3.iter().flat_map(|&v| rounded(weight.1, v));
    let before = to_f32(weight.1, &before.collect::<Vec<_>>()).unwrap();
    for (i, found) in to_f32(found.0, &found.2).unwrap().into_iter().enumerate() {
        let sum = f64::from(before[i]) + update.values[i];
        let off = (f64::from(found) - sum).abs();
        assert!(
            off <= half_step * sum.abs() + 1e-5,
            "{what}[{i}]: {found} for {sum}"
        );
    }
}

#[test]
fn sums_are_rounded_once_to_the_type_of_the_base_in_both_layouts_for_every_form() {
    let vblora = random_vblora(&sites(), 10, 2);
    let forms = [
        HostAdapter::Lora(lora()),
        HostAdapter::TopK(vblora.store()),
        HostAdapter::VbLora(vblora),
    ];
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        for form in &forms {
            for fan_in_fan_out in [false, true] {
                let mut tensors = base(dtype);
                if fan_in_fan_out {
                    tensors[0].2.reverse();
                    tensors[2].2.reverse();
                }
                let dir = on_disk(&tensors);
                let adapter = PeftAdapter {
                    adapter: form.clone(),
                    fan_in_fan_out,
                    ..adapter()
                };
                let report = merged(dir.path(), &adapter).unwrap();
                assert_eq!((report.updated, report.replaced), (2, 1));
                let found = read(&dir.path().join("out").join(SINGLE));
                let lora = form.to_lora();
                for (site, at) in [0, 2].into_iter().enumerate() {
                    let update = update(&lora, site);
                    let update = match fan_in_fan_out {
                        true => update,
                        false => update.transposed(),
                    };
                    let name = &tensors[at].0;
                    assert_sum(name, &found[name], &tensors[at], &update);
                }
                let head = adapter.saved[0].1.values.iter();
                let head: Vec<u8> = head.flat_map(|&v| rounded(dtype, v)).collect();
                assert_eq!(found["classifier.weight"].2, head);
            }
        }
    }
}

/// Tensors larger than a block, rows that do not divide it: row 40,000 is as right as row 0.
#[test]
fn large_weights_are_right_in_every_block() {
    let site = Site::new("wide", 7, 90_001);
    let plan = Targets::all_linear().select(&[site]).unwrap();
    let config = LoraConfig {
        rank: 2,
        alpha: 1.0,
        dropout: 0.0,
        ..LoraConfig::default()
    };
    let draw = |name: &str, n: usize| vec![Key::new(8).name(name).normal(2 * n, 1.0)];
    let lora = HostLora::new(
        config.check(&plan).unwrap(),
        draw("a", 7),
        draw("b", 90_001),
    );
    let lora = lora.unwrap();
    for (fan_in_fan_out, shape) in [(false, [90_001, 7]), (true, [7, 90_001])] {
        let tensors = [tensor("wide.weight", Dtype::F32, &shape)];
        let dir = on_disk(&tensors);
        let adapter = PeftAdapter {
            fan_in_fan_out,
            ..PeftAdapter::new(HostAdapter::Lora(lora.clone()))
        };
        merged(dir.path(), &adapter).unwrap();
        let found = read(&dir.path().join("out").join(SINGLE));
        let update = update(&lora, 0);
        let update = match fan_in_fan_out {
            true => update,
            false => update.transposed(),
        };
        assert_sum("wide", &found["wide.weight"], &tensors[0], &update);
    }
}

#[test]
fn shards_index_and_other_files_stay_as_they_are() {
    let dir = on_disk(&base(Dtype::F32));
    let (from, out) = (dir.path().join("base"), dir.path().join("out"));
    merged(dir.path(), &adapter()).unwrap();
    let single = read(&out.join(SINGLE));
    std::fs::remove_file(from.join(SINGLE)).unwrap();
    let tensors = base(Dtype::F32);
    let shards = [&tensors[..2], &tensors[2..]];
    let shard_name = |i: usize| format!("model-0000{}-of-00002.safetensors", i + 1);
    let mut map = BTreeMap::new();
    for (i, tensors) in shards.into_iter().enumerate() {
        write(&from.join(shard_name(i)), tensors);
        map.extend(tensors.iter().map(|t| (t.0.clone(), shard_name(i))));
    }
    let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
    std::fs::write(from.join(INDEX), index.to_string()).unwrap();
    std::fs::write(from.join("tokenizer.json"), "words").unwrap();
    std::fs::write(from.join("pytorch_model.bin"), "old weights").unwrap();
    std::fs::write(from.join("consolidated.safetensors"), "old weights").unwrap();
    std::fs::create_dir(from.join("original")).unwrap();
    let report = merge(&from, &adapter(), &out, true).unwrap();
    assert_eq!(report.weights, [shard_name(0), shard_name(1)]);
    let left_out = ["consolidated.safetensors", "original", "pytorch_model.bin"];
    assert_eq!(report.left_out, left_out);
    let kept = [INDEX, "config.json", "tokenizer.json"];
    let expected = kept.map(str::to_owned).into_iter().chain(report.weights);
    assert_eq!(names(&out), expected.collect());
    for name in kept {
        let [before, after] = [&from, &out].map(|dir| std::fs::read(dir.join(name)).unwrap());
        assert_eq!(before, after, "{name}");
    }
    let mut together = BTreeMap::new();
    for i in 0..2 {
        let [before, after] =
            [&from, &out].map(|dir| std::fs::read(dir.join(shard_name(i))).unwrap());
        let front = 8 + u64::from_le_bytes(before[..8].try_into().unwrap()) as usize;
        assert_eq!(before[..front], after[..front], "header of shard {i}");
        together.extend(read(&out.join(shard_name(i))));
    }
    assert_eq!(together, single);
    let before = read(&from.join(shard_name(0)));
    assert_eq!(
        before["net.layer.0.one.bias"],
        together["net.layer.0.one.bias"]
    );
    assert_ne!(
        before["net.layer.0.one.weight"],
        together["net.layer.0.one.weight"]
    );
}

#[test]
fn a_whole_model_has_the_base_below_its_prefix_and_the_saved_modules_beside_it() {
    for is_bare in [true, false] {
        let mut tensors = base(Dtype::F16);
        let classifier = tensors.pop().unwrap().0;
        match is_bare {
            true => tensors
                .iter_mut()
                .for_each(|(name, ..)| *name = name.replacen("net.", "", 1)),
            false => tensors.push(tensor("lm_head.bias", Dtype::F16, &[5])),
        }
        let dir = on_disk(&tensors[..2]);
        let (from, out) = (dir.path().join("base"), dir.path().join("out"));
        let shards = ["model-1.safetensors", "model-2.safetensors"];
        std::fs::rename(from.join(SINGLE), from.join(shards[0])).unwrap();
        write(&from.join(shards[1]), &tensors[2..]);
        let place = |(at, tensor): (usize, &Stored)| (tensor.0.clone(), shards[at / 2 % 2]);
        let map: BTreeMap<_, _> = tensors[..4].iter().enumerate().map(place).collect();
        let mut index = serde_json::json!({"weight_map": map});
        if !is_bare {
            index["weight_map"]["lm_head.bias"] = shards[1].into();
        }
        std::fs::write(from.join(INDEX), index.to_string()).unwrap();
        let error = merged(dir.path(), &adapter()).unwrap_err().to_string();
        assert!(
            error.contains(&classifier) && error.contains("--without-modules"),
            "{error}"
        );
        assert!(!out.exists());
        let whole = Whole {
            prefix: "net.".into(),
            files: vec![("config.json".into(), b"{\"own\": 1}".to_vec())],
        };
        let report = merge_as(&from, &adapter(), Some(&whole), &out, false).unwrap();
        assert_eq!(report.notes.is_empty(), is_bare, "{:?}", report.notes);
        assert!(
            report
                .notes
                .iter()
                .all(|note| note.contains("lm_head.bias"))
        );
        assert_eq!(
            json(&out.join("config.json")),
            serde_json::json!({"own": 1})
        );
        let mut found = read(&out.join(shards[0]));
        found.extend(read(&out.join(shards[1])));
        let expected: BTreeSet<String> = base(Dtype::F16).into_iter().map(|t| t.0).collect();
        assert_eq!(found.keys().cloned().collect::<BTreeSet<_>>(), expected);
        let head = adapter().saved[0].1.values.clone();
        let head = head.into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(found[&classifier], (Dtype::F32, vec![2, 4], head));
        let weight = &base(Dtype::F16)[0];
        let sum = update(&lora(), 0).transposed();
        assert_sum("one", &found[&weight.0], weight, &sum);
        let index = json(&out.join(INDEX));
        let listed = index["weight_map"].as_object().unwrap().keys().cloned();
        assert_eq!(listed.collect::<BTreeSet<_>>(), expected);
    }
}

/// As Hugging Face's loader does: the single file is the model, whatever an index beside it says.
#[test]
fn an_index_beside_a_single_file_is_left_out_with_its_shards() {
    let dir = on_disk(&base(Dtype::F32));
    let from = dir.path().join("base");
    write(&from.join("model-1.safetensors"), &base(Dtype::F16));
    let index = r#"{"weight_map":{"net.layer.0.one.weight":"model-1.safetensors"}}"#;
    std::fs::write(from.join(INDEX), index).unwrap();
    let report = merged(dir.path(), &adapter()).unwrap();
    assert_eq!(report.weights, [SINGLE]);
    assert_eq!(report.left_out, ["model-1.safetensors", INDEX]);
    let kept = ["config.json", SINGLE].map(str::to_owned);
    assert_eq!(names(&dir.path().join("out")), kept.into());
}

/// A hub checkpoint of the bare model lacks the prefix that the model with a head has, and a compact file lacks the one of the checkpoint.
#[test]
fn a_prefix_more_or_less_is_found() {
    let renamed = |prefix: &str| -> Vec<Stored> {
        let tensors = base(Dtype::F32).into_iter();
        let tensors = tensors.map(|(name, dtype, shape, values)| {
            let name = name
                .strip_prefix("net.")
                .map(|rest| format!("{prefix}{rest}"))
                .unwrap_or(name);
            (name, dtype, shape, values)
        });
        tensors.collect()
    };
    let expected = on_disk(&base(Dtype::F32));
    merged(expected.path(), &adapter()).unwrap();
    let expected = read(&expected.path().join("out").join(SINGLE));
    for (of_base, of_adapter) in [
        ("", "net."),
        ("net.", ""),
        ("model.net.", ""),
        ("", "model.net."),
    ] {
        let dir = on_disk(&renamed(of_base));
        let adapter = PeftAdapter {
            prefix: of_adapter.into(),
            ..adapter()
        };
        merged(dir.path(), &adapter).unwrap();
        let found = read(&dir.path().join("out").join(SINGLE));
        for part in ["layer.0.one.weight", "layer.0.two.weight"] {
            assert_eq!(
                found[&format!("{of_base}{part}")],
                expected[&format!("net.{part}")]
            );
        }
    }
    // Two towers with the same names: which one is not to be guessed.
    let mut towers = renamed("a.");
    towers.extend(renamed("b.").into_iter().take(3));
    let dir = on_disk(&towers);
    let adapter = PeftAdapter {
        prefix: String::new(),
        ..adapter()
    };
    let error = merged(dir.path(), &adapter).unwrap_err().to_string();
    assert!(
        error.contains("\"a.\"") && error.contains("\"b.\""),
        "{error}"
    );
}

#[test]
fn what_does_not_fit_is_named_and_leaves_nothing() {
    let without = |name: &str| -> Vec<Stored> {
        let tensors = base(Dtype::F32).into_iter();
        tensors.filter(|tensor| tensor.0 != name).collect()
    };
    let with = |at: usize, edit: fn(&mut Stored)| {
        let mut tensors = base(Dtype::F16);
        edit(&mut tensors[at]);
        tensors
    };
    let cases = [
        (
            without("net.layer.0.two.weight"),
            "no tensor \"net.layer.0.two.weight\"",
        ),
        (
            without("net.layer.0.one.weight"),
            "no tensor \"net.layer.0.one.weight\"",
        ),
        (
            without("classifier.weight"),
            "no tensor \"classifier.weight\"",
        ),
        (
            with(0, |t| t.2 = vec![8, 12]),
            "shape [12, 8], found [8, 12]",
        ),
        (with(4, |t| t.2 = vec![8]), "shape [2, 4], found [8]"),
        (
            with(2, |t| t.1 = Dtype::I32),
            "\"net.layer.0.two.weight\": type I32",
        ),
        (with(0, |t| t.3[95] = 65_504.0), "is not finite as F16"),
        (
            with(0, |t| t.3[3] = f32::NAN),
            "\"net.layer.0.one.weight\": value 3 is not finite",
        ),
    ];
    let adapter = loud();
    for (tensors, reason) in cases {
        let dir = on_disk(&tensors);
        let error = merged(dir.path(), &adapter).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
        assert_eq!(names(dir.path()), ["base".to_owned()].into(), "{reason}");
    }
}

/// An adapter whose update pushes the largest value of f16 over its end, at the last entry of the first weight.
fn loud() -> PeftAdapter {
    let last = update(&lora(), 0).values[95];
    let louder = |values: &Vec<f32>| {
        values
            .iter()
            .map(|v| v * 1e3 * last.signum() as f32)
            .collect()
    };
    let b = lora().b().iter().map(louder).collect();
    let lora = HostLora::new(lora().settings().clone(), lora().a().to_vec(), b);
    PeftAdapter {
        adapter: HostAdapter::Lora(lora.unwrap()),
        ..adapter()
    }
}

#[test]
fn a_broken_base_is_named_and_leaves_nothing() {
    let dir = on_disk(&base(Dtype::F32));
    let from = dir.path().join("base");
    let whole = std::fs::read(from.join(SINGLE)).unwrap();
    for length in [0, 7, 8, 50, whole.len() / 2, whole.len() - 1] {
        std::fs::write(from.join(SINGLE), &whole[..length]).unwrap();
        let error = merged(dir.path(), &adapter()).unwrap_err().to_string();
        assert!(error.contains(SINGLE), "{length}: {error}");
    }
    std::fs::rename(from.join(SINGLE), dir.path().join("outside.safetensors")).unwrap();
    for (index, reason) in [
        ("{}", "weight_map"),
        (r#"{"weight_map":{}}"#, "empty"),
        (
            r#"{"weight_map":{"a":"../outside.safetensors"}}"#,
            "plain file name",
        ),
        (
            r#"{"weight_map":{"a":"absent.safetensors"}}"#,
            "absent.safetensors",
        ),
    ] {
        std::fs::write(from.join(INDEX), index).unwrap();
        let error = merged(dir.path(), &adapter()).unwrap_err().to_string();
        assert!(error.contains(reason), "{index}: {error}");
    }
    assert_eq!(names(dir.path()).len(), 2);
}

#[test]
fn only_a_folder_of_plain_files_is_replaced_and_only_on_demand() {
    let dir = on_disk(&base(Dtype::F32));
    let (from, out) = (dir.path().join("base"), dir.path().join("out"));
    let merge = |out: &Path, overwrite: bool| merge(&from, &adapter(), out, overwrite);
    let refused = |out: &Path, overwrite: bool, reason: &str| {
        let error = merge(out, overwrite).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    };
    merge(&out, false).unwrap();
    let first = read(&out.join(SINGLE));
    refused(&out, false, "--overwrite");
    merge(&out, true).unwrap();
    assert_eq!(read(&out.join(SINGLE)), first);
    // What a merge does not write, it does not delete.
    for place in ["notes", "deep/er/notes"] {
        let place = out.join(place);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(&place, "x").unwrap();
        refused(&out, true, "notes\", which this merge does not write");
        std::fs::remove_file(&place).unwrap();
    }
    merge(&out, true).unwrap();
    assert_eq!(
        names(&out),
        ["config.json", SINGLE].map(str::to_owned).into()
    );
    refused(&from, true, "the base itself");
    refused(&from.join("merged"), false, "inside it");
    refused(dir.path(), true, "not replaced");
    refused(&dir.path().join(".."), true, "no name");
    std::fs::write(dir.path().join("file"), "x").unwrap();
    refused(&dir.path().join("file"), true, "no folder");
    let before = names(dir.path());
    assert_eq!(before, ["base", "file", "out"].map(str::to_owned).into());
    #[cfg(unix)]
    {
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&out, &link).unwrap();
        refused(&link, true, "symbolic link");
        std::fs::remove_file(out.join("config.json")).unwrap();
        std::os::unix::fs::symlink(&from, out.join("inside")).unwrap();
        refused(&out, true, "not replaced");
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(&out), mode(&out.join(SINGLE))),
            (mode(&from), mode(&from.join(SINGLE)))
        );
    }
}

/// PEFT's own merged weight, of a layer read from the directory that PEFT wrote.
#[test]
fn fixture_merged_weight() {
    let Some(folder) = fixtures::folder("peft_linear") else {
        return;
    };
    for case in fixtures::entries(&folder, "") {
        let record = fixtures::Tensors::read(&case.join("io.safetensors"));
        for form in ["adapter_full", "adapter_topk"] {
            let opened = PeftDirectory::open(&case.join(form)).unwrap();
            let adapter = opened.bind(opened.sites()).unwrap();
            let PeftMethod::VbLora(_) = opened.config().method else {
                panic!("{}", case.display())
            };
            let narrow = |name: &str| record.get(name).iter().map(|&v| v as f32).collect();
            let shape = record.shape("base_weight").to_vec();
            let weight = (
                format!("{}.weight", opened.sites()[0].name),
                Dtype::F32,
                shape,
                narrow("base_weight"),
            );
            let dir = on_disk(std::slice::from_ref(&weight));
            merged(dir.path(), &adapter).unwrap();
            let found = read(&dir.path().join("out").join(SINGLE))
                .remove(&weight.0)
                .unwrap();
            let found: Vec<_> = to_f32(Dtype::F32, &found.2).unwrap();
            let found: Vec<_> = found.into_iter().map(f64::from).collect();
            let expected = record.get("merged_weight_topk");
            crate::support::assert_close(form, &found, expected, 1e-6);
        }
    }
}

/// Models of five architectures, GPT-2's transposed weights among them: what is added to the first weight is PEFT's update of it.
#[test]
fn fixture_models_get_the_update_that_peft_computes() {
    let Some(folder) = fixtures::folder("models") else {
        return;
    };
    for family in fixtures::entries(&folder, "") {
        let base = family.join("base");
        let before = read(&base.join(SINGLE));
        for targets in ["qv", "all_linear"] {
            let case = family.join(targets);
            let opened = PeftDirectory::open(&case.join("adapter_full")).unwrap();
            let adapter = opened.bind(opened.sites()).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("out");
            let report = merge(&base, &adapter, &out, false).unwrap();
            let io = fixtures::json(&case.join("io.json"));
            assert_eq!(report.updated, io["modules"].as_object().unwrap().len());
            let module = io["first_module"].as_str().unwrap();
            let module = module.strip_prefix("base_model.model.").unwrap();
            let values = |tensors: &BTreeMap<_, (Dtype, Vec<usize>, Vec<u8>)>| {
                let (dtype, _, bytes) = &tensors[&format!("{module}.weight")];
                to_f32(*dtype, bytes).unwrap()
            };
            let after = read(&out.join(SINGLE));
            let added = values(&after).into_iter().zip(values(&before));
            let added: Vec<_> = added.map(|(a, b)| f64::from(a) - f64::from(b)).collect();
            let record = fixtures::Tensors::read(&case.join("io.safetensors"));
            let what = case.display().to_string();
            crate::support::assert_close(&what, &added, record.get("delta_first"), 1e-5);
        }
    }
}

/// A model of one square map with a word table, its head and a tensor behind them, in two files.
fn with_ends(dir: &Path, config: &serde_json::Value, head: bool) {
    let mut tensors = vec![
        tensor("model.embed_tokens.weight", Dtype::BF16, &[5, 8]),
        tensor("model.layers.0.c_proj.weight", Dtype::F32, &[8, 8]),
        tensor("model.norm.weight", Dtype::BF16, &[8]),
    ];
    if head {
        tensors.push(tensor("lm_head.weight", Dtype::BF16, &[5, 8]));
    }
    let base = dir.join("base");
    std::fs::create_dir_all(&base).unwrap();
    std::fs::write(base.join("config.json"), config.to_string()).unwrap();
    let mut map = BTreeMap::new();
    for (file, tensors) in [
        ("model-1.safetensors", &tensors[..1]),
        ("model-2.safetensors", &tensors[1..]),
    ] {
        write(&base.join(file), tensors);
        map.extend(tensors.iter().map(|t| (t.0.clone(), file)));
    }
    let total: usize = tensors.iter().map(|t| t.3.len() * t.1.bitsize() / 8).sum();
    let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": map});
    std::fs::write(base.join(INDEX), index.to_string()).unwrap();
}

fn on(sites: &[Site]) -> PeftAdapter {
    let plan = Targets::all_linear().select(sites).unwrap();
    let config = LoraConfig {
        rank: 2,
        alpha: 4.0,
        ..LoraConfig::default()
    };
    let draw = |dims: Vec<usize>| dims.into_iter().map(|dim| Key::new(9).normal(2 * dim, 1.0));
    let a = draw(sites.iter().map(|site| site.d_in).collect()).collect();
    let b = draw(sites.iter().map(|site| site.d_out).collect())
        .map(|b| b.iter().map(|v| v + 0.5).collect());
    let lora = HostLora::new(config.check(&plan).unwrap(), a, b.collect()).unwrap();
    PeftAdapter::new(HostAdapter::Lora(lora))
}

fn square() -> Site {
    Site::new("model.layers.0.c_proj", 8, 8)
}

fn lora_of(adapter: &PeftAdapter) -> &HostLora {
    match &adapter.adapter {
        HostAdapter::Lora(lora) => lora,
        _ => panic!("LoRA"),
    }
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// All tensors of the output, as its index has them.
fn read_all(dir: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let index = json(&dir.join(INDEX));
    let mut all = BTreeMap::new();
    for (name, file) in index["weight_map"].as_object().unwrap() {
        let mut found = read(&dir.join(file.as_str().unwrap()));
        all.insert(name.clone(), found.remove(name).unwrap());
    }
    let total: usize = all.values().map(|(_, _, bytes)| bytes.len()).sum();
    assert_eq!(index["metadata"]["total_size"], total);
    all
}

#[test]
fn how_weights_are_stored_is_the_bases_word() {
    for (kind, said, is_transposed) in [
        ("llama", true, false),
        ("llama", false, false),
        ("of tomorrow", true, false),
        ("gpt2", false, true),
        ("gpt2", true, true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        with_ends(dir.path(), &serde_json::json!({"model_type": kind}), true);
        let adapter = PeftAdapter {
            fan_in_fan_out: said,
            ..on(&[square()])
        };
        let report = merged(dir.path(), &adapter).unwrap();
        assert_eq!(
            report.notes.len(),
            usize::from(said != is_transposed),
            "{kind}"
        );
        let weight = tensor("model.layers.0.c_proj.weight", Dtype::F32, &[8, 8]);
        let update = update(lora_of(&adapter), 0);
        let update = match is_transposed {
            true => update,
            false => update.transposed(),
        };
        let found = &read_all(&dir.path().join("out"))[&weight.0];
        assert_sum(kind, found, &weight, &update);
    }
}

#[test]
fn an_adapters_vocabulary_goes_into_weights_index_and_configuration() {
    let config = serde_json::json!({"model_type": "llama", "vocab_size": 5, "rms_norm_eps": 1e-5});
    let table = |rows: usize, name: &str| HostTensor {
        shape: vec![rows, 8],
        values: Key::new(3).name(name).normal(rows * 8, 1.0),
    };
    let [words, head] = ["model.embed_tokens.weight", "lm_head.weight"];
    let dir = tempfile::tempdir().unwrap();
    with_ends(dir.path(), &config, true);
    let adapter = PeftAdapter {
        saved: vec![
            (words.into(), table(7, words)),
            (head.into(), table(7, head)),
        ],
        ..on(&[square()])
    };
    merged(dir.path(), &adapter).unwrap();
    let out = dir.path().join("out");
    let found = read_all(&out);
    for (name, table) in &adapter.saved {
        let bytes: Vec<u8> = table
            .values
            .iter()
            .flat_map(|&v| rounded(Dtype::BF16, v))
            .collect();
        assert_eq!(found[name], (Dtype::BF16, vec![7, 8], bytes), "{name}");
    }
    let after = json(&out.join("config.json"));
    assert_eq!(
        (&after["vocab_size"], &after["rms_norm_eps"]),
        (&7.into(), &1e-5.into())
    );
    assert!(after.get("tie_word_embeddings").is_none());
    // One of the two alone would leave a model of two sizes.
    let alone = PeftAdapter {
        saved: adapter.saved[..1].to_vec(),
        ..adapter
    };
    std::fs::remove_dir_all(&out).unwrap();
    let error = merged(dir.path(), &alone).unwrap_err().to_string();
    assert!(error.contains("\"lm_head.weight\" has 5 rows"), "{error}");
    assert!(!out.exists());
}

/// The ends of a tied model, as PEFT runs it: recorded with PEFT 0.21.2 in words, which end changes.
#[test]
fn a_tied_head_is_untied_where_one_end_changes_alone() {
    let config = serde_json::json!({"model_type": "llama", "tie_word_embeddings": true});
    let names = ["model.embed_tokens.weight", "lm_head.weight"];
    let new = HostTensor {
        shape: vec![5, 8],
        values: Key::new(4).normal(40, 1.0),
    };
    let new_bytes: Vec<u8> = new
        .values
        .iter()
        .flat_map(|&v| rounded(Dtype::BF16, v))
        .collect();
    let old = tensor(names[0], Dtype::BF16, &[5, 8]);
    let old_bytes: Vec<u8> = old
        .3
        .iter()
        .flat_map(|&v| rounded(Dtype::BF16, v))
        .collect();
    for (saved, modules, expected) in [
        (names[0], vec![], [Some(&new_bytes), None]),
        (names[1], vec![], [Some(&new_bytes), None]),
        (
            names[0],
            vec!["embed_tokens"],
            [Some(&new_bytes), Some(&old_bytes)],
        ),
        (
            names[1],
            vec!["lm_head"],
            [Some(&old_bytes), Some(&new_bytes)],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        with_ends(dir.path(), &config, false);
        let adapter = PeftAdapter {
            saved: vec![(saved.into(), new.clone())],
            modules_to_save: modules.iter().map(|name| (*name).to_owned()).collect(),
            ..on(&[square()])
        };
        merged(dir.path(), &adapter).unwrap();
        let out = dir.path().join("out");
        let found = read_all(&out);
        let found = names.map(|name| found.get(name).map(|(_, _, bytes)| bytes));
        assert_eq!(found, expected, "{saved} {modules:?}");
        let is_tied = json(&out.join("config.json"))["tie_word_embeddings"] == true;
        assert_eq!(is_tied, expected[1].is_none());
    }
    // An update of the head leaves the word table as it is.
    let dir = tempfile::tempdir().unwrap();
    with_ends(dir.path(), &config, false);
    let adapter = on(&[square(), Site::new("lm_head", 8, 5)]);
    merged(dir.path(), &adapter).unwrap();
    let found = read_all(&dir.path().join("out"));
    assert_eq!(found[names[0]].2, old_bytes);
    let update = update(lora_of(&adapter), 1).transposed();
    assert_sum("head", &found[names[1]], &old, &update);
}

/// PEFT loads both into one table, the head's last.
#[test]
fn two_values_of_one_table_that_nobody_asked_for_are_refused() {
    let config = serde_json::json!({"model_type": "llama", "tie_word_embeddings": true});
    let names = ["model.embed_tokens.weight", "lm_head.weight"];
    let table = |seed| HostTensor {
        shape: vec![5, 8],
        values: Key::new(seed).normal(40, 1.0),
    };
    for (seeds, modules, is_refused) in [
        ([4, 4], vec![], false),
        ([4, 5], vec![], true),
        ([4, 5], vec!["lm_head"], false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        with_ends(dir.path(), &config, false);
        let saved = names.iter().zip(seeds);
        let adapter = PeftAdapter {
            saved: saved
                .map(|(name, seed)| ((*name).into(), table(seed)))
                .collect(),
            modules_to_save: modules.into_iter().map(str::to_owned).collect(),
            ..on(&[square()])
        };
        let error = merged(dir.path(), &adapter).err();
        let error = error.map(|error| error.to_string());
        assert_eq!(error.is_some(), is_refused, "{error:?}");
        assert!(error.is_none_or(|error| error.contains("one table")));
    }
}

/// Of two merges onto one new directory, which is not there when they begin.
#[test]
fn one_of_two_merges_makes_the_directory() {
    let dir = on_disk(&base(Dtype::F32));
    let out = dir.path().join("out");
    let merges: Vec<_> = std::thread::scope(|threads| {
        let of = |_| threads.spawn(|| merge(&dir.path().join("base"), &adapter(), &out, false));
        let started: Vec<_> = (0..4).map(of).collect();
        let ended = started.into_iter().map(|thread| thread.join().unwrap());
        ended.collect()
    });
    assert_eq!(merges.iter().filter(|merged| merged.is_ok()).count(), 1);
    for error in merges.into_iter().filter_map(Result::err) {
        assert!(error.to_string().contains("already"), "{error}");
    }
    let left = std::fs::read_dir(dir.path()).unwrap();
    assert_eq!(left.count(), 2, "base and out, nothing beside them");
}

#[cfg(unix)]
#[test]
fn contents_are_copied_never_links_and_none_from_elsewhere() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("secret"), "mine").unwrap();
    // A snapshot in a cache of the hub.
    for folder in [
        "blobs",
        "snapshots/1/1_Pooling",
        "snapshots/1/2_Dense",
        "snapshots/1/onnx",
    ] {
        std::fs::create_dir_all(at(folder)).unwrap();
    }
    let base = at("snapshots/1");
    write(&at("blobs/w"), &self::base(Dtype::F32));
    std::fs::write(at("blobs/t"), "words").unwrap();
    symlink("../../blobs/w", base.join(SINGLE)).unwrap();
    symlink("../../blobs/t", base.join("tokenizer.json")).unwrap();
    symlink("../../../blobs/t", base.join("1_Pooling/config.json")).unwrap();
    let modules = r#"[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]"#;
    for (file, text) in [
        ("modules.json", modules),
        ("2_Dense/model.safetensors", "its own"),
        ("onnx/model.onnx", "the base's"),
    ] {
        std::fs::write(base.join(file), text).unwrap();
    }
    let out = at("out");
    let report = merge(&base, &adapter(), &out, false).unwrap();
    assert_eq!(report.left_out, ["onnx"]);
    for (file, text) in [
        ("tokenizer.json", "words"),
        ("1_Pooling/config.json", "words"),
        ("2_Dense/model.safetensors", "its own"),
        ("modules.json", modules),
    ] {
        let found = out.join(file);
        assert!(std::fs::symlink_metadata(&found).unwrap().is_file());
        assert_eq!(std::fs::read_to_string(found).unwrap(), text, "{file}");
    }
    // Itself again, folders and all.
    merge(&base, &adapter(), &out, true).unwrap();
    std::fs::remove_dir_all(&out).unwrap();
    for (target, reason) in [
        ("../../secret", "leads out of the base"),
        ("1_Pooling", "no file"),
        ("../../blobs", "no file"),
        ("nowhere", "No such file"),
    ] {
        let link = base.join("notes.txt");
        symlink(target, &link).unwrap();
        let error = merge(&base, &adapter(), &out, false)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("notes.txt") && error.contains(reason),
            "{error}"
        );
        assert!(!out.exists());
        std::fs::remove_file(link).unwrap();
    }
}

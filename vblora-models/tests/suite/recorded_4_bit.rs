//! A Llama in 4 bits as transformers and bitsandbytes save it, in every way found (shared/fixtures/bnb_nf4_llama, where there).

use std::path::Path;

use burn::{backend::Autodiff, module::AutodiffModule, tensor::Tensor};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use vblora::{
    BaseWeights, Composition, Factors, FrozenWeight,
    backend::VbLoraBackend,
    nf4::{Nf4Host, Nf4Scales},
    storage::{HostAdapter, HostVbLora, merge, peft::PeftDirectory},
};
use vblora_models::{
    BaseDtype, Checkpoint, DecodedDtype, DecoderConfig, ModelFiles, Nf4Settings,
    decoder::{CausalBatch, CausalInput, CausalLm, Side},
    dequantize, quantize,
};

use super::recorded_decoders::{Case, assert_within, logits_of, nll};
use crate::support::{
    assert_close,
    fixtures::{Tensors, entries, folder, rank_first},
    gradients, values,
};

type Ad<B> = Autodiff<B>;

fn open(folder: &Path) -> ModelFiles {
    ModelFiles::open(folder).unwrap()
}

/// Ends of the names of folders that are no models.
const OTHERS: [&str; 2] = ["dense", "adapter_full"];

/// Every saved form: logits, loss and gradients are those of the dequantised weights.
pub(crate) fn fixture_bnb_llama<B: VbLoraBackend>(device: &B::Device) {
    let Some(folder) = folder("bnb_nf4_llama") else {
        return;
    };
    let mut read = 0;
    for path in entries(&folder, "")
        .into_iter()
        .filter(|path| path.is_dir())
    {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if OTHERS.contains(&&*name) {
            continue;
        }
        if let Err(error) = DecoderConfig::from_files(&open(&path)) {
            let text = error.to_string();
            assert!(
                name == "int8" && text.contains("LLM.int8()"),
                "{name}: {text}"
            );
            continue;
        }
        let own = folder.join(format!("{name}.expected.safetensors"));
        let double = folder.join("double.expected.safetensors");
        let recorded = if own.exists() { &own } else { &double };
        println!("{name}");
        check::<B>(&folder, &path, recorded, device);
        read += 1;
    }
    assert!(read >= 6, "{read} forms");
}

fn check<B: VbLoraBackend>(folder: &Path, path: &Path, recorded: &Path, device: &B::Device) {
    let double = Tensors::read(&folder.join("double.expected.safetensors"));
    let (model, report) = CausalLm::<Ad<B>>::load(&open(path), device).unwrap();
    assert_eq!(report.values, model.config().parameters());
    assert!(matches!(
        model.config().base_dtype,
        BaseDtype::Stored4Bit(_)
    ));
    // Ids, mask and labels are in the one file, and some logits in others.
    let case = Case::<B> {
        path: path.to_owned(),
        io: Value::Null,
        recorded: double,
        model,
    };
    let expected = Tensors::read(recorded);
    let model = case.model.valid();
    let batch = case.batch();
    let compare = |name: &str, factors: &Factors<B>| {
        let input = CausalInput::new(&batch, model.config(), device).unwrap();
        let found = logits_of(&model, model.forward(&input, factors));
        let of_tokens = case.of_tokens(&values(found.clone()));
        let expected = case.of_tokens(expected.get(name));
        assert_within(name, &of_tokens, &expected, 1e-4);
        found
    };
    compare("base_logits", &Factors::none());
    let adapter = PeftDirectory::open(&folder.join("adapter_full")).unwrap();
    let adapter = adapter.bind(&model.sites()).unwrap();
    let factors = adapter.adapter.factors::<B>(device);
    if expected.contains("logits") {
        let logits = compare("logits", &factors);
        let loss = values(nll(logits, &case.labelled()));
        assert_within("loss", &loss, expected.get("loss"), 1e-5);
    }
    let is_double = recorded.ends_with("double.expected.safetensors");
    if is_double {
        let HostAdapter::VbLora(ref host) = adapter.adapter else {
            panic!("not all logits")
        };
        check_weights(&case, path);
        check_gradients(&case, host, device);
    }
    // On disk no update can be added to 4 bits.
    let out = tempfile::tempdir().unwrap();
    let error = merge(path, &adapter, &out.path().join("merged"), false).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("4 bits") && error.contains("vblora dequantize"),
        "{error}"
    );
}

/// The scales and the values of the file, to the bit.
fn check_weights<B: VbLoraBackend>(case: &Case<B>, path: &Path) {
    let mut checkpoint = Checkpoint::open(&open(path)).unwrap();
    let [mut scales, mut weights] = [0, 0];
    for name in case.recorded.names() {
        let found: Vec<f64> = if let Some(site) = name.strip_suffix(".absmax") {
            let weight = format!("{site}.weight");
            let site = case.model.sites().into_iter().find(|s| s.name == *site);
            let site = site.expect("a site");
            let host = checkpoint.nf4(&weight, &[site.d_out, site.d_in]).unwrap();
            scales += 1;
            host.absmax().into_iter().map(f64::from).collect()
        } else if let Some(site) = name.strip_suffix(".dequant_f32") {
            let map = case.model.layers.iter().flat_map(|layer| {
                let attention = &layer.attention;
                attention
                    .qkv
                    .iter()
                    .chain(&layer.mlp_input)
                    .chain([&layer.mlp_output])
            });
            let map = map.into_iter().find(|map| map.site().name == *site);
            let map = map.expect("a map");
            assert!(matches!(map.weight, FrozenWeight::Nf4(_)));
            weights += 1;
            values(map.weight.dense().transpose().inner())
        } else {
            continue;
        };
        assert_eq!(found, case.recorded.get(name), "{name}");
    }
    assert_eq!((scales, weights), (14, 2));
}

/// One training pass, and one that runs every block twice.
fn check_gradients<B: VbLoraBackend>(case: &Case<B>, host: &HostVbLora, device: &B::Device) {
    let (bank, logits) = (host.bank().to_vec(), host.logits().to_vec());
    let adapter = host.settings().load::<Ad<B>>(bank, logits, device).unwrap();
    let (model, at) = (&case.model, case.labelled());
    let input = CausalInput::new(&case.batch(), model.config(), device).unwrap();
    let loss = |hidden: Tensor<Ad<B>, 3>| nll(logits_of(model, hidden), &at);
    for recomputes in [false, true] {
        let mut step = Composition::new(&adapter);
        let factors = step.factors().clone();
        let found = match recomputes {
            true => model.recompute(&input, &factors, loss, |grads| step.collect(grads)),
            false => {
                let found = loss(model.forward(&input, &factors));
                step.collect(&mut found.backward());
                found.inner()
            }
        };
        assert_within("loss", &values(found), case.recorded.get("loss"), 1e-5);
        let grads = step.push_back().unwrap();
        let bank = values(adapter.bank.val().grad(&grads).unwrap());
        let logits = values(adapter.logits.val().grad(&grads).unwrap());
        check_slabs(&case.recorded, host, &bank, &logits);
    }
}

fn check_slabs(recorded: &Tensors, host: &HostVbLora, bank: &[f64], logits: &[f64]) {
    let names: Vec<_> = recorded
        .names()
        .filter(|name| name.starts_with("grad."))
        .collect();
    let of_bank = names
        .iter()
        .find(|name| name.ends_with("vblora_vector_bank.default"));
    let of_bank = recorded.get(of_bank.expect("the bank's gradient"));
    assert_close("gradient of the bank", bank, of_bank, gradients(1e-4));
    let (mut start, mut compared) = (0, 1);
    for site in host.settings().plan().sites() {
        for side in ["A", "B"] {
            let end = format!(".{}.vblora_logits_{side}.default", site.name);
            let name = names
                .iter()
                .find(|name| name.ends_with(&end))
                .expect("a gradient");
            let expected = match side {
                "A" => recorded.get(name).to_vec(),
                _ => rank_first(recorded.get(name), recorded.shape(name)),
            };
            let found = &logits[start..][..expected.len()];
            assert_close(name, found, &expected, gradients(1e-4));
            (start, compared) = (start + expected.len(), compared + 1);
        }
    }
    assert_eq!((start, compared), (logits.len(), names.len()));
}

/// The dense model, quantised while it is loaded, has the packed bytes and scales of the file that the package wrote.
pub(crate) fn fixture_quantised_while_loading<B: VbLoraBackend>(device: &B::Device) {
    let Some(folder) = folder("bnb_nf4_llama") else {
        return;
    };
    let dense = open(&folder.join("dense"));
    let [mut floats, mut stored] =
        ["dense", "double"].map(|name| Checkpoint::open(&open(&folder.join(name))).unwrap());
    let mut config = DecoderConfig::from_files(&dense).unwrap();
    let settings = Nf4Settings {
        double_quant: false,
        ..Nf4Settings::default()
    };
    config.base_dtype = BaseDtype::Nf4(settings);
    let (model, _) = CausalLm::<B>::load_with(config, &dense, device).unwrap();
    for site in model.sites() {
        let weight = format!("{}.weight", site.name);
        let shape = [site.d_out, site.d_in];
        let values = floats.tensor_shaped(&weight, &shape).unwrap().values;
        let ours = Nf4Host::quantise(&values, shape, false);
        let theirs = stored.nf4(&weight, &shape).unwrap();
        assert_eq!(ours.packed(), theirs.packed(), "{weight}");
        let Nf4Scales::Double { offset, .. } = theirs.scales() else {
            panic!("{weight}: one level")
        };
        let double = Nf4Host::quantise(&values, shape, true);
        let Nf4Scales::Double { offset: own, .. } = double.scales() else {
            panic!("one level")
        };
        assert!(
            (own - offset).abs() <= 1e-6 * offset.abs(),
            "{weight}: {own} {offset}"
        );
        // LoRA-XS and merging see the values.
        let turned = model.weight(&site.name).unwrap();
        let decoded = ours.dequantise();
        for (i, row) in turned.chunks(site.d_out).enumerate() {
            for (o, &value) in row.iter().enumerate() {
                assert_eq!(value, decoded[o * site.d_in + i], "{weight}");
            }
        }
    }
}

fn tensors(folder: &Path) -> Tensors {
    Tensors::read(&folder.join("model.safetensors"))
}

/// A dense directory becomes the package's bytes, and one in 4 bits the values that it decodes to.
pub(crate) fn fixture_converted_directories<B: VbLoraBackend>(device: &B::Device) {
    let Some(folder) = folder("bnb_nf4_llama") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let [ours, floats, again] = ["nf4", "floats", "again"].map(|name| dir.path().join(name));
    let (dense, double) = (folder.join("dense"), folder.join("double"));
    let done = quantize(&open(&dense), &ours, true, &[]).unwrap();
    assert_eq!(done.maps, 14);
    let (found, expected) = (tensors(&ours), tensors(&double));
    let names = |of: &Tensors| of.names().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    for name in found.names() {
        // The package's compiled library is off by a step in some codes, and its sum may be rounded in another order.
        let is_second_level = [".absmax", ".nested_absmax", "__nf4"];
        if !is_second_level.iter().any(|end| name.ends_with(end)) {
            assert_eq!(found.get(name), expected.get(name), "{name}");
        }
    }
    // Decoded in f32, the file holds the same values to the bit. A GPU's product of other kernels may be rounded in another order.
    dequantize(&open(&ours), &floats, Some(DecodedDtype::F32)).unwrap();
    let [(packed, states), (decoded, expected)] = [&ours, &floats].map(|path| {
        let (model, _) = CausalLm::<B>::load(&open(path), device).unwrap();
        let batch = CausalBatch::pad(&[&[1, 5, 9, 3], &[7, 2]], 0, Side::Right);
        let input = CausalInput::new(&batch, model.config(), device).unwrap();
        let states = values(model.forward(&input, &Factors::none()));
        (model, states)
    });
    for site in packed.sites() {
        let [one, other] = [&packed, &decoded].map(|model| model.weight(&site.name).unwrap());
        assert_eq!(one, other, "{}", site.name);
    }
    assert_close("hidden states", &states, &expected, 1e-5);
    // In the type that the maps had, and with shards.
    dequantize(&open(&folder.join("sharded")), &again, None).unwrap();
    let [one, other] = [&again, &dense].map(|path| Checkpoint::open(&open(path)).unwrap());
    let listed = |of: &Checkpoint| of.names().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(listed(&one), listed(&other));
    for name in one.names() {
        assert_eq!(one.shape(name), other.shape(name), "{name}");
    }
    assert!(!one.has_4_bit() && again.join("model.safetensors.index.json").exists());
    // What cannot be done is said, and nothing is left.
    let refused = dir.path().join("refused");
    for (error, part) in [
        (
            quantize(&open(&double), &refused, true, &[]),
            "in 4 bits already",
        ),
        (
            dequantize(&open(&dense), &refused, None),
            "no tensor is in 4 bits",
        ),
        (
            quantize(&open(&dense), &refused, true, &["proj".into()]),
            "the end of a map's name",
        ),
        (quantize(&open(&dense), &ours, true, &[]), "exists"),
    ] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert!(!refused.exists());
    // A file in 4 bits contradicts half precision.
    let files = open(&double);
    let config = DecoderConfig::from_files(&files).unwrap();
    for (asked, is_right) in [("f32", false), ("bf16", false), ("nf4", true)] {
        let asked: BaseDtype = asked.parse().unwrap();
        assert_eq!(
            asked.settle_named(config.base_dtype).is_ok(),
            is_right,
            "{asked}"
        );
    }
}

/// Each part of a weight in 4 bits, broken: an error that names it.
pub(crate) fn fixture_broken_parts_are_named<B: VbLoraBackend>(device: &B::Device) {
    let Some(folder) = folder("bnb_nf4_llama") else {
        return;
    };
    let bytes = std::fs::read(folder.join("double/model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let config = std::fs::read(folder.join("double/config.json")).unwrap();
    let weight = "model.layers.0.mlp.up_proj.weight";
    let state = format!("{weight}.quant_state.bitsandbytes__nf4");
    let text = |from: &str, to: &str| {
        let text = String::from_utf8(file.tensor(&state).unwrap().data().to_vec()).unwrap();
        assert!(text.contains(from), "{text}");
        text.replace(from, to).into_bytes()
    };
    let nan = |len: usize| {
        let mut values = vec![0.5_f32; len];
        values[len - 1] = f32::NAN;
        values
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let of = |part: &str| format!("{weight}{part}");
    let deep = format!("{{\"x\":{}", "[".repeat(4000)).into_bytes();
    let cases: Vec<(String, Dtype, Vec<u8>, &str)> = vec![
        (
            state.clone(),
            Dtype::U8,
            text("[320, 64]", "[64, 320]"),
            "[64, 320]",
        ),
        (
            state.clone(),
            Dtype::U8,
            text("[320, 64]", "[320, 64, 1]"),
            "[320, 64, 1]",
        ),
        (
            state.clone(),
            Dtype::U8,
            text("64, \"dtype", "48, \"dtype"),
            "48",
        ),
        (
            state.clone(),
            Dtype::U8,
            text("64, \"dtype", "0, \"dtype"),
            "blocks of 0",
        ),
        (
            state.clone(),
            Dtype::U8,
            text(": 256", ": 128"),
            "nested_blocksize",
        ),
        (
            state.clone(),
            Dtype::U8,
            text("\"quant_type\": \"nf4\"", "\"quant_type\": \"int8\""),
            "int8",
        ),
        (state.clone(), Dtype::U8, deep, "EOF"),
        (
            state.clone(),
            Dtype::U8,
            vec![b' '; 5000],
            "at most 4096 bytes",
        ),
        (state.clone(), Dtype::U8, b"{".to_vec(), "EOF"),
        (of(".quant_map"), Dtype::F32, nan(16), "not finite"),
        (of(".quant_map"), Dtype::F32, vec![0; 60], "shape [16]"),
        (of(".nested_quant_map"), Dtype::F32, nan(256), "not finite"),
        (
            of(".nested_quant_map"),
            Dtype::F32,
            vec![0; 4],
            "shape [256]",
        ),
        (of(".nested_absmax"), Dtype::F32, nan(2), "not finite"),
        (of(".nested_absmax"), Dtype::F32, vec![0; 12], "shape [2]"),
        (of(".absmax"), Dtype::U8, vec![0; 319], "shape [320]"),
        (of(".absmax"), Dtype::F32, vec![0; 1280], "expected U8"),
        (
            weight.to_owned(),
            Dtype::U8,
            vec![0; 10239],
            "needs 10240 bytes",
        ),
    ];
    for (broken, dtype, data, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let shape = vec![data.len() / (dtype.bitsize() / 8)];
        let own = TensorView::new(dtype, shape, &data).unwrap();
        let views = file
            .tensors()
            .into_iter()
            .map(|(name, view)| match name == broken {
                true => (name, own.clone()),
                false => (name, view),
            });
        let whole = safetensors::serialize(views, None).unwrap();
        std::fs::write(dir.path().join("model.safetensors"), whole).unwrap();
        std::fs::write(dir.path().join("config.json"), &config).unwrap();
        let error = CausalLm::<B>::load(&open(dir.path()), device)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(expected) && error.contains(weight),
            "{broken} {expected}: {error}"
        );
    }
    // A part that is not there.
    let dir = tempfile::tempdir().unwrap();
    let views = file
        .tensors()
        .into_iter()
        .filter(|(name, _)| *name != of(".quant_map"));
    let whole = safetensors::serialize(views, None).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), whole).unwrap();
    std::fs::write(dir.path().join("config.json"), &config).unwrap();
    let error = CausalLm::<B>::load(&open(dir.path()), device)
        .unwrap_err()
        .to_string();
    assert!(error.contains(&of(".quant_map")), "{error}");
}

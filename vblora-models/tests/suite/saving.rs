//! Models on disk: what is saved loads as it was, in Hugging Face's layout, and what does not fit is refused by name.

use std::path::Path;

use half::f16;
use vblora::{Factors, backend::VbLoraBackend};
use vblora_models::{
    Encoder, EncoderConfig, EncoderInput, Error, Family, HostTensor, LoadReport, ModelFiles,
    Result, SaveDtype, save_tensors,
};

use super::tiny::{FAMILIES, PLAIN, batch, model, texts};
use crate::support::{assert_close, values};

type Named = Vec<(String, HostTensor)>;

fn zeros(name: &str, shape: &[usize]) -> (String, HostTensor) {
    (
        name.into(),
        HostTensor {
            shape: shape.to_vec(),
            values: vec![0.0; shape.iter().product()],
        },
    )
}

fn save(folder: &Path, config: &str, tensors: &Named, dtype: SaveDtype) {
    std::fs::write(folder.join("config.json"), config).unwrap();
    save_tensors(&folder.join("model.safetensors"), tensors, dtype).unwrap();
}

fn load<B: VbLoraBackend>(folder: &Path, device: &B::Device) -> Result<(Encoder<B>, LoadReport)> {
    Encoder::load(&ModelFiles::open(folder).unwrap(), device)
}

fn output<B: VbLoraBackend>(model: &Encoder<B>, device: &B::Device) -> Vec<f64> {
    let config = model.config();
    values(model.forward(
        &EncoderInput::new(&batch(&texts(config.family), config), config, device),
        &Factors::none(),
    ))
}

/// The prefixes under which files hold a family's encoder, and those of its other tensors that nothing reads.
fn stored(family: Family) -> (&'static [&'static str], &'static [&'static str]) {
    let unread = &["classifier.bias", "embeddings.position_ids"];
    match family {
        Family::Roberta | Family::XlmRoberta | Family::Bert => (
            &["roberta.", "bert.", ""],
            &[
                "classifier.bias",
                "embeddings.position_ids",
                "pooler.dense.weight",
            ],
        ),
        Family::DistilBert => (&["distilbert.", ""], unread),
        Family::Electra => (&["electra.", ""], unread),
        Family::DebertaV2 => (&["deberta.", ""], unread),
        Family::ModernBert => (&["model.", ""], &["classifier.bias", "decoder.bias"]),
    }
}

/// The tensor's name behind another prefix than its own; the head that the base holds has none.
fn moved_to(prefix: &str, name: &str, family: Family) -> String {
    let own = match family {
        Family::DebertaV2 => "deberta.",
        Family::ModernBert => "model.",
        _ => return format!("{prefix}{name}"),
    };
    match name.strip_prefix(own) {
        Some(bare) => format!("{prefix}{bare}"),
        None => name.to_owned(),
    }
}

/// Values of the head's parts that the base holds.
fn head_values(config: &EncoderConfig) -> usize {
    let d = config.hidden_size;
    match config.family {
        Family::DebertaV2 => (d + 1) * d,
        Family::ModernBert => d * d + d,
        _ => 0,
    }
}

pub(crate) fn saved_models_load_as_they_were<B: VbLoraBackend>(device: &B::Device) {
    for family in FAMILIES {
        let saved = model::<B>(family, device);
        let expected = output(&saved, device);
        let (prefixes, unread) = stored(family);
        for &prefix in prefixes {
            let folder = tempfile::tempdir().unwrap();
            let mut tensors: Named = saved
                .tensors()
                .into_iter()
                .map(|(name, t)| (moved_to(prefix, &name, family), t))
                .collect();
            let count = tensors.len();
            if PLAIN.contains(&family) {
                assert_eq!(count, 5 + 16 * 2);
            }
            assert_eq!(
                tensors.iter().map(|(_, t)| t.values.len()).sum::<usize>(),
                saved.config().parameters() + head_values(saved.config())
            );
            // Further tensors of checkpoints.
            let others = unread.iter().map(|name| match *name {
                "classifier.bias" | "decoder.bias" => (*name).to_owned(),
                name => format!("{prefix}{name}"),
            });
            tensors.extend(others.map(|name| zeros(&name, &[2])));
            save(
                folder.path(),
                &saved.config().to_json(),
                &tensors,
                SaveDtype::F32,
            );
            let (loaded, report) = load::<B>(folder.path(), device).unwrap();
            assert_eq!(
                (report.prefix.as_str(), report.tensors, report.ignored.len()),
                (prefix, count, unread.len())
            );
            assert_eq!(loaded.config(), saved.config());
            assert_eq!(
                loaded.tensors(),
                saved.tensors(),
                "{family:?}, prefix {prefix:?}"
            );
            let found = output(&loaded, device);
            // Equal weights give equal outputs, but for GPUs, which may choose another kernel the next time.
            let tolerance = if B::name(device).contains("wgpu") || B::name(device).contains("cuda")
            {
                1e-6
            } else {
                0.0
            };
            assert_close(
                &format!("{family:?}, prefix {prefix:?}"),
                &found,
                &expected,
                tolerance,
            );
        }
    }
}

pub(crate) fn half_precision_rounds_once<B: VbLoraBackend>(device: &B::Device) {
    for family in FAMILIES {
        let saved = model::<B>(family, device);
        let folder = tempfile::tempdir().unwrap();
        save(
            folder.path(),
            &saved.config().to_json(),
            &saved.tensors(),
            SaveDtype::F16,
        );
        let (loaded, _) = load::<B>(folder.path(), device).unwrap();
        for ((name, found), (_, expected)) in loaded.tensors().iter().zip(saved.tensors()) {
            let rounded: Vec<f32> = expected
                .values
                .iter()
                .map(|&v| f16::from_f32(v).to_f32())
                .collect();
            assert_eq!(found.values, rounded, "{name}");
        }
        let (found, expected) = (output(&loaded, device), output(&saved, device));
        assert_close(&format!("{family:?}"), &found, &expected, 5e-3);
        assert_ne!(found, expected);
    }
}

pub(crate) fn a_wrong_checkpoint_is_refused_by_name<B: VbLoraBackend>(device: &B::Device) {
    let saved = model::<B>(Family::Roberta, device);
    let (folder, config) = (tempfile::tempdir().unwrap(), saved.config().to_json());
    let mut tensors = saved.tensors();
    tensors.retain(|(name, _)| {
        name != "encoder.layer.1.output.dense.bias" && name != "embeddings.LayerNorm.weight"
    });
    tensors.push(zeros("encoder.layer.2.output.dense.bias", &[32]));
    let query = tensors
        .iter_mut()
        .find(|(name, _)| name == "encoder.layer.0.attention.self.query.weight")
        .unwrap();
    query.1.shape = vec![16, 64];
    save(folder.path(), &config, &tensors, SaveDtype::F32);
    let Err(Error::Weights {
        missing,
        unexpected,
        misshapen,
        unreadable,
        ..
    }) = load::<B>(folder.path(), device)
    else {
        panic!("a checkpoint with four faults was loaded");
    };
    assert_eq!(
        missing,
        [
            "embeddings.LayerNorm.weight",
            "encoder.layer.1.output.dense.bias"
        ]
    );
    assert_eq!(unexpected, ["encoder.layer.2.output.dense.bias"]);
    let misshapen: Vec<String> = misshapen.iter().map(ToString::to_string).collect();
    assert!(
        matches!(&*misshapen, [one] if one.contains("layer.0.attention.self.query.weight")),
        "{misshapen:?}"
    );
    assert!(unreadable.is_empty());
    // The right tensors under a configuration with one more layer.
    let deeper = config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    assert_ne!(deeper, config);
    save(folder.path(), &deeper, &saved.tensors(), SaveDtype::F32);
    let message = load::<B>(folder.path(), device).err().unwrap().to_string();
    assert!(
        message.contains("encoder.layer.2.attention.self.key.weight"),
        "{message}"
    );
}

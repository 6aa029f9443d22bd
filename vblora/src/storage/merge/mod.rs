//! An adapter added into its base on the disk: a Hugging Face directory in, another out.
//!
//! Tensors go through memory in blocks of rows, so a merge needs the adapter and little more, whatever the size of the base. Shapes and
//! types stay, and with them every file's header, byte for byte, and the index of the shards.

mod base;
mod change;
mod folder;

use std::{collections::BTreeMap, path::Path};

use base::{Base, INDEX};
use change::Change;
use serde::Serialize;

use super::{HostLora, peft::PeftAdapter, replace_directory};
use crate::{Error, Result};

/// Endings of files that hold weights in other forms: of the base, not merged, and so not copied.
const OTHER_WEIGHTS: &[&str] = &[
    "bin",
    "ckpt",
    "gguf",
    "h5",
    "msgpack",
    "onnx",
    "ot",
    "pt",
    "pth",
    "safetensors",
    "tflite",
];

/// What a merge did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Merged {
    /// Weights that an update was added to.
    pub updated: usize,
    /// Tensors of `modules_to_save` that took the place of the base's.
    pub replaced: usize,
    /// The files with weights.
    pub weights: Vec<String>,
    /// Files and folders of the base that are not in the output: weights in other forms, which nothing was added to, and subfolders.
    pub left_out: Vec<String>,
}

/// Writes the base in `base` with the adapter added in to `out`: `W + s A B` per adapted weight, computed in f32 and rounded once to the
/// weight's own type; the tensors of `modules_to_save` in place of the base's; every other tensor and file as it is.
///
/// A module `X` of the adapter, named as in the model that PEFT wraps, changes the base's tensor `X.weight`, stored `[d_out, d_in]`, or
/// `[d_in, d_out]` where the adapter says `fan_in_fan_out`. Where the base names its tensors without the prefix of that model, or with one
/// more (`roberta.encoder..` and `encoder..`), the difference is found by the first module and must hold for all.
///
/// `out` appears whole or not at all. An `out` that is there already is an error unless `overwrite` is given; a symbolic link or a folder
/// with subfolders is never replaced.
///
/// # Errors
/// A file of the base is missing or broken; a tensor of the adapter has none in the base, or one of another shape or of a type other than
/// F32, F16 and BF16; a sum is not finite in that type; the operating system refuses.
pub fn merge(base: &Path, adapter: &PeftAdapter, out: &Path, overwrite: bool) -> Result<Merged> {
    folder::check_replaceable(out, overwrite)?;
    folder::check_outside(out, base)?;
    let found = Base::open(base)?;
    let lora = adapter.adapter.to_lora();
    let changes = changes(&found, adapter, &lora)?;
    for (name, change) in &changes {
        let (shard, entry) = found.tensor(name)?;
        let fits = change.check(entry);
        fits.map_err(|problem| shard.error(format!("tensor {name:?}: {problem}")))?;
    }
    let left_out = replace_directory(out, |folder| {
        for shard in found.shards() {
            change::write_shard(shard, &changes, &folder.join(shard.name()))?;
        }
        copy_others(&found, folder)
    })?;
    Ok(Merged {
        updated: changes.len() - adapter.saved.len(),
        replaced: adapter.saved.len(),
        weights: found.shards().iter().map(|s| s.name().to_owned()).collect(),
        left_out,
    })
}

/// What happens to which tensor of the base; `lora` is the adapter's factors.
fn changes<'a>(
    base: &Base,
    adapter: &'a PeftAdapter,
    lora: &'a HostLora,
) -> Result<BTreeMap<String, Change<'a>>> {
    let (weights, saved) = names(base, adapter)?;
    let config = lora.settings().config();
    let scale = config.scale() as f32;
    let updates = lora.a().iter().zip(lora.b()).map(|(down, up)| {
        let [rows, columns] = match adapter.fan_in_fan_out {
            true => [down, up],
            false => [up, down],
        };
        Change::Update {
            rows,
            columns,
            rank: config.rank,
            scale,
        }
    });
    let replaced = adapter.saved.iter();
    let replaced = replaced.map(|(_, tensor)| Change::Replace(tensor));
    let mut changes = BTreeMap::new();
    for (name, change) in weights
        .into_iter()
        .zip(updates)
        .chain(saved.into_iter().zip(replaced))
    {
        if changes.contains_key(&name) {
            return Err(base.error(format!("tensor {name:?} is changed by the adapter twice")));
        }
        changes.insert(name, change);
    }
    Ok(changes)
}

/// The base's names of the adapter's weights, in the order of its sites, and of its `saved` tensors.
fn names(base: &Base, adapter: &PeftAdapter) -> Result<(Vec<String>, Vec<String>)> {
    let sites = adapter.adapter.plan().sites().iter();
    let weights: Vec<_> = sites
        .map(|site| format!("{}{}.weight", adapter.prefix, site.name))
        .collect();
    let renamed = base.renaming(&weights[0])?;
    let found = |name: String| match base.contains(&name) {
        true => Ok(name),
        false => Err(base.error(format!("no tensor {name:?}, which the adapter changes"))),
    };
    let saved = adapter.saved.iter().map(|(name, _)| {
        let exact = base.contains(name).then(|| name.clone());
        found(exact.unwrap_or_else(|| renamed.apply(name)))
    });
    Ok((
        weights
            .iter()
            .map(|name| found(renamed.apply(name)))
            .collect::<Result<_>>()?,
        saved.collect::<Result<_>>()?,
    ))
}

/// Copies what is not weights; gives the names of what was left out.
fn copy_others(base: &Base, to: &Path) -> Result<Vec<String>> {
    let io = |cause| Error::Io {
        path: base.dir().to_owned(),
        cause,
    };
    let mut left_out = Vec::new();
    for entry in std::fs::read_dir(base.dir()).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if base.shards().iter().any(|shard| shard.name() == name) {
            continue;
        }
        let ending = path.extension().unwrap_or_default().to_string_lossy();
        // The index of shards that a single file makes superfluous.
        let superfluous = name == INDEX && !base.is_sharded();
        if !path.is_file() || superfluous || OTHER_WEIGHTS.contains(&&*ending) {
            left_out.push(name.into_owned());
        } else {
            folder::copy(&path, to)?;
        }
    }
    left_out.sort();
    Ok(left_out)
}

//! An adapter added into its base on the disk: a Hugging Face directory in, another out.
//!
//! Tensors go through memory in blocks of rows, so a merge needs the adapter and little more, whatever the size of the base. Types stay, and
//! so do every file's header, byte for byte, the index of the shards and the configuration, unless the adapter has another vocabulary or
//! makes two ends of a head that was the word table.

mod base;
mod change;
mod folder;
mod model;
mod plan;

use std::path::Path;

use base::{Base, INDEX};
use model::{CONFIG, Model};
use plan::Plan;
use serde::Serialize;
use serde_json::Value;

use super::{
    files::MAX_INDEX_BYTES, peft::PeftAdapter, replace_directory, strict_json, write_atomically,
};
use crate::{Error, Result};

/// What a merge did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Merged {
    /// Weights that an update was added to.
    pub updated: usize,
    /// Tensors that the adapter saved and that took the place of the base's.
    pub replaced: usize,
    /// The files with weights.
    pub weights: Vec<String>,
    /// Files and folders of the base that are not in the output: weights in other forms, which nothing was added to.
    pub left_out: Vec<String>,
    /// What was believed of the base, against what the adapter or the configuration says.
    pub notes: Vec<String>,
}

/// Writes the base in `base` with the adapter added in to `out`: `W + s A B` per adapted weight, computed in f32 and rounded once to the
/// weight's own type; the tensors that the adapter saved in place of the base's; every other tensor and file as it is.
///
/// A module `X` of the adapter, named as in the model that PEFT wraps, changes the base's tensor `X.weight`. How that is stored is the
/// model's to say (`model_type`): `[d_in, d_out]` for the maps of GPT-2 and its like, `[d_out, d_in]` for all others; the adapter's
/// `fan_in_fan_out` counts only where the base has no `config.json` that says. Where the base names its tensors without the prefix of that
/// model, or with one more (`roberta.encoder..` and `encoder..`), the difference is found by the first module and must hold for all.
///
/// Word table and head may have more or fewer rows than the base's; `vocab_size` then follows. A head that is the word table becomes one
/// of its own where the adapter changes one of the two alone, as in PEFT, and `tie_word_embeddings` becomes false.
///
/// Files of the base are copied with their contents, also those that a link in a cache of the Hugging Face hub leads to. Folders in it are
/// copied too, but for hidden ones and for weights in other forms; of the modules of sentence-transformers everything is.
///
/// `out` appears whole or not at all. An `out` that is there already is an error unless `overwrite` is given; then it is replaced if every
/// file in it is one that this merge writes or one of merged weights, so that nothing else is ever deleted.
///
/// # Errors
/// A file of the base is missing or broken, or a link that leads out of it; a tensor of the adapter has none in the base, or one of another
/// shape or of a type other than F32, F16 and BF16; a sum is not finite in that type; the operating system refuses.
pub fn merge(base: &Path, adapter: &PeftAdapter, out: &Path, overwrite: bool) -> Result<Merged> {
    folder::check_target(out, overwrite)?;
    folder::check_outside(out, base)?;
    let found = Base::open(base)?;
    let model = Model::read(base)?;
    let lora = adapter.adapter.to_lora();
    let plan = Plan::new(&found, &model, adapter, &lora)?;
    let weights: Vec<_> = found.shards().iter().map(|s| s.name().to_owned()).collect();
    let is_weights = |name: &str| {
        // The index of shards that a single file makes superfluous is not copied either.
        weights.iter().any(|shard| shard == name) || (name == INDEX && !found.is_sharded())
    };
    let mut others = folder::Others::of(base, is_weights)?;
    if base.join(INDEX).is_file() && !found.is_sharded() {
        others.left_out.push(INDEX.to_owned());
        others.left_out.sort();
    }
    let written = others.files.iter().map(|(name, _)| name.as_path());
    let written = written.chain(weights.iter().map(Path::new)).collect();
    folder::check_replaceable(out, &written)?;
    replace_directory(out, |to| {
        for (shard, outputs) in found.shards().iter().zip(&plan.shards) {
            change::write_shard(shard, outputs, &to.join(shard.name()))?;
        }
        let is_changed = plan.edits != model::Edits::default();
        for (name, file) in &others.files {
            match name.to_str() {
                Some(CONFIG) if is_changed => {}
                Some(INDEX) if is_changed => write_index(base, &plan, &weights, to)?,
                _ => folder::copy(file, &to.join(name))?,
            }
        }
        match is_changed {
            true => model.write(plan.edits, to),
            false => Ok(()),
        }
    })?;
    Ok(Merged {
        updated: adapter.adapter.plan().sites().len(),
        replaced: adapter.saved.len(),
        weights,
        left_out: others.left_out,
        notes: plan.notes,
    })
}

/// The index of the base, with what was added to its files.
fn write_index(base: &Path, plan: &Plan<'_>, weights: &[String], to: &Path) -> Result<()> {
    let path = base.join(INDEX);
    let wrong = |reason: String| Error::Format {
        path: path.clone(),
        reason,
    };
    let mut index: Value = strict_json::read(&path, MAX_INDEX_BYTES)?;
    for (file, outputs) in weights.iter().zip(&plan.shards) {
        for output in outputs {
            index["weight_map"][&output.name] = file.as_str().into();
        }
    }
    let outputs = plan.shards.iter().flatten();
    if let Some(total) = index.pointer_mut("/metadata/total_size") {
        *total = outputs.map(plan::Output::bytes).sum::<usize>().into();
    }
    let text = serde_json::to_string_pretty(&index).map_err(|e| wrong(e.to_string()))?;
    write_atomically(&to.join(INDEX), text.as_bytes())
}

//! An adapter added into its base on the disk: a Hugging Face directory in, another out.
//!
//! Tensors go through memory in blocks of rows. So a merge needs the adapter and little more, whatever the size of the base. Types stay,
//! and so do every file's header, the index of the shards and the configuration, byte for byte. They change only if the adapter has another
//! vocabulary, or separates a head from the token embedding.

mod base;
mod change;
mod folder;
mod model;
mod plan;

use std::{collections::BTreeSet, path::Path};

use base::{Base, INDEX};
use model::{CONFIG, Model};
use plan::Plan;
use serde::Serialize;
use serde_json::Value;

use super::{
    files::MAX_INDEX_BYTES, peft::PeftAdapter, replace_directory, strict_json, write_atomically,
    write_to,
};
use crate::{Error, Result, limits::check_disk};

/// The result of a merge.
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
    /// Contradictions between the base and the adapter or the configuration. The base was believed.
    pub notes: Vec<String>,
}

/// The model that a merge writes in place of the base: the base below a prefix, and beside it the modules that the adapter saved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Whole {
    /// The prefix of the base's tensors in the model, such as `roberta.`. The base may have it already; its tensors without it are then
    /// those of other heads, and are left out.
    pub prefix: String,
    /// Files that take the place of the base's, by name.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Writes the base in `base`, with the adapter added in, to `out`.
///
/// An adapted weight becomes `W + s A B`, computed in f32 and rounded once to the weight's own type. Tensors that the adapter saved replace
/// those of the base. All other tensors and files stay as they are.
///
/// A module `X` of the adapter, named as in the model that PEFT wraps, changes the base's tensor `X.weight`. The model (`model_type`)
/// decides how that tensor is stored. The maps of GPT-2 and its like are `[d_in, d_out]`, all others are `[d_out, d_in]`. The adapter's
/// `fan_in_fan_out` counts only if the base has no `config.json` that says. The base may name its tensors without the prefix of that model,
/// or with one more (`roberta.encoder..` and `encoder..`). The first module shows the difference, which must hold for all.
///
/// Token embedding and head may have more or fewer rows than the base's; `vocab_size` then follows. The head may be tied to the token
/// embedding. If the adapter changes only one of the two, the head becomes a tensor of its own, as in PEFT. `tie_word_embeddings` then
/// becomes false.
///
/// Files of the base are copied with their contents, also those that a link in a cache of the Hugging Face hub leads to. Folders are copied
/// too, without hidden ones and without weights in other forms. The modules of sentence-transformers are copied in full.
///
/// `out` appears whole or not at all. An `out` that is there already, or comes while the merge runs, is an error unless `overwrite` is
/// given. Then it is replaced if no process has locked it, and if each of its files is one that this merge writes or holds merged weights.
/// So nothing else is ever deleted.
///
/// # Errors
/// A file of the base is missing or broken, or a link that leads out of it. A tensor of the adapter has none in the base, or one of another
/// shape or of a type other than F32, F16 and BF16. A sum is not finite in that type. Memory or disk have no room, or the operating system
/// refuses.
pub fn merge(base: &Path, adapter: &PeftAdapter, out: &Path, overwrite: bool) -> Result<Merged> {
    merge_as(base, adapter, None, out, overwrite)
}

/// As [`merge`], to another model than the base if there is a `whole`. All tensors that the adapter saved are then in it, whatever the base
/// has in their place.
///
/// # Errors
/// As [`merge`].
pub fn merge_as(
    base: &Path,
    adapter: &PeftAdapter,
    whole: Option<&Whole>,
    out: &Path,
    overwrite: bool,
) -> Result<Merged> {
    folder::check_target(out, overwrite)?;
    folder::check_outside(out, base)?;
    let found = Base::open(base)?;
    let model = Model::read(base)?;
    adapter.adapter.check_lora_room()?;
    let lora = adapter.adapter.to_lora();
    let prefix = whole.map(|whole| whole.prefix.as_str());
    let plan = Plan::new(&found, &model, adapter, &lora, prefix)?;
    let own = whole.map_or(&[][..], |whole| &whole.files);
    let weights: Vec<_> = found.shards().iter().map(|s| s.name().to_owned()).collect();
    let is_weights = |name: &str| {
        // A single file makes the index of shards superfluous, so it is not copied either.
        weights.iter().any(|shard| shard == name) || (name == INDEX && !found.is_sharded())
    };
    let mut others = folder::Others::of(base, is_weights)?;
    if base.join(INDEX).is_file() && !found.is_sharded() {
        others.left_out.push(INDEX.to_owned());
        others.left_out.sort();
    }
    let written = others.files.iter().map(|(name, _)| name.as_path());
    let written = written.chain(weights.iter().map(Path::new));
    let written = written
        .chain(own.iter().map(|(name, _)| Path::new(name)))
        .collect();
    folder::check_replaceable(out, &written)?;
    let fill = |to: &Path| {
        for (shard, outputs) in found.shards().iter().zip(&plan.shards) {
            change::write_shard(shard, outputs, &to.join(shard.name()))?;
        }
        let is_changed = plan.edits != model::Edits::default();
        let is_own = |name: &str| own.iter().any(|(own, _)| own == name);
        for (name, file) in &others.files {
            match name.to_str() {
                Some(name) if is_own(name) => {}
                Some(CONFIG) if is_changed => {}
                Some(INDEX) if is_changed || whole.is_some() => {
                    write_index(base, &plan, &weights, to)?;
                }
                _ => folder::copy(file, &to.join(name))?,
            }
        }
        for (name, bytes) in own {
            write_atomically(&to.join(name), bytes)?;
        }
        match (is_changed, is_own(CONFIG)) {
            (true, true) => Model::read(to)?.write(plan.edits, to),
            (true, false) => model.write(plan.edits, to),
            (false, _) => Ok(()),
        }
    };
    let bytes = plan.shards.iter().flatten().map(plan::Output::bytes);
    check_disk(
        out,
        bytes.fold(0, |sum, bytes| sum.saturating_add(bytes as u64)),
    )?;
    write_to(out, overwrite, |out| replace_directory(out, fill))?;
    Ok(Merged {
        updated: adapter.adapter.plan().sites().len(),
        replaced: adapter.saved.len(),
        weights,
        left_out: others.left_out,
        notes: plan.notes,
    })
}

/// Writes the index of the base, with the tensors that its files now have.
fn write_index(base: &Path, plan: &Plan<'_>, weights: &[String], to: &Path) -> Result<()> {
    let path = base.join(INDEX);
    let wrong = |reason: String| Error::Format {
        path: path.clone(),
        reason,
    };
    let mut index: Value = strict_json::read(&path, MAX_INDEX_BYTES)?;
    let outputs = plan.shards.iter().flatten();
    let names: BTreeSet<_> = outputs.map(|output| output.name.as_str()).collect();
    if let Some(Value::Object(map)) = index.get_mut("weight_map") {
        map.retain(|name, _| names.contains(name.as_str()));
    }
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

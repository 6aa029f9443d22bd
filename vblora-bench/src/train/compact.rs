//! The compact file of a trained VB-LoRA beside its PEFT directory, and what its 8 bits cost: in the factors and on the dev set.

use burn::module::AutodiffModule;
use serde::Serialize;
use vblora::{
    backend::VbLoraBackend,
    storage::{HostAdapter, Loss, Precision, Precisions},
};

use super::{
    learner::{Learner, Trained},
    objective::Objective,
    run::{Prepared, Run},
    run_dir::RunDir,
};
use crate::{Error, Result, metrics::Scores};

const FILE: &str = "compact.safetensors";

/// Bank and weights in a byte each, with a scale for every bank vector.
const PRECISIONS: Precisions = Precisions {
    bank: Precision::Bits8,
    weights: Precision::Bits8,
};

/// What was written, and what it cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Compact {
    /// Of the whole file.
    pub(super) bytes: u64,
    /// The largest change of a factor's entry, and the largest entry.
    pub(super) largest_change: f32,
    pub(super) largest_entry: f32,
    /// The task's metrics on dev with the file's factors.
    pub(super) metrics: Scores,
}

/// Writes `compact.safetensors` with the recipe in it and evaluates what it holds. Only VB-LoRA has this form.
///
/// # Errors
/// The file cannot be written.
pub(super) fn save<B: VbLoraBackend, O: Objective<B>>(
    dir: &RunDir,
    run: &Run,
    learner: &Learner<B, O>,
    prepared: &Prepared<B, O>,
) -> Result<Option<Compact>> {
    let Trained::Adapter(adapter) = learner.trained() else {
        return Ok(None);
    };
    let Some(stored) = HostAdapter::read(&adapter.valid())?.store() else {
        return Ok(None);
    };
    let Prepared {
        recipe,
        dev,
        device,
        ..
    } = prepared;
    let stored = stored.with_recipe(Some(recipe.to_toml()?))?;
    let path = dir.of(run).join(FILE);
    let Loss {
        largest_change,
        largest_entry,
    } = stored.save_as(&path, PRECISIONS)?;
    let factors = stored.rounded(PRECISIONS)?.factors(device);
    Ok(Some(Compact {
        bytes: std::fs::metadata(&path)
            .map_err(|e| Error::write(&path, e))?
            .len(),
        largest_change,
        largest_entry,
        metrics: learner.evaluate_with(&factors, dev, recipe)?,
    }))
}

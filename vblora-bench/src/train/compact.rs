//! Writes the compact file of a trained VB-LoRA next to its PEFT directory. Measures the cost of 8 bits in the factors and on the dev set.

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

/// Bank and weights in one byte per number, with a scale for every bank vector.
const PRECISIONS: Precisions = Precisions {
    bank: Precision::Bits8,
    weights: Precision::Bits8,
};

/// The file's size, and the loss from its precision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Compact {
    /// Size of the whole file.
    pub(super) bytes: u64,
    /// The largest change of a factor's entry, and the largest entry.
    pub(super) largest_change: f32,
    pub(super) largest_entry: f32,
    /// The task's metrics on dev with the file's factors.
    pub(super) metrics: Scores,
}

/// Writes `compact.safetensors` with the recipe inside, and evaluates its factors. Only VB-LoRA has this form.
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

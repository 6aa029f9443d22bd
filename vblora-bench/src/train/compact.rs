//! Writes the compact file of a trained VB-LoRA next to its PEFT directory. Measures the cost of 8 bits in the factors.

use burn::module::AutodiffModule;
use serde::Serialize;
use vblora::{
    Factors,
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

/// A compact file whose factors are to be scored.
#[derive(Debug)]
pub(super) struct Unscored<B: VbLoraBackend> {
    /// The file's factors.
    pub(super) factors: Factors<B>,
    bytes: u64,
    loss: Loss,
}

impl<B: VbLoraBackend> Unscored<B> {
    /// The file with its metrics on dev.
    pub(super) fn scored(self, metrics: Scores) -> Compact {
        let Loss {
            largest_change,
            largest_entry,
        } = self.loss;
        Compact {
            bytes: self.bytes,
            largest_change,
            largest_entry,
            metrics,
        }
    }
}

/// Writes `compact.safetensors` with the recipe inside. Only VB-LoRA has this form.
///
/// # Errors
/// The file cannot be written.
pub(super) fn save<B: VbLoraBackend, O: Objective<B>>(
    dir: &RunDir,
    run: &Run,
    learner: &Learner<B, O>,
    prepared: &Prepared<B, O>,
) -> Result<Option<Unscored<B>>> {
    let Trained::Adapter(adapter) = learner.trained() else {
        return Ok(None);
    };
    let Some(stored) = HostAdapter::read(&adapter.valid())?.store() else {
        return Ok(None);
    };
    let Prepared { recipe, device, .. } = prepared;
    let stored = stored.with_recipe(Some(recipe.to_toml()?))?;
    let path = dir.of(run).join(FILE);
    let loss = stored.save_as(&path, PRECISIONS)?;
    let bytes = std::fs::metadata(&path).map_err(|e| Error::write(&path, e))?;
    Ok(Some(Unscored {
        factors: stored.rounded(PRECISIONS)?.factors(device),
        bytes: bytes.len(),
        loss,
    }))
}

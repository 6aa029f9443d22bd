//! How long a training step takes, before there is a run.

use std::time::Instant;

use vblora::backend::VbLoraBackend;

use super::{objective::Objective, run::Run, session::Session, source::Source};
use crate::Result;

/// Steps that are timed, spread over an epoch, whose batches may be of many lengths.
const TIMED: usize = 3;

impl<S: Source> Session<S> {
    /// The mean seconds of an optimizer step of the first method with the first seed, after one step that is not counted; 0 without a method
    /// or a seed. Nothing is written.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn step_seconds<B: VbLoraBackend>(&self, device: &B::Device) -> Result<f64> {
        let (Some(&method), Some(&seed)) = (self.methods.first(), self.recipe.seeds.first()) else {
            return Ok(0.0);
        };
        let prepared = self.prepare::<B>(device)?;
        let mut learner = Run { method, seed }.learner(&prepared)?;
        let rows = S::Objective::<B>::epoch(&prepared.train, &self.recipe, seed, 1);
        let steps: Vec<_> = rows.chunks(self.recipe.accumulation).collect();
        let mut take = |step: usize| {
            let base = learner.base();
            let batch = |rows| S::Objective::<B>::batch(&prepared.train, rows, base);
            let batches = steps[step].iter().map(batch).collect::<Result<Vec<_>>>()?;
            learner.step(step, &batches, 1.0)
        };
        take(0)?;
        let started = Instant::now();
        for timed in 1..=TIMED {
            take((steps.len() - 1) * timed / TIMED)?;
        }
        Ok(started.elapsed().as_secs_f64() / TIMED as f64)
    }
}

//! Measures the time of a training step before a run.

use std::time::Instant;

use vblora::backend::VbLoraBackend;

use super::{objective::Objective, run::Run, session::Session, source::Source};
use crate::Result;

/// Number of timed steps. They are spread over an epoch, because its batches may differ in length.
const TIMED: usize = 3;

impl<S: Source> Session<S> {
    /// Measures the mean seconds of an optimizer step for the first method and seed, after one warm-up step. It is 0 without a method or a
    /// seed. Nothing is written.
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
        let rows: Vec<_> = rows.collect();
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

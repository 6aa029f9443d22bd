//! Estimates a sweep's time from a few real steps.

use std::collections::{BTreeMap, btree_map::Entry};

use vblora::backend::{BackendJob, VbLoraBackend};

use super::{
    config::AnySession,
    plan::{Plan, PlannedRun},
    store::Store,
    worker::Device,
};
use crate::Result;

/// The cost of a development row in training rows. It has no backward pass and no dropout.
const DEV_ROW: f64 = 1.0 / 3.0;

/// Estimates the seconds of each remaining run, by id. Steps are timed once for each model, task and method, with the first run of each.
/// `hear` is told what is timed next.
///
/// # Errors
/// A model or data does not exist; a device does not work.
pub fn estimate(
    plan: &Plan,
    store: &Store,
    device: Device,
    hear: &mut dyn FnMut(&str),
) -> Result<BTreeMap<String, f64>> {
    let mut timed = BTreeMap::new();
    let mut seconds = BTreeMap::new();
    for run in plan.left(store) {
        let config = &run.config;
        let kind = (&config.model, config.recipe.task.name(), &config.method);
        let step = match timed.entry(kind) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => {
                hear(&run.name);
                let session = config.session(None, "an estimate")?;
                let step = device.backend.dispatch(device.index, Step(&session))??;
                *unknown.insert(step)
            }
        };
        seconds.insert(run.id.clone(), step * in_steps(run));
    }
    Ok(seconds)
}

/// The cost of a run's training and evaluation, in training steps.
fn in_steps(run: &PlannedRun) -> f64 {
    let [_, dev] = run.rows;
    let recipe = &run.config.recipe;
    let evaluation = DEV_ROW * dev as f64 / (recipe.batch * recipe.accumulation) as f64;
    let evaluations = match recipe.evaluation.every {
        Some(every) => run.steps as f64 / every as f64,
        None => recipe.epochs as f64,
    };
    run.steps as f64 + evaluations * evaluation
}

struct Step<'a>(&'a AnySession);

impl BackendJob for Step<'_> {
    type Output = Result<f64>;

    fn run<B: VbLoraBackend>(self, device: B::Device) -> Self::Output {
        self.0.step_seconds::<B>(&device)
    }
}

//! How long a sweep would take, from steps that are really taken.

use std::collections::{BTreeMap, btree_map::Entry};

use vblora::backend::{BackendJob, VbLoraBackend};

use super::{
    plan::{Plan, PlannedRun},
    store::Store,
    worker::Device,
};
use crate::{Result, train::Session};

/// Training rows that take as long as one of the development split: there is no way back, and no dropout.
const DEV_ROW: f64 = 1.0 / 3.0;

/// Seconds of each run that is left, by id. Steps are timed once for each model, task and method, with the first of their runs; `hear` gets
/// what is timed next.
///
/// # Errors
/// A model or data that is not there; a device that does not work.
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

/// Training and evaluation of a run, in training steps.
fn in_steps(run: &PlannedRun) -> f64 {
    let [_, dev] = run.rows;
    let recipe = &run.config.recipe;
    let evaluation = DEV_ROW * dev as f64 / (recipe.batch * recipe.accumulation) as f64;
    run.steps as f64 + recipe.epochs as f64 * evaluation
}

struct Step<'a>(&'a Session);

impl BackendJob for Step<'_> {
    type Output = Result<f64>;

    fn run<B: VbLoraBackend>(self, device: B::Device) -> Self::Output {
        self.0.step_seconds::<B>(&device)
    }
}

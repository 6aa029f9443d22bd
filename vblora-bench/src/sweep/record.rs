//! The record of a run: one line of the results.

use serde::{Deserialize, Serialize};

use super::config::RunConfig;
use crate::{
    metrics::Metric,
    results::{EpochScores, RunResult},
};

/// The place and the program of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The device, such as `flex` or `cuda:1`.
    pub device: String,
    /// The backend's own name for itself.
    pub backend: String,
    /// Threads available to a CPU backend.
    pub threads: usize,
    /// The version of this crate.
    pub version: String,
    /// The commit it was built from, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The day, in UTC.
    pub date: String,
}

impl Provenance {
    /// The provenance of a run made now with this build.
    pub fn now(device: String, backend: String, threads: usize, commit: Option<String>) -> Self {
        Self {
            device,
            backend,
            threads,
            version: env!("CARGO_PKG_VERSION").into(),
            commit,
            date: time::OffsetDateTime::now_utc().date().to_string(),
        }
    }
}

/// One line of `results.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The run's id, the hash of everything that its result depends on.
    pub id: String,
    /// The first sweep that the run was made for.
    pub sweep: String,
    /// The run's name in that sweep.
    pub name: String,
    /// The configuration.
    pub config: RunConfig,
    /// The result; absent if the run never started or its process died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<RunResult>,
    /// The error, if the run failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The place and the program of the run.
    pub made: Provenance,
}

impl Record {
    /// Records the outcome of a run. A run with a loss that is not finite has failed, and keeps its earlier results.
    pub fn new(
        (id, sweep, name): (&str, &str, &str),
        config: &RunConfig,
        outcome: Result<RunResult, String>,
        made: Provenance,
    ) -> Self {
        let (result, error) = match outcome {
            Ok(result) if result.stop.is_finished() => (Some(result), None),
            Ok(result) => {
                let error = result.stop.to_string();
                (Some(result), Some(error))
            }
            Err(error) => (None, Some(error)),
        };
        Self {
            id: id.into(),
            sweep: sweep.into(),
            name: name.into(),
            config: config.clone(),
            result,
            error,
            made,
        }
    }

    /// The result of a completed run.
    pub fn completed(&self) -> Option<&RunResult> {
        self.result.as_ref().filter(|_| self.error.is_none())
    }

    /// The task's main metric.
    pub fn metric(&self) -> Metric {
        self.config.recipe.task.primary_metric
    }

    /// The main metric on dev at the best epoch and at the last. An undefined metric (a constant prediction) counts as 0.
    pub fn scores(&self) -> Option<(f64, f64)> {
        let result = self.completed()?;
        let value = |scores: &EpochScores| scores.metrics.get(self.metric()).unwrap_or(0.0);
        Some((value(result.best.as_ref()?), value(result.last.as_ref()?)))
    }

    /// Seconds per optimizer step, including evaluation and files.
    pub fn seconds_per_step(&self) -> Option<f64> {
        let result = self.result.as_ref().filter(|result| result.steps > 0)?;
        Some(result.seconds / result.steps as f64)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        recipes::{Recipe, Size},
        results::test_run,
        sweep::BUNDLED,
        tasks::Task,
    };

    pub(crate) fn made() -> Provenance {
        Provenance {
            device: "flex".into(),
            backend: "flex".into(),
            threads: 2,
            version: "0".into(),
            commit: None,
            date: "2026-01-01".into(),
        }
    }

    /// A finished run on MRPC, with these dev accuracies by epoch.
    pub(crate) fn record(id: &str, method: &str, seed: u64, accuracies: &[f64]) -> Record {
        let mut recipe = Recipe::builtin(Size::Base, &Task::mrpc()).unwrap();
        recipe.seeds = vec![seed];
        let config = RunConfig {
            model: BUNDLED.into(),
            data: "glue".into(),
            text: None,
            method: method.into(),
            seed,
            recipe,
        };
        let result = test_run(method, "all", seed, accuracies);
        Record::new(
            (id, "s", &format!("{method} seed={seed}")),
            &config,
            Ok(result),
            made(),
        )
    }

    #[test]
    fn a_run_that_left_the_numbers_has_failed_and_keeps_what_it_reached() {
        let whole = record("a", "lora", 1, &[0.7, 0.8, 0.75]);
        assert_eq!(whole.scores(), Some((0.8, 0.75)));
        let mut result = whole.result.clone().unwrap();
        result.stop = crate::results::Stop::NonFiniteLoss { step: 9 };
        let failed = Record::new(("a", "s", "n"), &whole.config, Ok(result), made());
        assert!(failed.error.as_deref().unwrap().contains("step 9"));
        assert!(failed.completed().is_none() && failed.scores().is_none());
        assert!(failed.result.is_some());
    }
}

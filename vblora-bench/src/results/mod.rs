//! The results of a session's runs: the types of `results.json`, and medians over seeds.

mod run;
mod stop;
mod summary;

use std::path::Path;

use serde::{Deserialize, Serialize};
use vblora::storage::{read_file, strict_json, write_atomically};

pub use run::{EpochResult, EpochScores, RunResult, Speed, best_epoch, best_run, since_best};
pub use stop::Stop;
pub use summary::{Spread, Summary, summarise};

use crate::{Error, Result, limits::MAX_RESULTS_BYTES};

#[cfg(test)]
pub(crate) use run::tests::run as test_run;

/// The content of `results.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The command line of the run.
    pub command: String,
    /// The backend's name.
    pub backend: String,
    /// All runs, in the order in which they were made.
    pub runs: Vec<RunResult>,
    /// Medians over seeds: [`summarise`] of `runs`.
    pub summary: Vec<Summary>,
}

impl Results {
    /// Creates results from these runs, with their summary.
    pub fn new(
        command: impl Into<String>,
        backend: impl Into<String>,
        runs: Vec<RunResult>,
    ) -> Self {
        let summary = summarise(&runs);
        Self {
            command: command.into(),
            backend: backend.into(),
            runs,
            summary,
        }
    }

    /// The runs that failed.
    pub fn failed(&self) -> impl Iterator<Item = &RunResult> {
        self.runs.iter().filter(|run| run.stop.is_failure())
    }

    /// Writes the results as indented JSON, atomically.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|e| json(path, e))?;
        bytes.push(b'\n');
        Ok(write_atomically(path, &bytes)?)
    }

    /// Reads a file that [`Results::write`] wrote.
    ///
    /// # Errors
    /// The file does not exist, or is not a results file; the error gives the position. A score that its task cannot have; the error names
    /// the run.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = read_file(path, MAX_RESULTS_BYTES).map_err(|e| Error::read(path, e))?;
        let results: Self = strict_json::from_slice(&bytes).map_err(|e| Error::json(path, e))?;
        results.check().map_err(|reason| vblora::Error::Format {
            path: path.to_owned(),
            reason,
        })?;
        Ok(results)
    }

    /// Refuses numbers that no run comes to.
    fn check(&self) -> std::result::Result<(), String> {
        for run in &self.runs {
            let named = |problem| format!("{}: {problem}", run.label());
            run.check().map_err(named)?;
        }
        self.summary.iter().try_for_each(Summary::check)
    }
}

fn json(path: &Path, cause: serde_json::Error) -> Error {
    Error::Json {
        file: path.display().to_string(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::test_run as run;
    use super::*;

    #[test]
    fn the_file_has_the_promised_keys() {
        let results = Results::new(
            "roberta_glue --task mrpc",
            "flex",
            vec![run("vblora", "qv", 1, &[0.7, 0.8, 0.75])],
        );
        let json = serde_json::to_value(&results).unwrap();
        let object = |value: &serde_json::Value| {
            value
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(object(&json), ["backend", "command", "runs", "summary"]);
        let run = &json["runs"][0];
        for key in [
            "method",
            "targets",
            "task",
            "seed",
            "steps",
            "seconds",
            "truncated",
        ] {
            assert!(!run[key].is_null(), "{key}");
        }
        assert_eq!(run["task"], "mrpc");
        assert_eq!(run["epochs"][0]["metrics"]["accuracy"], 0.7);
        assert_eq!(run["epochs"][1]["train_loss"], 0.35);
        assert_eq!(run["best"]["epoch"], 2);
        assert_eq!(run["last"]["epoch"], 3);
        assert_eq!(run["stop"], "completed");
        assert!(run["best"]["metrics"].get("pearson").is_none());
        assert_eq!(run["stored_bytes"], 101_376);
        assert_eq!(run["head_bytes"], 4_206_600);
        assert_eq!(json["summary"][0]["best"]["median"], 0.8);
    }

    #[test]
    fn what_is_written_reads_back_equal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.json");
        let mut broken = run("lora", "qv", 2, &[]);
        broken.stop = Stop::NonFiniteLoss { step: 7 };
        let mut results = Results::new("c", "flex", vec![run("vblora", "all", 1, &[0.5]), broken]);
        results.write(&path).unwrap();
        assert_eq!(Results::read(&path).unwrap(), results);
        results.runs[0].epochs[0].train_loss = f64::NAN;
        results.write(&path).unwrap();
        assert!(
            Results::read(&path).unwrap().runs[0].epochs[0]
                .train_loss
                .is_nan()
        );
        std::fs::write(&path, "{\"command\": 3}").unwrap();
        let error = Results::read(&path).unwrap_err().to_string();
        assert!(
            error.contains("results.json") && error.contains("line 1"),
            "{error}"
        );
    }

    #[test]
    fn scores_that_no_run_has_are_refused_by_run_and_metric() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.json");
        let runs = vec![
            run("lora", "qv", 1, &[0.5, 0.75]),
            run("vblora", "qv", 2, &[0.5]),
        ];
        let results = Results::new("c", "flex", runs);
        results.write(&path).unwrap();
        Results::read(&path).unwrap();
        let whole = serde_json::to_value(&results).unwrap();
        for (place, value, says) in [
            (
                "/runs/1/epochs/0/metrics/accuracy",
                7.5,
                "vblora seed 2: epoch 1: accuracy: 7.5",
            ),
            (
                "/runs/0/epochs/1/metrics/f1",
                -0.25,
                "lora seed 1: epoch 2: f1: -0.25",
            ),
            (
                "/runs/0/best/metrics/accuracy",
                1.25,
                "lora seed 1: best: accuracy: 1.25",
            ),
            (
                "/runs/1/last/metrics/accuracy",
                1e308,
                "vblora seed 2: last: accuracy: 1",
            ),
            (
                "/runs/0/seconds",
                -1.0,
                "lora seed 1: seconds: expected at least 0, found -1",
            ),
            (
                "/runs/0/stored_parameters",
                -2.0,
                "lora seed 1: stored_parameters: ",
            ),
            (
                "/summary/0/best/median",
                3.0,
                "summary of lora on qv: accuracy: 3 is out of its range",
            ),
            ("/summary/1/last/sd", -3.0, "summary of vblora on qv: sd: "),
        ] {
            let mut changed = whole.clone();
            *changed.pointer_mut(place).unwrap() = value.into();
            std::fs::write(&path, changed.to_string()).unwrap();
            let error = Results::read(&path).unwrap_err().to_string();
            assert!(
                error.contains("results.json") && error.contains(says),
                "{place}: {error}"
            );
        }
        // Another task's metric.
        let text = whole.to_string().replacen("\"f1\":0.5", "\"nll\":0.5", 1);
        std::fs::write(&path, text).unwrap();
        let error = Results::read(&path).unwrap_err().to_string();
        assert!(error.contains("expected those of mrpc"), "{error}");
    }
}

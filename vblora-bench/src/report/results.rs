//! The types of `results.json`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Summary, summarise};
use crate::metrics::{Metric, Scores};
use crate::tasks::Task;
use crate::{Error, Result, limits::MAX_RESULTS_BYTES};
use vblora::storage::{read_file, strict_json, write_atomically};

/// The content of `results.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The command line of the run.
    pub command: String,
    /// The backend's name.
    pub backend: String,
    /// Every run, in the order they were made.
    pub runs: Vec<RunResult>,
    /// Medians over seeds: [`summarise`] of `runs`.
    pub summary: Vec<Summary>,
}

/// One method on one task with one seed.
///
/// The adapter and the head are counted apart: `trained_parameters`, `stored_parameters` and `stored_bytes` are of the
/// adapter alone (for `full`, of the base weights that it trains; for `head`, 0).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// `vblora`, `lora`, `head` or `full`.
    pub method: String,
    /// The adapted modules: `qv`, `all` or suffixes.
    pub targets: String,
    /// The task.
    pub task: Task,
    /// The seed.
    pub seed: u64,
    /// Every epoch that was ended and evaluated.
    pub epochs: Vec<EpochResult>,
    /// The epoch with the best primary metric on dev ([`best_epoch`]); `null` without an evaluated epoch.
    pub best: Option<EpochScores>,
    /// The last evaluated epoch; `null` without one.
    pub last: Option<EpochScores>,
    /// Numbers the optimizer changes.
    pub trained_parameters: u64,
    /// Numbers stored, as the paper counts them: in float32-equivalents, so it need not be whole.
    pub stored_parameters: f64,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// Numbers of the task head, trained and stored in full.
    pub head_parameters: u64,
    /// Bytes of the task head.
    pub head_bytes: u64,
    /// Optimizer steps taken.
    pub steps: u64,
    /// Wall-clock seconds of training and evaluation.
    pub seconds: f64,
    /// Rows of train and dev that were cut to the maximum length.
    #[serde(default)]
    pub truncated: u64,
    /// The metrics on dev before training, where the base has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Scores>,
    /// How fast training steps were, where that is told by tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<Speed>,
    /// Why the run ended.
    #[serde(default)]
    pub stop: Stop,
}

/// Tokens of training, and how long they took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Tokens that training steps saw, without padding.
    pub tokens: u64,
    /// Wall-clock seconds of these steps, without evaluation.
    pub seconds: f64,
}

impl Speed {
    /// Tokens per second.
    pub fn rate(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }
}

/// One epoch of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochResult {
    /// The epoch, from 1.
    pub epoch: usize,
    /// The mean training loss; `null` in the file if it is not finite.
    #[serde(deserialize_with = "nan_for_null")]
    pub train_loss: f64,
    /// The metrics on dev after it.
    pub metrics: Scores,
}

/// An epoch picked out of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochScores {
    /// The epoch, from 1.
    pub epoch: usize,
    /// The metrics on dev after it.
    pub metrics: Scores,
}

impl From<&EpochResult> for EpochScores {
    fn from(epoch: &EpochResult) -> Self {
        Self {
            epoch: epoch.epoch,
            metrics: epoch.metrics.clone(),
        }
    }
}

/// The epoch with the best value of the metric, the first of several; an undefined value is worse than every other.
pub fn best_epoch(epochs: &[EpochResult], metric: Metric) -> Option<&EpochResult> {
    let value = |epoch: &EpochResult| {
        let value = epoch.metrics.get(metric);
        value.map_or(f64::NEG_INFINITY, |value| metric.merit(value))
    };
    epochs.iter().reduce(|best, epoch| {
        if value(epoch) > value(best) {
            epoch
        } else {
            best
        }
    })
}

/// Why a run ended; a sentence in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Stop {
    /// All epochs were run: `completed`.
    #[default]
    Completed,
    /// The user stopped it: `interrupted`.
    Interrupted,
    /// The loss was not finite: `non-finite loss at step N`.
    NonFiniteLoss {
        /// The optimizer step, from 0: as many steps were taken before it.
        step: u64,
    },
    /// What training made is no number, and has no score: `non-finite WHAT after step N`.
    NonFinite {
        /// The parameter by its path, or the model's output.
        what: String,
        /// Optimizer steps taken.
        step: u64,
    },
}

/// How [`Stop::NonFiniteLoss`] is written, before the step.
const NON_FINITE_LOSS: &str = "non-finite loss at step ";

/// How [`Stop::NonFinite`] is written, before what is not finite and before the step.
const NON_FINITE: [&str; 2] = ["non-finite ", " after step "];

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.pad("completed"),
            Self::Interrupted => f.pad("interrupted"),
            Self::NonFiniteLoss { step } => write!(f, "{NON_FINITE_LOSS}{step}"),
            Self::NonFinite { what, step } => {
                let [before, between] = NON_FINITE;
                write!(f, "{before}{what}{between}{step}")
            }
        }
    }
}

impl FromStr for Stop {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let [before, between] = NON_FINITE;
        let non_finite = |text: &str| {
            let (what, step) = text.strip_prefix(before)?.rsplit_once(between)?;
            let (what, step) = (what.to_owned(), step.parse().ok()?);
            Some(Self::NonFinite { what, step })
        };
        let non_finite_loss = |text: &str| {
            let step = text.strip_prefix(NON_FINITE_LOSS)?.parse().ok()?;
            Some(Self::NonFiniteLoss { step })
        };
        match text {
            "completed" => Some(Self::Completed),
            "interrupted" => Some(Self::Interrupted),
            other => non_finite_loss(other).or_else(|| non_finite(other)),
        }
        .ok_or_else(|| Error::UnknownName {
            what: "stop",
            name: text.to_string(),
            expected: format!("completed, interrupted, {NON_FINITE_LOSS}N, {before}WHAT{between}N"),
        })
    }
}

impl Serialize for Stop {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn nan_for_null<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl Stop {
    /// Whether the run went wrong, and is not only unfinished.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::NonFiniteLoss { .. } | Self::NonFinite { .. })
    }
}

impl Results {
    /// The results of these runs, with their summary.
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

    /// The runs that went wrong.
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

    /// Reads what [`Results::write`] wrote.
    ///
    /// # Errors
    /// No such file, or not a results file, with the place.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = read_file(path, MAX_RESULTS_BYTES).map_err(|e| Error::read(path, e))?;
        strict_json::from_slice(&bytes).map_err(|e| Error::json(path, e))
    }
}

fn json(path: &Path, cause: serde_json::Error) -> Error {
    Error::Json {
        file: path.display().to_string(),
        cause,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run on MRPC with these dev accuracies, one per epoch.
    pub(crate) fn run(method: &str, targets: &str, seed: u64, accuracies: &[f64]) -> RunResult {
        let epoch = |(i, accuracy): (usize, &f64)| EpochResult {
            epoch: i + 1,
            train_loss: 0.7 / (i + 1) as f64,
            metrics: [(Metric::Accuracy, Some(*accuracy)), (Metric::F1, Some(0.5))]
                .into_iter()
                .collect(),
        };
        let epochs: Vec<EpochResult> = accuracies.iter().enumerate().map(epoch).collect();
        RunResult {
            method: method.into(),
            targets: targets.into(),
            task: Task::Mrpc,
            seed,
            best: best_epoch(&epochs, Metric::Accuracy).map(EpochScores::from),
            last: epochs.last().map(EpochScores::from),
            epochs,
            trained_parameters: 161_280,
            stored_parameters: 25_344.0,
            stored_bytes: 101_376,
            head_parameters: 1_051_650,
            head_bytes: 4_206_600,
            steps: 230,
            seconds: 61.5,
            truncated: 0,
            before: None,
            speed: None,
            stop: Stop::Completed,
        }
    }

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
    fn the_best_epoch_is_the_first_highest_and_never_an_undefined_one() {
        let mut epochs = run("head", "none", 1, &[0.6, 0.9, 0.9]).epochs;
        assert_eq!(best_epoch(&epochs, Metric::Accuracy).unwrap().epoch, 2);
        epochs[0].metrics = [(Metric::Accuracy, None)].into_iter().collect();
        epochs.truncate(2);
        assert_eq!(best_epoch(&epochs, Metric::Accuracy).unwrap().epoch, 2);
        assert_eq!(best_epoch(&epochs[..1], Metric::Accuracy).unwrap().epoch, 1);
        assert!(best_epoch(&[], Metric::Accuracy).is_none());
    }

    #[test]
    fn stops_go_round() {
        for stop in [
            Stop::Completed,
            Stop::Interrupted,
            Stop::NonFiniteLoss { step: 12 },
            Stop::NonFinite {
                what: "head.dense.weight after step 3".into(),
                step: 4,
            },
        ] {
            assert_eq!(stop.to_string().parse::<Stop>().unwrap(), stop);
        }
        assert_eq!(
            Stop::NonFiniteLoss { step: 12 }.to_string(),
            "non-finite loss at step 12"
        );
        assert!(
            "tired"
                .parse::<Stop>()
                .unwrap_err()
                .to_string()
                .contains("tired")
        );
    }
}

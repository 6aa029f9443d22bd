//! The result of one run.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::Stop;
use crate::metrics::{Metric, Scores};
use crate::tasks::{ByClass, Task, check_scores};

/// One method on one task with one seed.
///
/// The adapter and the head are counted separately. `trained_parameters`, `stored_parameters` and `stored_bytes` count only the adapter.
/// For `full` they count the trained base weights; for `head` they are 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// The method's name: `vblora`, `lora`, `head`, `full`, ...
    pub method: String,
    /// The adapted modules: `qv`, `all` or suffixes.
    pub targets: String,
    /// The task.
    pub task: Task,
    /// The seed.
    pub seed: u64,
    /// Every evaluation, after an epoch or, with [`EvaluationSettings::every`](crate::recipes::EvaluationSettings::every), within one.
    pub epochs: Vec<EpochResult>,
    /// The evaluation with the best primary metric on dev ([`best_epoch`]); `null` without an evaluation.
    pub best: Option<EpochScores>,
    /// The last evaluation; `null` without one.
    pub last: Option<EpochScores>,
    /// The scores of each class on dev at the best evaluation, if the task has classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_class: Option<ByClass>,
    /// The number of parameters that the optimizer changes.
    pub trained_parameters: u64,
    /// The number of stored parameters in float32-equivalents, as the paper counts them. It need not be whole.
    pub stored_parameters: f64,
    /// The number of stored bytes.
    pub stored_bytes: u64,
    /// Parameters of the task head. All of them are trained and stored.
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
    /// The metrics on dev before training, if the base has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Scores>,
    /// The speed of training steps, for tasks that measure it in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<Speed>,
    /// Scores of generated answers after training, by `BENCHMARK.NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<String, f64>,
    /// The reason why the run ended.
    #[serde(default)]
    pub stop: Stop,
}

impl RunResult {
    /// The run's name in logs: `vblora seed 1`.
    pub(crate) fn label(&self) -> String {
        format!("{} seed {}", self.method, self.seed)
    }

    /// The run's name in files: `vblora-seed1`.
    pub fn file_name(&self) -> String {
        format!("{}-seed{}", self.method, self.seed)
    }

    /// Returns true if each epoch so far has exactly one evaluation.
    pub fn is_by_epoch(&self) -> bool {
        let numbers = self.epochs.iter().map(|epoch| epoch.epoch);
        numbers.eq(1..=self.epochs.len())
    }

    /// Refuses numbers that no run can have.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        let epochs = self.epochs.iter();
        let epochs = epochs.map(|epoch| (format!("epoch {}", epoch.epoch), &epoch.metrics));
        let picked = [("best", &self.best), ("last", &self.last)];
        let picked = picked
            .into_iter()
            .filter_map(|(name, scores)| Some((name.to_owned(), &scores.as_ref()?.metrics)));
        let before = self.before.iter().map(|scores| ("before".into(), scores));
        for (name, scores) in epochs.chain(picked).chain(before) {
            check_scores(&self.task, scores).map_err(|problem| format!("{name}: {problem}"))?;
        }
        for (name, score) in &self.scores {
            check_at_least_0(name, *score)?;
        }
        check_at_least_0("seconds", self.seconds)?;
        check_at_least_0("stored_parameters", self.stored_parameters)?;
        check_at_least_0("speed", self.speed.map_or(0.0, |speed| speed.seconds))
    }
}

/// A number that cannot be below 0.
pub(super) fn check_at_least_0(field: &str, value: f64) -> std::result::Result<(), String> {
    match value >= 0.0 {
        true => Ok(()),
        false => Err(format!("{field}: expected at least 0, found {value}")),
    }
}

/// Tokens of training, and the time for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Tokens in training steps, without padding.
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

/// One evaluation of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochResult {
    /// The epoch that ended or was under way, from 1.
    pub epoch: usize,
    /// Optimizer steps taken. Files of earlier versions lack it; these versions evaluated at the ends of epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// The mean training loss since the evaluation before; `null` in the file if it is not finite.
    #[serde(deserialize_with = "nan_for_null")]
    pub train_loss: f64,
    /// The metrics on dev.
    pub metrics: Scores,
}

/// A selected evaluation of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochScores {
    /// The epoch that ended or was under way, from 1.
    pub epoch: usize,
    /// As in [`EpochResult::step`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// The metrics on dev.
    pub metrics: Scores,
}

impl From<&EpochResult> for EpochScores {
    fn from(epoch: &EpochResult) -> Self {
        Self {
            epoch: epoch.epoch,
            step: epoch.step,
            metrics: epoch.metrics.clone(),
        }
    }
}

/// The number of evaluations after the one with the best value of the metric.
pub fn since_best(epochs: &[EpochResult], metric: Metric) -> usize {
    let best = best_epoch(epochs, metric);
    let is_later = |epoch: &&EpochResult| !best.is_some_and(|best| std::ptr::eq(*epoch, best));
    epochs.iter().rev().take_while(is_later).count()
}

/// The evaluation with the best value of the metric, the first of equal ones. An undefined value is worse than every other.
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

/// The run with the best value of its task's primary metric at its best evaluation, the first of equal ones. Runs of several tasks do not
/// compare.
pub fn best_run<'a>(runs: impl IntoIterator<Item = &'a RunResult>) -> Option<&'a RunResult> {
    let scored = runs.into_iter().filter_map(|run| {
        let metric = run.task.primary_metric;
        let value = run.best.as_ref()?.metrics.get(metric);
        let merit = value.map_or(f64::NEG_INFINITY, |value| metric.merit(value));
        Some((merit, run))
    });
    let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.map(|(_, run)| run)
}

fn nan_for_null<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run on MRPC with these dev accuracies, one per epoch.
    pub(crate) fn run(method: &str, targets: &str, seed: u64, accuracies: &[f64]) -> RunResult {
        let epoch = |(i, accuracy): (usize, &f64)| EpochResult {
            epoch: i + 1,
            step: None,
            train_loss: 0.7 / (i + 1) as f64,
            metrics: [(Metric::Accuracy, Some(*accuracy)), (Metric::F1, Some(0.5))]
                .into_iter()
                .collect(),
        };
        let epochs: Vec<EpochResult> = accuracies.iter().enumerate().map(epoch).collect();
        RunResult {
            method: method.into(),
            targets: targets.into(),
            task: Task::mrpc(),
            seed,
            best: best_epoch(&epochs, Metric::Accuracy).map(EpochScores::from),
            last: epochs.last().map(EpochScores::from),
            by_class: None,
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
            scores: BTreeMap::new(),
            stop: Stop::Completed,
        }
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
    fn the_best_run_is_the_first_of_the_highest_and_one_that_was_evaluated() {
        let runs = [(1, 0.6), (2, 0.9), (3, 0.9), (4, 0.7)]
            .map(|(seed, accuracy)| run("lora", "qv", seed, &[accuracy]));
        assert_eq!(best_run(&runs).unwrap().seed, 2);
        let never = run("lora", "qv", 5, &[]);
        assert!(best_run([&never]).is_none());
        assert_eq!(best_run([&never, &runs[0]]).unwrap().seed, 1);
    }

    #[test]
    fn evaluations_since_the_best_are_counted_from_the_first_of_equal_ones() {
        let since = |accuracies: &[f64]| {
            since_best(&run("head", "none", 1, accuracies).epochs, Metric::Accuracy)
        };
        assert_eq!(
            [
                since(&[]),
                since(&[0.5]),
                since(&[0.5, 0.6]),
                since(&[0.6, 0.6, 0.5]),
                since(&[0.7, 0.6, 0.8, 0.5])
            ],
            [0, 0, 0, 2, 1]
        );
        // Smaller is better for the log-likelihood, and an undefined value is never better.
        let mut epochs = run("head", "none", 1, &[0.0; 3]).epochs;
        for (epoch, nll) in epochs.iter_mut().zip([Some(2.0), Some(1.0), None]) {
            epoch.metrics = [(Metric::Nll, nll)].into_iter().collect();
        }
        assert_eq!(since_best(&epochs, Metric::Nll), 1);
    }
}

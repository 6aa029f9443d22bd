//! A task's predictions against its labels.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{accuracy, f1, matthews, pearson, spearman};
use crate::tasks::{Label, Task};
use crate::{Error, Result};

/// A metric; larger is better in every one but [`Metric::Nll`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// The part of the rows predicted right.
    Accuracy,
    /// F1 of class 1.
    F1,
    /// The Matthews correlation coefficient.
    Matthews,
    /// Pearson's correlation.
    Pearson,
    /// Spearman's rank correlation.
    Spearman,
    /// The mean negative log-likelihood of a predicted token, in nats; smaller is better.
    Nll,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Self; 6] = [
        Self::Accuracy,
        Self::F1,
        Self::Matthews,
        Self::Pearson,
        Self::Spearman,
        Self::Nll,
    ];

    /// The name used in `results.json`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::F1 => "f1",
            Self::Matthews => "matthews",
            Self::Pearson => "pearson",
            Self::Spearman => "spearman",
            Self::Nll => "nll",
        }
    }

    /// The values that it can have, with room for rounding.
    fn range(&self) -> std::ops::RangeInclusive<f64> {
        const ROUNDING: f64 = 1e-9;
        match self {
            Self::Accuracy | Self::F1 => 0.0..=1.0 + ROUNDING,
            Self::Matthews | Self::Pearson | Self::Spearman => -1.0 - ROUNDING..=1.0 + ROUNDING,
            Self::Nll => 0.0..=f64::MAX,
        }
    }

    /// The value with its sign such that larger is better.
    pub fn merit(&self, value: f64) -> f64 {
        match self {
            Self::Nll => -value,
            _ => value,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Metric {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|metric| metric.name() == name);
        found.ok_or_else(|| Error::UnknownName {
            what: "metric",
            name: name.to_string(),
            expected: Self::ALL.map(|metric| metric.name()).join(", "),
        })
    }
}

/// Values of a task's metrics, by name and in a fixed order; `None` (JSON's `null`) is an undefined correlation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scores(BTreeMap<Metric, Option<f64>>);

impl Scores {
    /// The metric's value; `None` where it is undefined or the task does not have it.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.0.get(&metric).copied().flatten()
    }

    /// Whether the task has the metric, but it came out undefined.
    pub fn is_undefined(&self, metric: Metric) -> bool {
        matches!(self.0.get(&metric), Some(None))
    }

    /// Refuses scores that the task cannot have: other metrics, or values out of their range.
    pub(crate) fn check(&self, task: Task) -> std::result::Result<(), String> {
        let names = |metrics: &[Metric]| {
            let names: Vec<_> = metrics.iter().map(|metric| metric.name()).collect();
            names.join(", ")
        };
        for (metric, value) in self.iter() {
            if !task.metrics().contains(&metric) {
                let expected = names(task.metrics());
                return Err(format!(
                    "metrics: expected those of {task} ({expected}), found {metric}"
                ));
            }
            if let Some(value) = value.filter(|value| !metric.range().contains(value)) {
                return Err(format!("{metric}: {value} is out of its range"));
            }
        }
        Ok(())
    }

    /// Every metric of the task with its value.
    pub fn iter(&self) -> impl Iterator<Item = (Metric, Option<f64>)> + '_ {
        self.0.iter().map(|(metric, value)| (*metric, *value))
    }
}

impl FromIterator<(Metric, Option<f64>)> for Scores {
    fn from_iter<I: IntoIterator<Item = (Metric, Option<f64>)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// What a model says of each row, in the rows' order.
#[derive(Debug, Clone, PartialEq)]
pub enum Predictions {
    /// Class ids.
    Classes(Vec<usize>),
    /// Scores (STS-B); they need not lie in 0..=5.
    Scores(Vec<f32>),
}

impl Predictions {
    /// The number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Classes(classes) => classes.len(),
            Self::Scores(scores) => scores.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Every metric of the task ([`Task::metrics`]).
///
/// # Errors
/// No rows, unequal numbers of predictions and labels, classes where the task has scores or the reverse, a class
/// outside the task, a prediction that is not finite.
pub fn score(task: Task, predictions: &Predictions, labels: &[Label]) -> Result<Scores> {
    if predictions.len() != labels.len() || labels.is_empty() {
        let found = format!(
            "{} predictions for {} labels",
            predictions.len(),
            labels.len()
        );
        return Err(error(
            task,
            "one prediction for each of at least one label",
            found,
        ));
    }
    match predictions {
        Predictions::Classes(classes) if !task.is_regression() => {
            let gold = gold_classes(task, labels)?;
            check_classes(task, classes)?;
            Ok(task
                .metrics()
                .iter()
                .map(|metric| (*metric, classified(*metric, classes, &gold)))
                .collect())
        }
        Predictions::Scores(scores) if task.is_regression() => {
            if let Some(row) = scores.iter().position(|score| !score.is_finite()) {
                let found = format!("{} for example {}", scores[row], row + 1);
                return Err(error(task, "finite scores", found));
            }
            let scores: Vec<f64> = scores.iter().map(|score| f64::from(*score)).collect();
            let gold = gold_scores(task, labels)?;
            Ok(task
                .metrics()
                .iter()
                .map(|metric| (*metric, correlated(*metric, &scores, &gold)))
                .collect())
        }
        Predictions::Classes(_) => Err(error(task, "scores", "class ids".into())),
        Predictions::Scores(_) => Err(error(task, "class ids", "scores".into())),
    }
}

fn classified(metric: Metric, prediction: &[usize], gold: &[usize]) -> Option<f64> {
    match metric {
        Metric::Accuracy => Some(accuracy(prediction, gold)),
        Metric::F1 => Some(f1(prediction, gold)),
        Metric::Matthews => Some(matthews(prediction, gold)),
        Metric::Pearson | Metric::Spearman | Metric::Nll => None,
    }
}

fn correlated(metric: Metric, prediction: &[f64], gold: &[f64]) -> Option<f64> {
    match metric {
        Metric::Pearson => pearson(prediction, gold),
        Metric::Spearman => spearman(prediction, gold),
        Metric::Accuracy | Metric::F1 | Metric::Matthews | Metric::Nll => None,
    }
}

fn gold_classes(task: Task, labels: &[Label]) -> Result<Vec<usize>> {
    let classes: Option<Vec<usize>> = labels
        .iter()
        .map(|label| match label {
            Label::Class(class) => Some(*class),
            Label::Score(_) => None,
        })
        .collect();
    let classes = classes.ok_or_else(|| error(task, "classes as labels", "a score".into()))?;
    check_classes(task, &classes)?;
    Ok(classes)
}

fn gold_scores(task: Task, labels: &[Label]) -> Result<Vec<f64>> {
    let scores: Option<Vec<f64>> = labels
        .iter()
        .map(|label| match label {
            Label::Score(score) => Some(f64::from(*score)),
            Label::Class(_) => None,
        })
        .collect();
    scores.ok_or_else(|| error(task, "scores as labels", "a class".into()))
}

fn check_classes(task: Task, classes: &[usize]) -> Result<()> {
    match classes.iter().find(|class| **class >= task.labels()) {
        Some(class) => Err(error(
            task,
            &format!("classes below {}", task.labels()),
            class.to_string(),
        )),
        None => Ok(()),
    }
}

fn error(task: Task, expected: &str, found: String) -> Error {
    Error::Score {
        task: task.name(),
        expected: expected.to_string(),
        found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_gets_its_metrics_in_order() {
        let labels = [1, 1, 0, 1, 0].map(Label::Class);
        let predictions = Predictions::Classes(vec![1, 1, 1, 0, 0]);
        let mrpc = score(Task::Mrpc, &predictions, &labels).unwrap();
        assert_eq!(mrpc.get(Metric::Accuracy), Some(0.6));
        assert_eq!(mrpc.get(Metric::Pearson), None);
        assert!(!mrpc.is_undefined(Metric::Pearson));
        let json = serde_json::to_string(&mrpc).unwrap();
        assert!(json.starts_with("{\"accuracy\":0.6,\"f1\":0.666"), "{json}");
        assert_eq!(serde_json::from_str::<Scores>(&json).unwrap(), mrpc);
        let rte = score(Task::Rte, &predictions, &labels).unwrap();
        assert_eq!(serde_json::to_string(&rte).unwrap(), "{\"accuracy\":0.6}");
    }

    #[test]
    fn undefined_correlations_are_null() {
        let labels = [1.0, 2.0].map(Label::Score);
        let same = Predictions::Scores(vec![2.5; 2]);
        let scores = score(Task::Stsb, &same, &labels).unwrap();
        assert!(scores.is_undefined(Metric::Pearson));
        assert_eq!(
            serde_json::to_string(&scores).unwrap(),
            "{\"pearson\":null,\"spearman\":null}"
        );
    }

    #[test]
    fn a_prediction_that_is_no_number_is_refused_not_scored() {
        let labels = [1.0, 2.0].map(Label::Score);
        for wrong in [f32::NAN, f32::INFINITY] {
            let predictions = Predictions::Scores(vec![0.5, wrong]);
            let error = score(Task::Stsb, &predictions, &labels).unwrap_err();
            let words = format!("expected finite scores, found {wrong} for example 2");
            assert!(error.to_string().contains(&words), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_scored_says_why() {
        let classes = |ids: &[usize]| Predictions::Classes(ids.to_vec());
        let message = |task, predictions, labels: &[Label]| {
            score(task, &predictions, labels).unwrap_err().to_string()
        };
        let one = [Label::Class(1)];
        assert!(message(Task::Cola, classes(&[1, 0]), &one).contains("2 predictions for 1 labels"));
        assert!(message(Task::Cola, classes(&[]), &[]).contains("0 predictions"));
        assert!(message(Task::Cola, classes(&[2]), &one).contains("below 2, found 2"));
        assert!(message(Task::Cola, classes(&[1]), &[Label::Class(7)]).contains("found 7"));
        assert!(message(Task::Cola, classes(&[1]), &[Label::Score(1.0)]).contains("a score"));
        assert!(message(Task::Stsb, classes(&[1]), &one).contains("stsb: expected scores"));
        assert!(message(Task::Cola, Predictions::Scores(vec![0.5]), &one).contains("class ids"));
        assert!(
            "bleu"
                .parse::<Metric>()
                .unwrap_err()
                .to_string()
                .contains("bleu")
        );
    }
}

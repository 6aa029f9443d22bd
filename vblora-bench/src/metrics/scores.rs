//! Metrics by name, and their values.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A metric. Larger is better, except for errors and [`Metric::Nll`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The share of rows with a correct prediction.
    Accuracy,
    /// F1 of class 1.
    F1,
    /// The Matthews correlation coefficient.
    Matthews,
    /// Pearson's correlation.
    Pearson,
    /// Spearman's rank correlation.
    Spearman,
    /// The mean negative log-likelihood of a predicted token, in nats. Smaller is better.
    Nll,
    /// The mean of F1 over the classes.
    F1Macro,
    /// F1 over all pairs of row and class.
    F1Micro,
    /// The mean of F1 over the classes, weighted by their rows.
    F1Weighted,
    /// The mean of recall over the classes.
    BalancedAccuracy,
    /// The share of rows whose labels are all right.
    SubsetAccuracy,
    /// The mean squared error. Smaller is better.
    Mse,
    /// The mean absolute error. Smaller is better.
    Mae,
    /// The coefficient of determination.
    R2,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Self; 14] = [
        Self::Accuracy,
        Self::F1,
        Self::Matthews,
        Self::Pearson,
        Self::Spearman,
        Self::Nll,
        Self::F1Macro,
        Self::F1Micro,
        Self::F1Weighted,
        Self::BalancedAccuracy,
        Self::SubsetAccuracy,
        Self::Mse,
        Self::Mae,
        Self::R2,
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
            Self::F1Macro => "f1_macro",
            Self::F1Micro => "f1_micro",
            Self::F1Weighted => "f1_weighted",
            Self::BalancedAccuracy => "balanced_accuracy",
            Self::SubsetAccuracy => "subset_accuracy",
            Self::Mse => "mse",
            Self::Mae => "mae",
            Self::R2 => "r2",
        }
    }

    /// The possible values, with a tolerance for rounding.
    pub(crate) fn range(&self) -> std::ops::RangeInclusive<f64> {
        const ROUNDING: f64 = 1e-9;
        match self {
            Self::Accuracy
            | Self::F1
            | Self::F1Macro
            | Self::F1Micro
            | Self::F1Weighted
            | Self::BalancedAccuracy
            | Self::SubsetAccuracy => 0.0..=1.0 + ROUNDING,
            Self::Matthews | Self::Pearson | Self::Spearman => -1.0 - ROUNDING..=1.0 + ROUNDING,
            Self::Nll | Self::Mse | Self::Mae => 0.0..=f64::MAX,
            Self::R2 => f64::MIN..=1.0 + ROUNDING,
        }
    }

    /// Returns true if a smaller value is better.
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::Nll | Self::Mse | Self::Mae)
    }

    /// What tables multiply values by: the paper prints shares and correlations times 100. A loss is printed as it is.
    pub(crate) fn scale(&self) -> f64 {
        match self.is_loss() {
            true => 1.0,
            false => 100.0,
        }
    }

    /// The value with the sign that makes larger better.
    pub fn merit(&self, value: f64) -> f64 {
        match self.is_loss() {
            true => -value,
            false => value,
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

/// Values of a task's metrics, by name and in a fixed order. `None` (JSON's `null`) is an undefined correlation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scores(BTreeMap<Metric, Option<f64>>);

impl Scores {
    /// The metric's value. `None` if it is undefined, or if the task does not have it.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.0.get(&metric).copied().flatten()
    }

    /// Returns true if the task has the metric and its value is undefined.
    pub fn is_undefined(&self, metric: Metric) -> bool {
        matches!(self.0.get(&metric), Some(None))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_metric_is_named() {
        assert!(
            "bleu"
                .parse::<Metric>()
                .unwrap_err()
                .to_string()
                .contains("bleu")
        );
    }
}

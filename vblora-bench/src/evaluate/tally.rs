//! Scores of answers, by name.

use std::collections::BTreeMap;

use super::{Answer, math::Scorer};

/// The score of one metric or scorer.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The name of the metric or scorer.
    pub name: String,
    /// The value; `None` if it is undefined or its program is missing.
    pub value: Option<f64>,
    /// The counts behind an accuracy.
    pub tally: Option<Tally>,
}

/// The counts behind an accuracy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Answers that are right.
    pub correct: usize,
    /// Answers in which the scorer finds no answer. They count as wrong.
    pub invalid: usize,
    /// All answers.
    pub count: usize,
}

/// The 97.5 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

impl Tally {
    /// The share of right answers.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.count as f64
    }

    /// Wilson's 95 % interval of the accuracy.
    pub fn interval(&self) -> (f64, f64) {
        let (n, p) = (self.count as f64, self.accuracy());
        let scale = 1.0 + Z * Z / n;
        let middle = (p + Z * Z / (2.0 * n)) / scale;
        let half = Z / scale * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        ((middle - half).max(0.0), (middle + half).min(1.0))
    }
}

/// The tally of each scorer, over answers with one reference each.
pub(super) fn tallies(scorers: &[Scorer], answers: &[Answer]) -> Vec<Score> {
    let tally = |scorer: &Scorer| {
        let mut tally = Tally {
            correct: 0,
            invalid: 0,
            count: answers.len(),
        };
        for answer in answers {
            let expected = answer.references.first().map_or("", String::as_str);
            let judgement = scorer.judge(&answer.answer, expected);
            tally.correct += usize::from(judgement.correct);
            tally.invalid += usize::from(judgement.found.is_none());
        }
        Score {
            name: scorer.name.into(),
            value: Some(tally.accuracy()),
            tally: Some(tally),
        }
    };
    scorers.iter().map(tally).collect()
}

/// The defined values as `BENCHMARK.NAME`, the form in which results hold them.
pub fn named(benchmark: &str, scores: &[Score]) -> BTreeMap<String, f64> {
    let value = |score: &Score| Some((format!("{benchmark}.{}", score.name), score.value?));
    scores.iter().filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of Wilson's formula, computed in Python.
    #[test]
    fn wilsons_interval_has_the_known_values() {
        for (correct, count, low, high) in [
            (0, 10, 0.0, 0.277_532_8),
            (10, 10, 0.722_467_2, 1.0),
            (3, 200, 0.005_114_24, 0.043_165_73),
        ] {
            let tally = Tally {
                correct,
                invalid: 0,
                count,
            };
            let (a, b) = tally.interval();
            assert!((a - low).abs() < 1e-7 && (b - high).abs() < 1e-7, "{a} {b}");
        }
    }
}

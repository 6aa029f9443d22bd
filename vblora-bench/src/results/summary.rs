//! Medians over seeds.

use serde::{Deserialize, Serialize};

use super::{EpochScores, RunResult, run::check_at_least_0};
use crate::metrics::Metric;
use crate::tasks::{Task, check_scores};

/// Median and standard deviation of one value over several runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The median. For an even number of values, the mean of the middle two.
    pub median: f64,
    /// The sample standard deviation (divisor n - 1); 0 for one value.
    pub sd: f64,
    /// The number of values.
    pub count: usize,
}

impl Spread {
    /// The spread of the finite values; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values
            .into_iter()
            .filter(|value| value.is_finite())
            .collect();
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let upper = *values.get(count / 2)?;
        let median = if count % 2 == 1 {
            upper
        } else {
            (values[count / 2 - 1] + upper) / 2.0
        };
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let sd = if count == 1 {
            0.0
        } else {
            (squares / (count - 1) as f64).sqrt()
        };
        Some(Self { median, sd, count })
    }
}

/// One row of the summary: the runs of one method with one set of targets on one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The task.
    pub task: Task,
    /// The method.
    pub method: String,
    /// The adapted modules.
    pub targets: String,
    /// The task's primary metric, used for `best` and `last`.
    pub metric: Metric,
    /// The number of runs, one per seed.
    pub runs: usize,
    /// The number of runs that did not finish. They count with their results so far.
    pub unfinished: usize,
    /// The number of runs with an undefined metric at their best or last epoch. It counts as 0.
    pub undefined: usize,
    /// The spread over each run's best epoch; `null` if no run reached an evaluation.
    pub best: Option<Spread>,
    /// The spread over each run's last epoch.
    pub last: Option<Spread>,
    /// As in [`RunResult::trained_parameters`].
    pub trained_parameters: u64,
    /// As in [`RunResult::stored_parameters`].
    pub stored_parameters: f64,
    /// As in [`RunResult::stored_bytes`].
    pub stored_bytes: u64,
    /// As in [`RunResult::head_parameters`].
    pub head_parameters: u64,
    /// As in [`RunResult::head_bytes`].
    pub head_bytes: u64,
    /// The median of the runs' seconds.
    pub seconds: f64,
    /// The primary metric before training, if the base has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<f64>,
    /// The median of the runs' training tokens per second, for tasks that measure speed in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
}

impl Summary {
    /// Refuses numbers that no runs come to.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        let spreads = || self.best.iter().chain(&self.last);
        let medians = spreads().map(|spread| spread.median).chain(self.before);
        let in_range = medians.map(|median| (self.metric, Some(median)));
        let scores = in_range.map(|score| check_scores(&self.task, &[score].into_iter().collect()));
        let deviations = spreads().map(|spread| check_at_least_0("sd", spread.sd));
        let seconds = check_at_least_0("seconds", self.seconds);
        let checks = scores.chain(deviations).chain([seconds]);
        let named = |problem| format!("summary of {} on {}: {problem}", self.method, self.targets);
        checks
            .into_iter()
            .collect::<std::result::Result<(), String>>()
            .map_err(named)
    }
}

/// One summary per (task, method, targets), in the order of their first run.
pub fn summarise(runs: &[RunResult]) -> Vec<Summary> {
    let mut groups: Vec<Vec<&RunResult>> = Vec::new();
    for run in runs {
        let same = |group: &&mut Vec<&RunResult>| {
            let first = group[0];
            (&first.task, &first.method, &first.targets) == (&run.task, &run.method, &run.targets)
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(run),
            None => groups.push(vec![run]),
        }
    }
    groups
        .iter()
        .map(|group| summary(group[0], group))
        .collect()
}

fn summary(first: &RunResult, group: &[&RunResult]) -> Summary {
    let metric = first.task.primary_metric;
    let ends = || {
        group
            .iter()
            .map(|run| (run.best.as_ref(), run.last.as_ref()))
    };
    let value = |scores: &EpochScores| scores.metrics.get(metric).unwrap_or(0.0);
    let undefined = |scores: Option<&EpochScores>| {
        scores.is_some_and(|scores| scores.metrics.get(metric).is_none())
    };
    Summary {
        task: first.task.clone(),
        method: first.method.clone(),
        targets: first.targets.clone(),
        metric,
        runs: group.len(),
        unfinished: group.iter().filter(|run| !run.stop.is_finished()).count(),
        undefined: ends()
            .filter(|(best, last)| undefined(*best) || undefined(*last))
            .count(),
        best: Spread::of(ends().filter_map(|(best, _)| best).map(value)),
        last: Spread::of(ends().filter_map(|(_, last)| last).map(value)),
        trained_parameters: first.trained_parameters,
        stored_parameters: first.stored_parameters,
        stored_bytes: first.stored_bytes,
        head_parameters: first.head_parameters,
        head_bytes: first.head_bytes,
        seconds: Spread::of(group.iter().map(|run| run.seconds))
            .map_or(0.0, |spread| spread.median),
        before: first.before.as_ref().and_then(|scores| scores.get(metric)),
        tokens_per_second: Spread::of(group.iter().filter_map(|run| run.speed).map(|s| s.rate()))
            .map(|spread| spread.median),
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_run as run;
    use super::*;

    #[test]
    fn median_and_deviation() {
        let odd = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.sd, odd.count), (2.0, 1.0, 3));
        let even = Spread::of([4.0, 1.0, 2.0, 9.0]).unwrap();
        assert_eq!(even.median, 3.0);
        assert!(
            (even.sd - (38.0f64 / 3.0).sqrt()).abs() < 1e-12,
            "{}",
            even.sd
        );
        assert_eq!(
            Spread::of([0.25]),
            Some(Spread {
                median: 0.25,
                sd: 0.0,
                count: 1
            })
        );
        assert_eq!(
            Spread::of([f64::NAN, 0.25, f64::INFINITY]).unwrap().count,
            1
        );
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn runs_are_grouped_over_seeds() {
        let runs = [
            run("vblora", "qv", 1, &[0.7, 0.9, 0.8]),
            run("lora", "qv", 1, &[0.6]),
            run("vblora", "qv", 2, &[0.5]),
            run("vblora", "all", 1, &[0.4]),
        ];
        let summary = summarise(&runs);
        let names: Vec<_> = summary
            .iter()
            .map(|s| (s.method.as_str(), s.targets.as_str(), s.runs))
            .collect();
        assert_eq!(
            names,
            [("vblora", "qv", 2), ("lora", "qv", 1), ("vblora", "all", 1)]
        );
        assert!((summary[0].best.unwrap().median - 0.7).abs() < 1e-12);
        assert!((summary[0].last.unwrap().median - 0.65).abs() < 1e-12);
        assert!(summarise(&[]).is_empty());
    }
}

//! Tasks of the user's own data, made at run time.

use serde::{Deserialize, Serialize};

use super::{
    score::is_metric_of,
    task::{Columns, Fields, Kind, Target, Task},
};
use crate::{Error, Result, metrics::Metric};

/// A task with all its parts, as recipes and results hold it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Definition {
    name: String,
    fields: Fields,
    target: Target,
    primary_metric: Metric,
    #[serde(default)]
    other_metrics: Vec<Metric>,
}

impl Task {
    /// A task of the user's own data: columns by name, and labels. Its metrics are those of its kind of labels, with the first one primary.
    pub fn own(name: impl Into<String>, columns: Columns<String>, target: Target) -> Self {
        let (primary_metric, other_metrics) = metrics(&target);
        Self {
            name: name.into(),
            kind: Kind::Labelled {
                fields: Fields::Named(columns),
                target,
            },
            primary_metric,
            other_metrics,
        }
    }

    /// The same task with another primary metric, one of its metrics.
    ///
    /// # Errors
    /// The task does not have the metric. The error lists its metrics.
    pub fn with_primary_metric(self, metric: Metric) -> Result<Self> {
        let all: Vec<Metric> = self.metrics().collect();
        if !all.contains(&metric) {
            let names: Vec<_> = all.iter().map(Metric::name).collect();
            return Err(Error::Setting {
                setting: "metric".into(),
                expected: format!("one of task {self}: {}", names.join(", ")),
                found: metric.to_string(),
            });
        }
        let others = all.into_iter().filter(|other| *other != metric);
        Ok(Self {
            primary_metric: metric,
            other_metrics: others.collect(),
            ..self
        })
    }
}

/// The primary metric and the others of a kind of labels.
fn metrics(target: &Target) -> (Metric, Vec<Metric>) {
    let all: &[Metric] = match target {
        Target::Classes { names, .. } => match names.len() {
            // F1 is that of class 1, so it is for two classes only.
            2 => &[
                Metric::Accuracy,
                Metric::F1,
                Metric::F1Macro,
                Metric::BalancedAccuracy,
                Metric::Matthews,
            ],
            _ => &[
                Metric::Accuracy,
                Metric::F1Macro,
                Metric::F1Weighted,
                Metric::BalancedAccuracy,
                Metric::Matthews,
            ],
        },
        Target::Sets { .. } => &[Metric::F1Micro, Metric::F1Macro, Metric::SubsetAccuracy],
        Target::Number { .. } => &[
            Metric::Pearson,
            Metric::Spearman,
            Metric::Mse,
            Metric::Mae,
            Metric::R2,
        ],
    };
    (all[0], all[1..].to_vec())
}

impl Definition {
    /// The definition of a task with labels; `None` for texts.
    pub(super) fn of(task: &Task) -> Option<Self> {
        let Kind::Labelled { fields, target } = &task.kind else {
            return None;
        };
        Some(Self {
            name: task.name.clone(),
            fields: fields.clone(),
            target: target.clone(),
            primary_metric: task.primary_metric,
            other_metrics: task.other_metrics.clone(),
        })
    }

    /// The task, if its parts fit together.
    pub(super) fn task(self) -> std::result::Result<Task, String> {
        check_target(&self.target)?;
        let mut metrics = std::iter::once(self.primary_metric).chain(self.other_metrics.clone());
        if let Some(other) = metrics.find(|metric| !is_metric_of(&self.target, *metric)) {
            return Err(format!("task: {other} is no metric of its kind of labels"));
        }
        Ok(Task {
            name: self.name,
            kind: Kind::Labelled {
                fields: self.fields,
                target: self.target,
            },
            primary_metric: self.primary_metric,
            other_metrics: self.other_metrics,
        })
    }
}

fn check_target(target: &Target) -> std::result::Result<(), String> {
    match target {
        // An empty separator would make each character a label.
        Target::Sets {
            separator: Some(separator),
            ..
        } if separator.is_empty() => Err("task: expected a separator, found an empty one".into()),
        Target::Classes { names, .. } | Target::Sets { names, .. } => check_names(names),
        Target::Number { lowest, highest } if lowest <= highest => Ok(()),
        Target::Number { lowest, highest } => Err(format!(
            "task: expected lowest <= highest, found {lowest} and {highest}"
        )),
    }
}

/// Refuses names of classes that are not at least one, or not all different.
pub(super) fn check_names(names: &[String]) -> std::result::Result<(), String> {
    let twice = (1..names.len()).find(|&i| names[..i].contains(&names[i]));
    match twice {
        Some(i) => Err(format!("task: class {:?} is listed twice", names[i])),
        None if names.is_empty() => Err("task: expected at least one class, found none".into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn definitions_whose_parts_do_not_fit_are_refused() {
        let definition = json!({
            "name": "tags",
            "fields": {"named": {"first": "text", "label": "tags"}},
            "target": {"sets": {"names": ["a", "b"], "separator": ";"}},
            "primary_metric": "f1_micro",
        });
        serde_json::from_value::<Task>(definition.clone()).unwrap();
        for (place, value, expected) in [
            ("/target/sets/names/1", json!("a"), "listed twice"),
            ("/target/sets/separator", json!(""), "a separator"),
            (
                "/target/sets",
                json!({"names": ["a"], "split": ";"}),
                "`split`",
            ),
            (
                "/fields/named",
                json!({"first": "a", "label": "b", "pair": "c"}),
                "`pair`",
            ),
            ("/primary_metric", json!("pearson"), "pearson is no metric"),
        ] {
            let mut wrong = definition.clone();
            *wrong.pointer_mut(place).unwrap() = value;
            let error = serde_json::from_value::<Task>(wrong).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}

//! Scores a task's predictions against its labels.

use super::{
    evaluation::{ByClass, Evaluation},
    example::Label,
    task::{Target, Task},
};
use crate::metrics::{
    ClassCounts, Confusion, Metric, Scores, accuracy, balanced_accuracy, f1, f1_macro, f1_micro,
    f1_weighted, label_counts, mae, matthews, mean_f1, mse, pearson, pooled_f1, r2, spearman,
    subset_accuracy, weighted_f1,
};
use crate::{Error, Result};

/// A model's prediction for each row, in the rows' order.
#[derive(Debug, Clone, PartialEq)]
pub enum Predictions {
    /// Class ids.
    Classes(Vec<usize>),
    /// The class ids of each row, ascending and each once (multi-label).
    Sets(Vec<Vec<usize>>),
    /// Numbers (regression). They may lie outside the range of the labels.
    Values(Vec<f32>),
}

impl Predictions {
    /// The number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Classes(classes) => classes.len(),
            Self::Sets(sets) => sets.len(),
            Self::Values(values) => values.len(),
        }
    }

    /// Returns true if there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Refuses scores that are impossible for the task: other metrics, or values out of range.
pub(crate) fn check_scores(task: &Task, scores: &Scores) -> std::result::Result<(), String> {
    for (metric, value) in scores.iter() {
        if !task.metrics().any(|known| known == metric) {
            let expected: Vec<_> = task.metrics().map(|known| known.name()).collect();
            let expected = expected.join(", ");
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

/// Computes every metric of the task ([`Task::metrics`]).
///
/// # Errors
/// As [`evaluate`].
pub fn score(task: &Task, predictions: &Predictions, labels: &[Label]) -> Result<Scores> {
    Ok(evaluate(task, predictions, labels)?.scores)
}

/// Computes every metric of the task, and the scores of each class.
///
/// # Errors
/// There are no rows, or the numbers of predictions and labels differ. The predictions are of the wrong kind for the task (classes, sets
/// or numbers). A class is unknown, or a prediction is not finite.
pub fn evaluate(task: &Task, predictions: &Predictions, labels: &[Label]) -> Result<Evaluation> {
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
        Predictions::Classes(classes) if !task.is_regression() && !task.is_multi_label() => {
            let gold = gold_classes(task, labels)?;
            check_classes(task, classes)?;
            Ok(of_classes(task, classes, &gold))
        }
        Predictions::Sets(sets) if task.is_multi_label() => {
            let gold = gold_sets(task, labels)?;
            sets.iter().try_for_each(|set| check_classes(task, set))?;
            Ok(of_sets(task, sets, &gold))
        }
        Predictions::Values(values) if task.is_regression() => {
            if let Some(row) = values.iter().position(|value| !value.is_finite()) {
                let found = format!("{} for example {}", values[row], row + 1);
                return Err(error(task, "finite scores", found));
            }
            let values: Vec<f64> = values.iter().map(|value| f64::from(*value)).collect();
            let gold = gold_values(task, labels)?;
            let scores = scores(task, |metric| correlated(metric, &values, &gold));
            Ok(scores.into())
        }
        Predictions::Classes(_) => Err(error(task, expected(task), "class ids".into())),
        Predictions::Sets(_) => Err(error(task, expected(task), "sets of class ids".into())),
        Predictions::Values(_) => Err(error(task, expected(task), "scores".into())),
    }
}

/// Returns true if the metric is computed from labels of this kind.
pub(super) fn is_metric_of(target: &Target, metric: Metric) -> bool {
    // Two different numbers, because a constant has no correlation.
    let numbers = [0.0, 1.0];
    let value = match target {
        Target::Classes { .. } => classified(metric, &[], &[]),
        Target::Sets { .. } => of_counts(metric, &[], 0.0),
        Target::Number { .. } => correlated(metric, &numbers, &numbers),
    };
    value.is_some()
}

fn scores(task: &Task, value: impl Fn(Metric) -> Option<f64>) -> Scores {
    task.metrics()
        .map(|metric| (metric, value(metric)))
        .collect()
}

fn of_classes(task: &Task, prediction: &[usize], gold: &[usize]) -> Evaluation {
    let names = task.classes();
    let confusion = Confusion::new(names.len(), prediction, gold);
    let counts = confusion.classes();
    Evaluation {
        scores: scores(task, |metric| classified(metric, prediction, gold)),
        by_class: Some(ByClass::new(names, &counts, Some(confusion.into_rows()))),
    }
}

fn of_sets(task: &Task, prediction: &[Vec<usize>], gold: &[Vec<usize>]) -> Evaluation {
    let names = task.classes();
    let [prediction, gold] = [prediction, gold].map(|sets| indicators(sets, names.len()));
    let counts = label_counts(names.len(), &prediction, &gold);
    let whole = subset_accuracy(&prediction, &gold);
    Evaluation {
        scores: scores(task, |metric| of_counts(metric, &counts, whole)),
        by_class: Some(ByClass::new(names, &counts, None)),
    }
}

/// A truth value for each class of each row.
fn indicators(sets: &[Vec<usize>], classes: usize) -> Vec<Vec<bool>> {
    let row = |set: &Vec<usize>| {
        let mut row = vec![false; classes];
        set.iter().for_each(|class| row[*class] = true);
        row
    };
    sets.iter().map(row).collect()
}

fn classified(metric: Metric, prediction: &[usize], gold: &[usize]) -> Option<f64> {
    match metric {
        Metric::Accuracy => Some(accuracy(prediction, gold)),
        Metric::F1 => Some(f1(prediction, gold)),
        Metric::Matthews => Some(matthews(prediction, gold)),
        Metric::F1Macro => Some(f1_macro(prediction, gold)),
        Metric::F1Micro => Some(f1_micro(prediction, gold)),
        Metric::F1Weighted => Some(f1_weighted(prediction, gold)),
        Metric::BalancedAccuracy => Some(balanced_accuracy(prediction, gold)),
        // The whole set of a row with one class is that class.
        Metric::SubsetAccuracy => Some(accuracy(prediction, gold)),
        Metric::Pearson
        | Metric::Spearman
        | Metric::Nll
        | Metric::Mse
        | Metric::Mae
        | Metric::R2 => None,
    }
}

/// The kind of predictions that a task has.
fn expected(task: &Task) -> &'static str {
    match task.target() {
        Some(Target::Classes { .. }) => "class ids",
        Some(Target::Sets { .. }) => "sets of class ids",
        Some(Target::Number { .. }) => "scores",
        None => "a task with labels",
    }
}

/// A metric of sets. Accuracy is the share of rows whose whole set is right, as in scikit-learn.
fn of_counts(metric: Metric, counts: &[ClassCounts], whole: f64) -> Option<f64> {
    match metric {
        Metric::Accuracy | Metric::SubsetAccuracy => Some(whole),
        Metric::F1Macro => Some(mean_f1(counts)),
        Metric::F1Micro => Some(pooled_f1(counts)),
        Metric::F1Weighted => Some(weighted_f1(counts)),
        Metric::F1
        | Metric::Matthews
        | Metric::BalancedAccuracy
        | Metric::Pearson
        | Metric::Spearman
        | Metric::Nll
        | Metric::Mse
        | Metric::Mae
        | Metric::R2 => None,
    }
}

fn correlated(metric: Metric, prediction: &[f64], gold: &[f64]) -> Option<f64> {
    match metric {
        Metric::Pearson => pearson(prediction, gold),
        Metric::Spearman => spearman(prediction, gold),
        Metric::Mse => mse(prediction, gold),
        Metric::Mae => mae(prediction, gold),
        Metric::R2 => r2(prediction, gold),
        Metric::Accuracy
        | Metric::F1
        | Metric::Matthews
        | Metric::Nll
        | Metric::F1Macro
        | Metric::F1Micro
        | Metric::F1Weighted
        | Metric::BalancedAccuracy
        | Metric::SubsetAccuracy => None,
    }
}

fn gold_classes(task: &Task, labels: &[Label]) -> Result<Vec<usize>> {
    let classes: Option<Vec<usize>> = labels
        .iter()
        .map(|label| match label {
            Label::Class(class) => Some(*class),
            Label::Classes(_) | Label::Value(_) => None,
        })
        .collect();
    let classes = classes.ok_or_else(|| error(task, "classes as labels", "a score".into()))?;
    check_classes(task, &classes)?;
    Ok(classes)
}

fn gold_sets(task: &Task, labels: &[Label]) -> Result<Vec<Vec<usize>>> {
    let sets = labels.iter().map(|label| match label {
        Label::Classes(set) => Some(set.clone()),
        Label::Class(_) | Label::Value(_) => None,
    });
    let sets: Option<Vec<Vec<usize>>> = sets.collect();
    let sets = sets.ok_or_else(|| error(task, "sets of classes as labels", "another".into()))?;
    sets.iter().try_for_each(|set| check_classes(task, set))?;
    Ok(sets)
}

fn gold_values(task: &Task, labels: &[Label]) -> Result<Vec<f64>> {
    let values: Option<Vec<f64>> = labels
        .iter()
        .map(|label| match label {
            Label::Value(value) => Some(f64::from(*value)),
            Label::Class(_) | Label::Classes(_) => None,
        })
        .collect();
    values.ok_or_else(|| error(task, "scores as labels", "a class".into()))
}

fn check_classes(task: &Task, classes: &[usize]) -> Result<()> {
    match classes.iter().find(|class| **class >= task.outputs()) {
        Some(class) => Err(error(
            task,
            &format!("classes below {}", task.outputs()),
            class.to_string(),
        )),
        None => Ok(()),
    }
}

fn error(task: &Task, expected: &str, found: String) -> Error {
    Error::Score {
        task: task.name().to_owned(),
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
        let mrpc = score(&Task::mrpc(), &predictions, &labels).unwrap();
        assert_eq!(mrpc.get(Metric::Accuracy), Some(0.6));
        assert_eq!(mrpc.get(Metric::Pearson), None);
        assert!(!mrpc.is_undefined(Metric::Pearson));
        let json = serde_json::to_string(&mrpc).unwrap();
        assert!(json.starts_with("{\"accuracy\":0.6,\"f1\":0.666"), "{json}");
        assert_eq!(serde_json::from_str::<Scores>(&json).unwrap(), mrpc);
        let rte = score(&Task::rte(), &predictions, &labels).unwrap();
        assert_eq!(serde_json::to_string(&rte).unwrap(), "{\"accuracy\":0.6}");
    }

    #[test]
    fn undefined_correlations_are_null() {
        let labels = [1.0, 2.0].map(Label::Value);
        let same = Predictions::Values(vec![2.5; 2]);
        let scores = score(&Task::stsb(), &same, &labels).unwrap();
        assert!(scores.is_undefined(Metric::Pearson));
        assert_eq!(
            serde_json::to_string(&scores).unwrap(),
            "{\"pearson\":null,\"spearman\":null}"
        );
    }

    #[test]
    fn a_prediction_that_is_no_number_is_refused_not_scored() {
        let labels = [1.0, 2.0].map(Label::Value);
        for wrong in [f32::NAN, f32::INFINITY] {
            let predictions = Predictions::Values(vec![0.5, wrong]);
            let error = score(&Task::stsb(), &predictions, &labels).unwrap_err();
            let words = format!("expected finite scores, found {wrong} for example 2");
            assert!(error.to_string().contains(&words), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_scored_says_why() {
        let classes = |ids: &[usize]| Predictions::Classes(ids.to_vec());
        let message = |task: fn() -> Task, predictions, labels: &[Label]| {
            score(&task(), &predictions, labels)
                .unwrap_err()
                .to_string()
        };
        let one = [Label::Class(1)];
        assert!(message(Task::cola, classes(&[1, 0]), &one).contains("2 predictions for 1 labels"));
        assert!(message(Task::cola, classes(&[]), &[]).contains("0 predictions"));
        assert!(message(Task::cola, classes(&[2]), &one).contains("below 2, found 2"));
        assert!(message(Task::cola, classes(&[1]), &[Label::Class(7)]).contains("found 7"));
        assert!(message(Task::cola, classes(&[1]), &[Label::Value(1.0)]).contains("a score"));
        assert!(message(Task::stsb, classes(&[1]), &one).contains("stsb: expected scores"));
        assert!(message(Task::cola, Predictions::Values(vec![0.5]), &one).contains("class ids"));
    }
}

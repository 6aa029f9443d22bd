//! Scores where a row may have any number of labels, as scikit-learn computes them from indicator matrices.
//!
//! A row is one truth value for each label. Predictions and labels are paired up to the shorter of the two.

use super::counts::{ClassCounts, ratio};

/// The counts of each label, from which [`mean_f1`](super::mean_f1) and the others compute scores.
///
/// # Panics
/// A row has more values than `labels`.
pub fn label_counts(
    labels: usize,
    prediction: &[Vec<bool>],
    gold: &[Vec<bool>],
) -> Vec<ClassCounts> {
    let mut counts = vec![ClassCounts::default(); labels];
    for (prediction, gold) in prediction.iter().zip(gold) {
        for (label, (prediction, gold)) in prediction.iter().zip(gold).enumerate() {
            counts[label].add(*prediction, *gold);
        }
    }
    counts
}

/// The share of rows whose labels are all right (scikit-learn's accuracy of such rows); 0 for no rows.
pub fn subset_accuracy(prediction: &[Vec<bool>], gold: &[Vec<bool>]) -> f64 {
    let right = prediction.iter().zip(gold).filter(|(p, g)| p == g).count();
    ratio(right, prediction.len().min(gold.len()))
}

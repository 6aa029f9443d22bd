//! Counts of predictions for each class, scikit-learn's scores of them, and the confusion matrix.

use serde::{Deserialize, Serialize};

/// Counts of one class. Scores that divide by 0 are 0, as with scikit-learn's `zero_division=0`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClassCounts {
    /// Rows of the class that are predicted to be of it.
    pub hits: usize,
    /// Rows that are predicted to be of the class.
    pub predicted: usize,
    /// Rows of the class (scikit-learn's support).
    pub gold: usize,
}

/// The scores of one class, in the form in which files hold them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassScores {
    /// The share of the rows predicted to be of the class that are of it.
    pub precision: f64,
    /// The share of the rows of the class that are predicted to be of it.
    pub recall: f64,
    /// The harmonic mean of precision and recall.
    pub f1: f64,
    /// The number of rows of the class.
    pub support: usize,
}

impl ClassCounts {
    /// Counts one row.
    pub fn add(&mut self, is_predicted: bool, is_gold: bool) {
        self.hits += usize::from(is_predicted && is_gold);
        self.predicted += usize::from(is_predicted);
        self.gold += usize::from(is_gold);
    }

    /// The share of predictions of the class that are right.
    pub fn precision(&self) -> f64 {
        ratio(self.hits, self.predicted)
    }

    /// The share of rows of the class that are found.
    pub fn recall(&self) -> f64 {
        ratio(self.hits, self.gold)
    }

    /// `2 tp / (2 tp + fp + fn)`.
    pub fn f1(&self) -> f64 {
        ratio(2 * self.hits, self.predicted + self.gold)
    }

    /// Precision, recall, F1 and support.
    pub fn scores(&self) -> ClassScores {
        ClassScores {
            precision: self.precision(),
            recall: self.recall(),
            f1: self.f1(),
            support: self.gold,
        }
    }
}

/// Macro F1: the unweighted mean of F1 over the classes; 0 for no classes.
pub fn mean_f1(classes: &[ClassCounts]) -> f64 {
    mean(classes.iter().map(ClassCounts::f1))
}

/// Micro F1: F1 of the counts summed over the classes.
pub fn pooled_f1(classes: &[ClassCounts]) -> f64 {
    let sum = |part: fn(&ClassCounts) -> usize| classes.iter().map(part).sum();
    let all = ClassCounts {
        hits: sum(|class| class.hits),
        predicted: sum(|class| class.predicted),
        gold: sum(|class| class.gold),
    };
    all.f1()
}

/// Weighted F1: the mean of F1 over the classes, weighted by their rows; 0 for no rows.
pub fn weighted_f1(classes: &[ClassCounts]) -> f64 {
    let rows: usize = classes.iter().map(|class| class.gold).sum();
    let sum: f64 = classes
        .iter()
        .map(|class| class.f1() * class.gold as f64)
        .sum();
    if rows == 0 { 0.0 } else { sum / rows as f64 }
}

/// The mean of recall over the classes that have rows; 0 for no rows.
pub(super) fn mean_recall(classes: &[ClassCounts]) -> f64 {
    let with_rows = classes.iter().filter(|class| class.gold > 0);
    mean(with_rows.map(ClassCounts::recall))
}

/// The mean; 0 for no values.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0usize);
    for value in values {
        sum += value;
        count += 1;
    }
    if count == 0 { 0.0 } else { sum / count as f64 }
}

/// `part / whole`; 0 if `whole` is 0.
pub(super) fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// How often each class is predicted for the rows of each class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    /// By the rows' class, then by the predicted class.
    rows: Vec<Vec<usize>>,
}

impl Confusion {
    /// Counts the pairs of prediction and label.
    ///
    /// # Panics
    /// A class is not below `classes`.
    pub fn new(classes: usize, prediction: &[usize], gold: &[usize]) -> Self {
        let mut rows = vec![vec![0; classes]; classes];
        for (prediction, gold) in prediction.iter().zip(gold) {
            rows[*gold][*prediction] += 1;
        }
        Self { rows }
    }

    /// The matrix: a row for each class of the labels, with a column for each predicted class.
    pub fn rows(&self) -> &[Vec<usize>] {
        &self.rows
    }

    /// As [`rows`](Self::rows), without a copy.
    pub fn into_rows(self) -> Vec<Vec<usize>> {
        self.rows
    }

    /// The counts of each class.
    pub fn classes(&self) -> Vec<ClassCounts> {
        let of = |class: usize| ClassCounts {
            hits: self.rows[class][class],
            predicted: self.rows.iter().map(|row| row[class]).sum(),
            gold: self.rows[class].iter().sum(),
        };
        (0..self.rows.len()).map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_gives_the_counts_of_its_classes() {
        let confusion = Confusion::new(3, &[0, 2, 2, 0], &[0, 1, 2, 2]);
        assert_eq!(confusion.rows(), [[1, 0, 0], [0, 0, 1], [1, 0, 1]]);
        let [first, second, third] = confusion.classes()[..] else {
            panic!("three classes");
        };
        assert_eq!((first.hits, first.predicted, first.gold), (1, 2, 1));
        assert_eq!(second.scores().precision, 0.0);
        assert_eq!(third.recall(), 0.5);
    }
}

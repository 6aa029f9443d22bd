//! Accuracy, F1, balanced accuracy and Matthews over class ids.
//!
//! Predictions and labels are paired up to the shorter of the two. [`super::score`] refuses unequal lengths.

use std::collections::BTreeMap;

use super::counts::{ClassCounts, mean_f1, mean_recall, pooled_f1, ratio, weighted_f1};

/// The share of rows with a correct prediction; 0 for no rows.
pub fn accuracy(prediction: &[usize], gold: &[usize]) -> f64 {
    let rows = prediction.len().min(gold.len());
    ratio(right(prediction, gold), rows)
}

/// F1 of class 1: `2 tp / (2 tp + fp + fn)`; 0 without a true positive.
pub fn f1(prediction: &[usize], gold: &[usize]) -> f64 {
    f1_of(1, prediction, gold)
}

/// The unweighted mean of F1 over the classes that occur in prediction or gold; 0 for no rows.
pub fn f1_macro(prediction: &[usize], gold: &[usize]) -> f64 {
    mean_f1(&counts(prediction, gold))
}

/// F1 over all pairs of row and class, which is accuracy where a row has one class; 0 for no rows.
pub fn f1_micro(prediction: &[usize], gold: &[usize]) -> f64 {
    pooled_f1(&counts(prediction, gold))
}

/// The mean of F1 over the classes, weighted by their rows; 0 for no rows.
pub fn f1_weighted(prediction: &[usize], gold: &[usize]) -> f64 {
    weighted_f1(&counts(prediction, gold))
}

/// The mean of recall over the classes that occur in gold; 0 for no rows.
pub fn balanced_accuracy(prediction: &[usize], gold: &[usize]) -> f64 {
    mean_recall(&counts(prediction, gold))
}

/// The Matthews correlation coefficient in [-1, 1]; for more than two classes Gorodkin's R_K.
///
/// It is 0 if it is undefined: prediction or gold is constant, or there are no rows.
pub fn matthews(prediction: &[usize], gold: &[usize]) -> f64 {
    let rows = prediction.len().min(gold.len()) as f64;
    let classes = counts(prediction, gold);
    let sum = |term: fn(f64, f64) -> f64| -> f64 {
        let terms = classes.iter();
        terms
            .map(|class| term(class.predicted as f64, class.gold as f64))
            .sum()
    };
    let covariance = right(prediction, gold) as f64 * rows - sum(|p, g| p * g);
    let spread = (rows * rows - sum(|p, _| p * p)) * (rows * rows - sum(|_, g| g * g));
    if spread > 0.0 {
        (covariance / spread.sqrt()).clamp(-1.0, 1.0)
    } else {
        0.0
    }
}

/// The counts of the classes that occur in prediction or gold, by their ids.
fn counts(prediction: &[usize], gold: &[usize]) -> Vec<ClassCounts> {
    let mut counts: BTreeMap<usize, ClassCounts> = BTreeMap::new();
    for (p, g) in prediction.iter().zip(gold) {
        counts.entry(*p).or_default().add(true, p == g);
        if p != g {
            counts.entry(*g).or_default().add(false, true);
        }
    }
    counts.into_values().collect()
}

fn right(prediction: &[usize], gold: &[usize]) -> usize {
    prediction.iter().zip(gold).filter(|(p, g)| p == g).count()
}

fn f1_of(class: usize, prediction: &[usize], gold: &[usize]) -> f64 {
    let mut counts = ClassCounts::default();
    for (p, g) in prediction.iter().zip(gold) {
        counts.add(*p == class, *g == class);
    }
    counts.f1()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hand_computed_values() {
        // tp 2, fp 1, fn 1, tn 1
        let (prediction, gold) = ([1, 1, 1, 0, 0], [1, 1, 0, 1, 0]);
        assert_eq!(accuracy(&prediction, &gold), 0.6);
        assert_eq!(f1(&prediction, &gold), 4.0 / 6.0);
        assert!((matthews(&prediction, &gold) - 1.0 / 6.0).abs() < 1e-15);
        // classes 0, 1, 2: F1 2/3, 0, 1/2
        let macro_f1 = f1_macro(&[0, 2, 2, 0], &[0, 1, 2, 2]);
        assert!(
            (macro_f1 - (2.0 / 3.0 + 0.0 + 0.5) / 3.0).abs() < 1e-15,
            "{macro_f1}"
        );
    }

    #[test]
    fn undefined_cases_are_zero() {
        assert_eq!(matthews(&[1, 1], &[1, 1]), 0.0);
        assert_eq!(f1(&[0, 0], &[0, 0]), 0.0);
        for metric in [
            accuracy,
            f1,
            f1_macro,
            f1_micro,
            f1_weighted,
            balanced_accuracy,
            matthews,
        ] {
            assert_eq!(metric(&[], &[]), 0.0);
        }
    }

    fn rows() -> impl Strategy<Value = Vec<(usize, usize)>> {
        prop::collection::vec((0usize..2, 0usize..2), 1..60)
    }

    proptest! {
        #[test]
        fn bounds_and_symmetries(rows in rows(), turn in 0usize..60) {
            let (p, g): (Vec<_>, Vec<_>) = rows.iter().copied().unzip();
            let mut turned = rows.clone();
            turned.rotate_left(turn % rows.len());
            let (tp, tg): (Vec<_>, Vec<_>) = turned.into_iter().unzip();
            for metric in [accuracy, f1, f1_macro, matthews] {
                let value = metric(&p, &g);
                prop_assert!((-1.0..=1.0).contains(&value));
                prop_assert_eq!(value, metric(&tp, &tg));
                prop_assert!((value - metric(&g, &p)).abs() < 1e-12);
            }
            // With two classes, the opposite answer everywhere flips the sign of Matthews.
            let other: Vec<_> = p.iter().map(|p| 1 - p).collect();
            prop_assert!((matthews(&p, &g) + matthews(&other, &g)).abs() < 1e-12);
            prop_assert!((accuracy(&p, &g) + accuracy(&other, &g) - 1.0).abs() < 1e-12);
        }
    }
}

//! scikit-learn's scores of every case in `metrics/recorded.json`, to 1e-12. `metrics/record.py` made the file.
#![forbid(unsafe_code)]

use serde::Deserialize;
use vblora_bench::metrics::{
    ClassCounts, Confusion, accuracy, balanced_accuracy, f1_macro, f1_micro, f1_weighted,
    label_counts, mae, matthews, mean_f1, mse, pooled_f1, r2, subset_accuracy, weighted_f1,
};

/// An unknown key fails to parse, so that every recorded value is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    made_by: String,
    classes: Vec<Classes>,
    multi_label: Vec<MultiLabel>,
    regression: Vec<Numbers>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Classes {
    name: String,
    classes: usize,
    prediction: Vec<usize>,
    gold: Vec<usize>,
    accuracy: f64,
    balanced_accuracy: f64,
    matthews: f64,
    f1_macro: f64,
    f1_micro: f64,
    f1_weighted: f64,
    confusion: Vec<Vec<usize>>,
    per_class: Vec<PerClass>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MultiLabel {
    name: String,
    prediction: Vec<Vec<u8>>,
    gold: Vec<Vec<u8>>,
    subset_accuracy: f64,
    f1_macro: f64,
    f1_micro: f64,
    f1_weighted: f64,
    per_label: Vec<PerClass>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PerClass {
    precision: f64,
    recall: f64,
    f1: f64,
    support: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbers {
    name: String,
    prediction: Vec<f64>,
    gold: Vec<f64>,
    mse: f64,
    mae: f64,
    r2: Option<f64>,
}

fn recorded() -> Recorded {
    let recorded: Recorded = serde_json::from_str(include_str!("metrics/recorded.json"))
        .expect("every key of the file is known");
    assert!(recorded.made_by.contains("scikit-learn"));
    recorded
}

#[track_caller]
fn close(name: &str, what: &str, found: f64, expected: f64) {
    assert!(
        (found - expected).abs() <= 1e-12 * expected.abs().max(1.0),
        "{name}: {what} is {found}, not {expected}"
    );
}

fn check_counts(name: &str, counts: &[ClassCounts], expected: &[PerClass]) {
    assert_eq!(counts.len(), expected.len(), "{name}");
    for (counts, expected) in counts.iter().zip(expected) {
        let scores = counts.scores();
        close(name, "precision", scores.precision, expected.precision);
        close(name, "recall", scores.recall, expected.recall);
        close(name, "f1", scores.f1, expected.f1);
        assert_eq!(scores.support, expected.support, "{name}");
    }
}

#[test]
fn scores_of_classes_are_those_of_scikit_learn() {
    let cases = recorded().classes;
    assert!(!cases.is_empty());
    for case in &cases {
        let (name, p, g) = (&*case.name, &*case.prediction, &*case.gold);
        let expected = [
            ("accuracy", accuracy(p, g), case.accuracy),
            (
                "balanced accuracy",
                balanced_accuracy(p, g),
                case.balanced_accuracy,
            ),
            ("matthews", matthews(p, g), case.matthews),
            ("macro F1", f1_macro(p, g), case.f1_macro),
            ("micro F1", f1_micro(p, g), case.f1_micro),
            ("weighted F1", f1_weighted(p, g), case.f1_weighted),
        ];
        for (what, found, expected) in expected {
            close(name, what, found, expected);
        }
        let confusion = Confusion::new(case.classes, p, g);
        assert_eq!(confusion.rows(), case.confusion, "{name}");
        check_counts(name, &confusion.classes(), &case.per_class);
    }
}

#[test]
fn scores_of_several_labels_are_those_of_scikit_learn() {
    let cases = recorded().multi_label;
    assert!(!cases.is_empty());
    for case in &cases {
        let flags = |rows: &[Vec<u8>]| -> Vec<Vec<bool>> {
            let rows = rows.iter();
            rows.map(|row| row.iter().map(|flag| *flag == 1).collect())
                .collect()
        };
        let (name, p, g) = (&*case.name, flags(&case.prediction), flags(&case.gold));
        let counts = label_counts(g[0].len(), &p, &g);
        close(
            name,
            "subset accuracy",
            subset_accuracy(&p, &g),
            case.subset_accuracy,
        );
        close(name, "macro F1", mean_f1(&counts), case.f1_macro);
        close(name, "micro F1", pooled_f1(&counts), case.f1_micro);
        close(name, "weighted F1", weighted_f1(&counts), case.f1_weighted);
        check_counts(name, &counts, &case.per_label);
    }
}

#[test]
fn errors_of_numbers_are_those_of_scikit_learn() {
    let cases = recorded().regression;
    assert!(!cases.is_empty());
    for case in &cases {
        let (name, p, g) = (&*case.name, &*case.prediction, &*case.gold);
        close(name, "MSE", mse(p, g).unwrap(), case.mse);
        close(name, "MAE", mae(p, g).unwrap(), case.mae);
        assert_eq!(r2(p, g).is_some(), case.r2.is_some(), "{name}");
        close(name, "R2", r2(p, g).unwrap_or(0.0), case.r2.unwrap_or(0.0));
    }
}

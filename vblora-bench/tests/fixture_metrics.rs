//! Every case of shared/fixtures/metrics.json (scikit-learn and scipy values).
//!
//! The folder is `VBLORA_FIXTURES`, or `../shared/fixtures` next to the workspace. Without it the test is skipped.

use std::path::PathBuf;

use serde::Deserialize;
use vblora_bench::metrics::{accuracy, f1, f1_macro, matthews, pearson, spearman};

/// An unknown key fails to parse, so that every recorded value is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    #[serde(rename = "versions")]
    _versions: serde_json::Value,
    conventions: Vec<String>,
    classification: Vec<Classification>,
    correlation: Vec<Correlation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Classification {
    name: String,
    prediction: Vec<usize>,
    gold: Vec<usize>,
    accuracy: f64,
    matthews: f64,
    f1_positive: Option<f64>,
    f1_macro: f64,
    f1_micro: f64,
    counts: Option<Counts>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Counts {
    tp: usize,
    fp: usize,
    r#fn: usize,
    tn: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Correlation {
    name: String,
    prediction: Vec<f64>,
    gold: Vec<f64>,
    pearson: Option<f64>,
    spearman: Option<f64>,
}

#[test]
#[expect(clippy::print_stdout, reason = "a skipped test says why")]
fn fixture_metrics_match_sklearn_and_scipy() {
    let given = std::env::var_os("VBLORA_FIXTURES").map(PathBuf::from);
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/fixtures");
    let path = given.unwrap_or_else(|| default.into()).join("metrics.json");
    if !path.is_file() {
        println!("skipped: no {}", path.display());
        return;
    }
    let text = std::fs::read_to_string(&path).expect("the fixture is readable");
    let recorded: Recorded =
        serde_json::from_str(&text).expect("every key of the fixture is known");
    assert!(!recorded.conventions.is_empty());
    assert!(!recorded.classification.is_empty() && !recorded.correlation.is_empty());
    recorded
        .classification
        .iter()
        .for_each(check_classification);
    recorded.correlation.iter().for_each(check_correlation);
}

fn check_classification(case: &Classification) {
    let (p, g) = (&case.prediction, &case.gold);
    assert_eq!(p.len(), g.len(), "{}", case.name);
    let close = |what: &str, found: f64, expected: f64| {
        assert!(
            (found - expected).abs() <= 1e-12,
            "{} {what}: {found}, recorded {expected}",
            case.name
        );
    };
    close("accuracy", accuracy(p, g), case.accuracy);
    close("matthews", matthews(p, g), case.matthews);
    close("f1_macro", f1_macro(p, g), case.f1_macro);
    close("f1_micro", accuracy(p, g), case.f1_micro);
    let binary = p.iter().chain(g).all(|class| *class < 2);
    assert_eq!(
        case.f1_positive.is_some(),
        binary,
        "{}: f1_positive is for binary cases",
        case.name
    );
    if let Some(expected) = case.f1_positive {
        close("f1", f1(p, g), expected);
    }
    if let Some(counts) = &case.counts {
        let count =
            |pair: (usize, usize)| p.iter().zip(g).filter(|(p, g)| (**p, **g) == pair).count();
        let found = [count((1, 1)), count((1, 0)), count((0, 1)), count((0, 0))];
        assert_eq!(
            found,
            [counts.tp, counts.fp, counts.r#fn, counts.tn],
            "{}",
            case.name
        );
    }
}

fn check_correlation(case: &Correlation) {
    let tolerance = if case.name == "large_offset" {
        1e-6
    } else {
        1e-10
    };
    let close = |what: &str, found: Option<f64>, expected: Option<f64>| {
        let same = match (found, expected) {
            (Some(found), Some(expected)) => (found - expected).abs() <= tolerance,
            (found, expected) => found == expected,
        };
        assert!(
            same,
            "{} {what}: {found:?}, recorded {expected:?}",
            case.name
        );
    };
    close(
        "pearson",
        pearson(&case.prediction, &case.gold),
        case.pearson,
    );
    close(
        "spearman",
        spearman(&case.prediction, &case.gold),
        case.spearman,
    );
}

//! Every text of shared/fixtures/math_eval and math_equivalence.json, by every scorer that this project has.
//!
//! The folder is `VBLORA_FIXTURES`, or `../shared/fixtures` next to the workspace. Without it the tests are skipped.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use serde::{Deserialize, de::DeserializeOwned};
use vblora_bench::evaluate::math::{
    GSM8K, Judgement, MATH, Scorer, authors_text, is_equivalent, last_box, normal_form,
};

#[expect(clippy::print_stdout, reason = "a skipped test says why")]
fn fixture<T: DeserializeOwned>(name: &str) -> Option<T> {
    let given = std::env::var_os("VBLORA_FIXTURES").map(PathBuf::from);
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/fixtures");
    let path = given.unwrap_or_else(|| default.into()).join(name);
    if !path.is_file() {
        println!("skipped: no {}", path.display());
        return None;
    }
    let text = std::fs::read_to_string(&path).expect("the fixture is readable");
    Some(serde_json::from_str(&text).expect("every key of the fixture is known"))
}

fn judged(scorers: &[Scorer], name: &str, text: &str, gold: &str) -> Judgement {
    let scorer = scorers.iter().find(|scorer| scorer.name == name);
    scorer.expect("a scorer").judge(text, gold)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Gsm8k {
    text: String,
    gold: i64,
    authors: Option<f64>,
    authors_correct: bool,
    strict: String,
    strict_correct: bool,
    cot_strict: String,
    cot_strict_correct: bool,
    flexible: String,
    flexible_correct: bool,
}

#[test]
fn fixture_gsm8k_texts_are_scored_as_by_the_authors_and_the_harness() {
    let Some(cases) = fixture::<Vec<Gsm8k>>("math_eval/gsm8k.json") else {
        return;
    };
    assert!(!cases.is_empty());
    for case in &cases {
        let of = |name| judged(&GSM8K, name, &case.text, &case.gold.to_string());
        let authors = of("paper");
        let number = authors.found.map(|found| found.parse::<f64>().unwrap());
        assert_eq!(number, case.authors, "{:?}", case.text);
        assert_eq!(authors.correct, case.authors_correct, "{:?}", case.text);
        for (name, found, correct) in [
            ("strict", &case.strict, case.strict_correct),
            ("cot-strict", &case.cot_strict, case.cot_strict_correct),
            ("flexible", &case.flexible, case.flexible_correct),
        ] {
            let judgement = of(name);
            let text = judgement.found.as_deref().unwrap_or("[invalid]");
            assert_eq!(text, found, "{name}: {:?}", case.text);
            assert_eq!(judgement.correct, correct, "{name}: {:?}", case.text);
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Math {
    text: String,
    answer: String,
    authors_without_antlr: bool,
    authors_with_antlr: bool,
    extracted: Option<String>,
    strict: bool,
    #[serde(default)]
    strip_raises: bool,
    minerva_extracted: String,
    minerva_normal: String,
    minerva_gold_normal: String,
    minerva_correct: bool,
}

#[expect(
    clippy::print_stdout,
    reason = "where the authors' rule differs is worth a look"
)]
#[test]
fn fixture_math_texts_are_scored_as_by_the_authors_without_their_mistake() {
    let Some(cases) = fixture::<Vec<Math>>("math_eval/math.json") else {
        return;
    };
    assert!(!cases.is_empty());
    let mut differing = Vec::new();
    for case in &cases {
        let of = |name| judged(&MATH, name, &case.text, &case.answer);
        assert_eq!(
            authors_text(&case.text),
            case.extracted.as_deref(),
            "{:?}",
            case.text
        );
        assert_eq!(of("strict").correct, case.strict, "{:?}", case.text);
        let extracted = case.extracted.as_deref();
        let raises = extracted.is_some_and(|text| normal_form(text).is_none());
        assert_eq!(raises, case.strip_raises, "{:?}", case.text);
        let numeric = of("paper-numeric").correct;
        // Numbers and brackets never make wrong what the authors call right, and sympy never makes right what they call wrong.
        assert!(!numeric || case.authors_without_antlr, "{:?}", case.text);
        assert!(!case.strict || numeric, "{:?}", case.text);
        assert!(
            !case.authors_without_antlr || case.authors_with_antlr,
            "{:?}",
            case.text
        );
        if numeric != case.authors_without_antlr {
            differing.push(format!(
                "{:?} for {:?}",
                extracted.unwrap_or("-"),
                case.answer
            ));
        }
        // The harness's other scorer compares with sympy where normal forms differ, so it is none of ours.
        let same_normal_forms = case.minerva_normal == case.minerva_gold_normal;
        assert!(!case.minerva_extracted.is_empty());
        assert!(!same_normal_forms || case.minerva_correct);
    }
    println!(
        "right by the authors' mistake or by sympy: {}",
        differing.join(", ")
    );
}

#[derive(Deserialize)]
struct Equivalence {
    math_notes: Vec<String>,
    equivalence: Vec<Pair>,
    boxes: Vec<Box>,
    math500: Vec<Solved>,
    gsm8k_notes: Vec<String>,
    gsm8k: Vec<Marked>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    #[serde(rename = "category")]
    _category: String,
    prediction: Option<String>,
    gold: Option<String>,
    expected: bool,
    prediction_normal: Option<String>,
    gold_normal: Option<String>,
    #[serde(default, rename = "note")]
    _note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Box {
    text: String,
    last_boxed: Option<String>,
    content: Option<String>,
    #[serde(default, rename = "note")]
    _note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Solved {
    #[serde(rename = "unique_id")]
    _unique_id: String,
    gold: String,
    solution_box: String,
    equal_to_gold: bool,
    other: String,
    equal_to_other: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Marked {
    text: String,
    expected: Option<String>,
    #[serde(default, rename = "note")]
    _note: Option<String>,
}

#[test]
fn fixture_normal_forms_boxes_and_marked_numbers_are_the_recorded_ones() {
    let Some(recorded) = fixture::<Equivalence>("math_equivalence.json") else {
        return;
    };
    assert!(!recorded.math_notes.is_empty() && !recorded.gsm8k_notes.is_empty());
    assert!(!recorded.equivalence.is_empty() && !recorded.boxes.is_empty());
    for pair in &recorded.equivalence {
        for (text, normal) in [
            (&pair.prediction, &pair.prediction_normal),
            (&pair.gold, &pair.gold_normal),
        ] {
            let ours = text.as_deref().and_then(normal_form);
            assert_eq!(ours, *normal, "{text:?}");
        }
        let equal = match (&pair.prediction, &pair.gold) {
            (Some(prediction), Some(gold)) => is_equivalent(prediction, gold),
            (prediction, gold) => prediction == gold,
        };
        assert_eq!(
            equal, pair.expected,
            "{:?} {:?}",
            pair.prediction, pair.gold
        );
    }
    for case in &recorded.boxes {
        let found = last_box(&case.text);
        assert_eq!(found.whole, case.last_boxed.as_deref(), "{:?}", case.text);
        assert_eq!(found.content, case.content.as_deref(), "{:?}", case.text);
    }
    for case in &recorded.math500 {
        assert_eq!(
            is_equivalent(&case.solution_box, &case.gold),
            case.equal_to_gold
        );
        assert_eq!(is_equivalent(&case.other, &case.gold), case.equal_to_other);
    }
    for case in &recorded.gsm8k {
        let gold = case.expected.as_deref().unwrap_or("0");
        let judgement = judged(&GSM8K, "marked", &case.text, gold);
        assert_eq!(
            judgement.found.is_some(),
            case.expected.is_some(),
            "{:?}",
            case.text
        );
        assert_eq!(
            judgement.correct,
            case.expected.is_some(),
            "{:?}",
            case.text
        );
    }
}

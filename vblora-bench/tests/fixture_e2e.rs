//! Every corpus, score and token line of shared/fixtures/e2e_metrics, and the scores of shared/data/e2e/metric_checks.
//!
//! The folder is `VBLORA_FIXTURES`, or `../shared/fixtures` next to the workspace; the data lie beside it. Without them a test is skipped.
//! The scores are those of e2e-metrics with its own Java programs. `VBLORA_JAVA_METRICS` names a folder with these programs; without it the
//! scores of METEOR are not tested.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a skipped test says why")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use vblora_bench::{
    evaluate::e2e::{E2eScores, JavaMetrics, References, Scored, SegmentScores},
    metrics::text::{Segment, Tokenized, ptb_lines},
};

/// The folder of the recorded values, if it is there.
fn fixtures() -> Option<PathBuf> {
    let given = std::env::var_os("VBLORA_FIXTURES").map(PathBuf::from);
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/fixtures");
    let path = given.unwrap_or_else(|| default.into()).join("e2e_metrics");
    if path.is_dir() {
        return Some(path);
    }
    println!("skipped: no {}", path.display());
    None
}

/// The E2E data beside the recorded values.
fn data() -> Option<PathBuf> {
    let path = fixtures()?.join("../../data/e2e");
    if path.is_dir() {
        return Some(path);
    }
    println!("skipped: no {}", path.display());
    None
}

fn java() -> Option<JavaMetrics> {
    let Some(dir) = std::env::var_os("VBLORA_JAVA_METRICS") else {
        println!("METEOR is not tested: VBLORA_JAVA_METRICS names no folder with its program");
        return None;
    };
    Some(JavaMetrics::open(&PathBuf::from(dir)).unwrap())
}

fn json(path: PathBuf) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn texts(value: &Value) -> Vec<String> {
    let texts = value.as_array().unwrap().iter();
    texts
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

fn lists(value: &Value) -> Vec<Vec<String>> {
    value.as_array().unwrap().iter().map(texts).collect()
}

/// Half of the last digit of published scores.
const HALF_DIGIT: f64 = 5.000_001e-5;

/// Outputs and references of a recorded corpus, with their recorded tokens if there are some.
struct Recorded {
    outputs: Vec<String>,
    references: Vec<Vec<String>>,
    tokens: Option<Tokenized>,
}

fn recorded(corpus: &Value, all: &BTreeMap<&str, &Value>) -> Option<Recorded> {
    if let Some(file) = corpus.get("sys_file") {
        let refs = corpus["refs_file"].as_str().unwrap();
        assert!(
            refs.starts_with("shared/data/e2e/testset_w_refs.csv"),
            "{refs}"
        );
        let file = file.as_str().unwrap();
        // A file of the fixtures, or one of the data with a note on how it is read.
        let path = match file.split_whitespace().next() {
            Some(name) if name.starts_with("shared/data/e2e/") => {
                data()?.join(name.trim_start_matches("shared/data/e2e/"))
            }
            Some(name) => fixtures()?.join(name),
            None => panic!("no file"),
        };
        let references = References::read(&data()?.join("testset_w_refs.csv")).unwrap();
        let corpus = references.with_outputs(&path).unwrap();
        return Some(Recorded {
            outputs: corpus.outputs,
            references: corpus.references,
            tokens: None,
        });
    }
    let of = corpus
        .get("refs_as")
        .map_or(corpus, |name| all[name.as_str().unwrap()]);
    Some(Recorded {
        outputs: texts(&corpus["sys"]),
        references: lists(&of["refs"]),
        tokens: Some(Tokenized {
            outputs: texts(&corpus["tok_sys"]),
            references: lists(&of["tok_refs"]),
        }),
    })
}

fn close(found: Option<f64>, expected: &Value, tolerance: f64, what: &str) {
    match (found, expected.as_f64()) {
        (Some(found), Some(expected)) => {
            assert!(
                (found - expected).abs() <= tolerance,
                "{what}: {found}, not {expected}"
            );
        }
        // A string or null is an exception of the reference program.
        (found, expected) => assert_eq!(found, expected, "{what}"),
    }
}

/// Compares scores, with a tolerance for all but METEOR and one for it.
fn compare(name: &str, recorded: &Value, found: &E2eScores, tolerance: f64, of_meteor: f64) {
    for (metric, expected) in recorded.as_object().unwrap() {
        let what = format!("{name} {metric}");
        match metric.as_str() {
            "BLEU" => close(Some(found.text.bleu), expected, tolerance, &what),
            "NIST" => close(found.text.nist, expected, tolerance, &what),
            "ROUGE_L" => close(Some(found.text.rouge_l), expected, tolerance, &what),
            "CIDEr" => close(Some(found.text.cider), expected, tolerance, &what),
            "METEOR" if found.meteor.is_some() => close(found.meteor, expected, of_meteor, &what),
            "METEOR" => {}
            "where" => {}
            other => panic!("unknown metric {other}"),
        }
    }
}

fn compare_segments(name: &str, recorded: &Value, found: &[SegmentScores], has_java: bool) {
    for (metric, expected) in recorded.as_object().unwrap() {
        let expected = expected.as_array().unwrap();
        assert_eq!(expected.len(), found.len(), "{name} {metric}");
        for (at, (expected, found)) in expected.iter().zip(found).enumerate() {
            let found = match metric.as_str() {
                "BLEU" => Some(found.bleu),
                "sentBLEU" => Some(found.smoothed_bleu),
                "NIST" => found.nist,
                "ROUGE_L" => Some(found.rouge_l),
                "CIDEr" => Some(found.cider),
                "METEOR" if has_java => found.meteor,
                "METEOR" => continue,
                other => panic!("unknown metric {other}"),
            };
            close(found, expected, 1e-6, &format!("{name} {metric} {at}"));
        }
    }
}

#[test]
fn fixture_corpora_have_the_scores_of_e2e_metrics() {
    let Some(dir) = fixtures() else { return };
    let corpora = json(dir.join("corpora.json"));
    let corpora = corpora.as_array().unwrap();
    let names = corpora
        .iter()
        .map(|corpus| (corpus["name"].as_str().unwrap(), corpus));
    let all: BTreeMap<_, _> = names.collect();
    assert_eq!(all.len(), corpora.len());
    let java = java();
    for (name, corpus) in &all {
        let Some(recorded) = recorded(corpus, &all) else {
            return;
        };
        let scored = Scored::new(&recorded.outputs, &recorded.references, java.as_ref()).unwrap();
        if let Some(tokens) = &recorded.tokens {
            assert_eq!(scored.tokenized(), tokens, "{name}");
        }
        compare(name, &corpus["corpus"], &scored.scores(), 1e-6, 0.0);
        if let Some(segments) = corpus.get("segments") {
            compare_segments(name, segments, &scored.segments(), java.is_some());
        }
    }
}

#[test]
fn fixture_published_scores_are_met() {
    let Some(dir) = data() else { return };
    let dir = dir.join("metric_checks");
    let golden = json(dir.join("golden.json"));
    let java = java();
    for check in golden["checks"].as_array().unwrap() {
        let first = |key: &str| {
            dir.join(
                check[key]
                    .as_str()
                    .unwrap()
                    .split([' ', ','])
                    .next()
                    .unwrap(),
            )
        };
        let references = References::read(&first("refs")).unwrap();
        let corpus = references.with_outputs(&first("sys")).unwrap();
        let scored = Scored::new(&corpus.outputs, &corpus.references, java.as_ref()).unwrap();
        let name = check["sys"].as_str().unwrap();
        let scores = scored.scores();
        compare(name, &check["computed"], &scores, 5e-7, 5e-7);
        if !check["published"].is_null() {
            compare(name, &check["published"], &scores, HALF_DIGIT, HALF_DIGIT);
        }
    }
}

#[test]
fn fixture_lines_have_the_tokens_of_the_stanford_tokenizer() {
    let Some(dir) = fixtures() else { return };
    let lines = json(dir.join("ptb_tokens.json"));
    let lines = lines.as_array().unwrap();
    let texts: Vec<_> = lines
        .iter()
        .map(|line| line["text"].as_str().unwrap().to_owned())
        .collect();
    let (mut wrong, mut compared) = (0, 0);
    for (line, found) in lines.iter().zip(ptb_lines(&texts)) {
        compared += 1;
        if line["tokens"] != found.as_str() {
            wrong += 1;
            println!("{}\n  {}\n  {found}", line["text"], line["tokens"]);
        }
    }
    println!("{wrong} of {compared} lines differ");
    assert!(
        wrong * 100 <= compared * 3,
        "{wrong} of {compared} lines differ"
    );
}

#[test]
fn fixture_every_test_reference_and_output_has_its_tokens() {
    let (Some(dir), Some(data)) = (fixtures(), data()) else {
        return;
    };
    let references = References::read(&data.join("testset_w_refs.csv")).unwrap();
    let hashes = fs::read_to_string(dir.join("ptb_sha8.txt")).unwrap();
    let mut expected: BTreeMap<&str, BTreeMap<(usize, usize), &str>> = BTreeMap::new();
    for line in hashes.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [system, instance, reference, hash] = fields[..] else {
            panic!("{line}")
        };
        let place = (instance.parse().unwrap(), reference.parse().unwrap());
        assert_eq!(
            expected.entry(system).or_default().insert(place, hash),
            None,
            "{line}"
        );
    }
    for (system, hashes) in expected {
        let file = match system {
            "refs" | "test_tgen" => data.join("metric_checks/tgen_test.tsv"),
            system => dir.join(format!("{system}.txt")),
        };
        let corpus = references.with_outputs(&file).unwrap();
        let segments = corpus.outputs.iter().zip(&corpus.references);
        let segments: Vec<_> = segments
            .map(|(output, references)| Segment { output, references })
            .collect();
        let found = Tokenized::new(&segments);
        let mut count = 0;
        for ((instance, reference), hash) in hashes {
            let tokens = match system {
                "refs" => &found.references[instance][reference],
                _ => &found.outputs[instance],
            };
            let digest = Sha256::digest(tokens.as_bytes());
            let start: String = digest[..4]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(start, hash, "{system} {instance} {reference}: {tokens}");
            count += 1;
        }
        println!("{system}: {count} lines");
    }
}

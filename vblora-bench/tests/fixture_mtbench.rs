//! Every case of shared/fixtures/mtbench: what FastChat asks, reads and prints.
//!
//! The folder is `VBLORA_FIXTURES`, or `../shared/fixtures` next to the workspace; questions and prompts are in `data/mtbench` beside it.
//! Without them the tests are skipped.
#![allow(missing_docs)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;
use vblora::storage::sha256_hex;
use vblora_bench::evaluate::mtbench::{
    AnswerFile, Conversation, JudgePrompts, Judgment, JudgmentFile, Material, Questions, models,
    rating, summarise,
};

struct Folders {
    recorded: PathBuf,
    data: PathBuf,
}

#[expect(clippy::print_stdout, reason = "a skipped test says why")]
fn folders() -> Option<Folders> {
    let given = std::env::var_os("VBLORA_FIXTURES").map(PathBuf::from);
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/fixtures");
    let fixtures = given.unwrap_or_else(|| default.into());
    let found = Folders {
        recorded: fixtures.join("mtbench"),
        data: fixtures.join("../data/mtbench"),
    };
    for needed in [&found.recorded, &found.data] {
        if !needed.is_dir() {
            println!("skipped: no {}", needed.display());
            return None;
        }
    }
    Some(found)
}

fn json<T: for<'a> Deserialize<'a>>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).expect("the fixture is readable");
    serde_json::from_str(&text).expect("every key of the fixture is known")
}

fn questions(data: &Path) -> Questions {
    Questions::read(&data.join("question.jsonl")).unwrap()
}

/// The only file with this beginning of its name.
fn only(dir: &Path, begin: &str) -> PathBuf {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut found = names.filter(|entry| entry.file_name().to_string_lossy().starts_with(begin));
    let first = found.next().unwrap().path();
    assert!(found.next().is_none(), "{begin}");
    first
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    question_id: i64,
    model: String,
    turn: usize,
    judge: [String; 2],
    temperature: u32,
    max_tokens: u32,
    system: Option<String>,
    system_sha256: String,
    roles: Vec<String>,
    user_sha256: String,
    user_chars: usize,
    user: Option<String>,
}

#[test]
fn fixture_requests_are_fastchats_to_the_byte_and_in_its_order() {
    let Some(Folders { recorded, data }) = folders() else {
        return;
    };
    let questions = questions(&data);
    let folder = recorded.join("model_answer");
    let read = |name: String| {
        let path = folder.join(format!("{name}.jsonl"));
        let answers = AnswerFile::read(&path, &questions).unwrap();
        (name, answers)
    };
    let answers: BTreeMap<_, _> = models(&folder).unwrap().into_iter().map(read).collect();
    let references = only(&data, "reference_answer");
    let references = AnswerFile::read_references(&references, &questions).unwrap();
    let prompts = JudgePrompts::read(&data.join("judge_prompts.jsonl")).unwrap();
    let material = Material {
        questions: &questions,
        answers: &answers,
        references: Some(&references),
        prompts: &prompts,
    };
    let text = std::fs::read_to_string(recorded.join("requests.jsonl")).unwrap();
    let asked: Vec<Asked> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let found = material.requests(&asked[0].judge[0], 2).unwrap();
    assert_eq!(found.len(), asked.len());
    for (found, asked) in found.iter().zip(asked) {
        let what = format!(
            "question {} turn {} of {}",
            asked.question_id, asked.turn, asked.model
        );
        let key = &found.key;
        let place = (key.question_id, &key.model, key.turn, &key.judge);
        assert_eq!(
            place,
            (asked.question_id, &asked.model, asked.turn, &asked.judge),
            "{what}"
        );
        let body = found.body();
        assert_eq!(
            (body.temperature, body.max_tokens),
            (asked.temperature, asked.max_tokens)
        );
        let roles: Vec<_> = body.messages.iter().map(|message| message.role).collect();
        assert_eq!(roles, asked.roles, "{what}");
        let [system, user] = [body.messages[0].content, body.messages[1].content];
        assert_eq!(sha256_hex([system]), asked.system_sha256, "{what}");
        assert_eq!(user.chars().count(), asked.user_chars, "{what}");
        assert_eq!(sha256_hex([user]), asked.user_sha256, "{what}");
        asked
            .system
            .iter()
            .for_each(|text| assert_eq!(system, text));
        asked.user.iter().for_each(|text| assert_eq!(user, text));
    }
    // Without second turns the same requests come first.
    let first = material.requests("gpt-4", 1).unwrap();
    assert!(first.iter().all(|request| request.key.turn == 1));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rated {
    judgment: String,
    score: Option<f64>,
    error: Option<String>,
}

#[test]
fn fixture_ratings_are_fastchats() {
    let Some(Folders { recorded, .. }) = folders() else {
        return;
    };
    let cases: Vec<Rated> = json(&recorded.join("ratings.json"));
    assert!(!cases.is_empty());
    for case in cases {
        let found = rating(&case.judgment);
        let score = found.map_or(Some(-1.0), |rating| rating.score.as_f64());
        // Where FastChat crashes there is no rating.
        assert_eq!(case.score.is_none(), case.error.is_some());
        assert_eq!(score, case.score.or(Some(-1.0)), "{}", case.judgment);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prompted {
    template: String,
    question_id: i64,
    prompts: Vec<String>,
    stop_str: Option<String>,
    stop_token_ids: Option<Vec<u32>>,
}

#[test]
fn fixture_conversations_are_fastchats() {
    let Some(Folders { recorded, data }) = folders() else {
        return;
    };
    let questions = questions(&data);
    let cases: Vec<Prompted> = json(&recorded.join("conversations.json"));
    assert!(!cases.is_empty());
    for case in cases {
        let template = Conversation::named(&case.template).unwrap();
        let question = questions.get(case.question_id).unwrap();
        assert_eq!(template.stop, case.stop_str.as_deref(), "{}", case.template);
        assert_eq!(case.stop_token_ids, None);
        let answers: Vec<_> = (1..)
            .map(|n| format!("Answer {n}."))
            .take(case.prompts.len())
            .collect();
        for (turn, prompt) in case.prompts.iter().enumerate() {
            let found = template.prompt(&question.turns[..=turn], &answers[..turn]);
            assert_eq!(&found, prompt, "{} turn {turn}", case.template);
        }
    }
}

#[test]
fn fixture_judgments_print_fastchats_tables_and_means() {
    let Some(Folders { recorded, data }) = folders() else {
        return;
    };
    let questions = questions(&data);
    let path = only(&recorded.join("model_judgment"), "gpt-4");
    let judgments = JudgmentFile::read(&path).unwrap();
    let summary = summarise(&judgments, Some(&questions));
    let tables = std::fs::read_to_string(recorded.join("show_result.txt")).unwrap();
    let name = path.strip_prefix(&recorded).unwrap().display().to_string();
    assert_eq!(summary.tables(&name), tables);
    let scores: BTreeMap<String, Value> = json(&recorded.join("scores.json"));
    assert_eq!(scores.len(), summary.models.len());
    for (model, expected) in scores {
        let found = serde_json::to_value(&summary.models[&model]).unwrap();
        for (key, expected) in expected.as_object().unwrap() {
            match key.as_str() {
                "categories" => {
                    let found: BTreeMap<String, Value> =
                        serde_json::from_value(found[key].clone()).unwrap();
                    assert_eq!(found.len(), expected.as_object().unwrap().len());
                    for (category, expected) in expected.as_object().unwrap() {
                        same(&found[category], expected, &format!("{model} {category}"));
                    }
                }
                _ => same(&found[key], expected, &format!("{model} {key}")),
            }
        }
    }
}

/// The same numbers to 1e-12 wherever the recorded value has one.
fn same(found: &Value, expected: &Value, what: &str) {
    match expected {
        Value::Object(fields) => {
            for (key, expected) in fields {
                same(&found[key], expected, &format!("{what} {key}"));
            }
        }
        expected => {
            let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
            assert!(
                (found - expected).abs() <= 1e-12,
                "{what}: {found}, recorded {expected}"
            );
        }
    }
}

/// The score of a stored judgment is that of its text.
#[test]
fn fixture_judgments_have_the_scores_of_their_texts() {
    let Some(Folders { recorded, .. }) = folders() else {
        return;
    };
    let path = only(&recorded.join("model_judgment"), "gpt-4");
    for Judgment {
        judgment, score, ..
    } in JudgmentFile::read(&path).unwrap()
    {
        let found = rating(&judgment).map_or(Some(-1.0), |rating| rating.score.as_f64());
        assert_eq!(found, score.as_f64(), "{judgment}");
    }
}

//! MT-Bench from questions to scores: a judge that fails in every way, and the commands as a shell user sees them.
#![allow(missing_docs)]

mod commands;
mod endpoint;
#[path = "../shell/mod.rs"]
mod shell;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde_json::json;
use tempfile::TempDir;
use vblora_bench::{
    Error,
    evaluate::mtbench::{
        Answer, AnswerFile, Desk, Endpoint as Client, FAILED, JudgePrompts, Judging, Judgment,
        JudgmentFile, Material, Outcome, Patience, Questions, Request, answer_file, judgment_file,
        summarise,
    },
};

use endpoint::{Endpoint, Reply, judgment};

/// A folder like FastChat's with two questions and the answers of model `m`.
pub(crate) struct Bench(pub(crate) TempDir);

const ONE_AT_A_TIME: Judging = Judging {
    parallel: 1,
    repeat: 1,
    again: false,
};

const AGAIN: Judging = Judging {
    again: true,
    ..ONE_AT_A_TIME
};

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        let questions = [
            json!({"question_id": 1, "category": "writing", "turns": ["Write {answer}.", "More?"]}),
            json!({"question_id": 2, "category": "math", "turns": ["1 + 1?", "And 2 + 2?"]}),
        ];
        bench.lines("question.jsonl", &questions);
        let prompt = |name: &str, template: &str| json!({"name": name, "type": "single", "system_prompt": "Judge.", "prompt_template": template, "output_format": "[[rating]]"});
        let prompts = [
            prompt("single-v1", "{question} | {answer}"),
            prompt("single-math-v1", "{question} | {ref_answer_1} | {answer}"),
            prompt(
                "single-v1-multi-turn",
                "{question_1} {answer_1} {question_2} {answer_2}",
            ),
            prompt(
                "single-math-v1-multi-turn",
                "{ref_answer_2} {answer_2} {{}}",
            ),
        ];
        bench.lines("judge_prompts.jsonl", &prompts);
        let answer = |id, model| Answer::new(id, model, vec!["first {x}".into(), "second".into()]);
        let file = |path: PathBuf| AnswerFile::new(path);
        let path = answer_file(bench.path(), "m").unwrap();
        file(path).add([answer(1, "m"), answer(2, "m")]).unwrap();
        let references = bench.path().join("reference_answer/judge.jsonl");
        file(references).add([answer(2, "judge")]).unwrap();
        bench
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn lines(&self, name: &str, values: &[serde_json::Value]) {
        let lines: String = values.iter().map(|value| format!("{value}\n")).collect();
        std::fs::write(self.path().join(name), lines).unwrap();
    }

    fn requests(&self) -> Vec<Request> {
        let questions = Questions::read(&self.path().join("question.jsonl")).unwrap();
        let path = answer_file(self.path(), "m").unwrap();
        let answers = AnswerFile::read(&path, &questions).unwrap();
        let references = self.path().join("reference_answer/judge.jsonl");
        let references = AnswerFile::read_references(&references, &questions).unwrap();
        let material = Material {
            questions: &questions,
            answers: &BTreeMap::from([("m".to_owned(), answers)]),
            references: Some(&references),
            prompts: &JudgePrompts::read(&self.path().join("judge_prompts.jsonl")).unwrap(),
        };
        material.requests("judge", 2).unwrap()
    }

    fn file(&self) -> PathBuf {
        judgment_file(self.path(), "judge").unwrap()
    }

    fn judge(&self, endpoint: &Endpoint, judging: Judging) -> Result<Outcome, Error> {
        let client = Client::new(&endpoint.base, None, patience()).unwrap();
        let mut desk = Desk::open(&self.file(), judging)?;
        let never = AtomicBool::new(false);
        desk.judge(&self.requests(), &client, &mut |_| (), &never)
    }

    fn judgments(&self) -> Vec<Judgment> {
        match self.file().exists() {
            true => JudgmentFile::read(&self.file()).unwrap(),
            false => Vec::new(),
        }
    }

    fn scores(&self) -> Vec<f64> {
        let scores = self.judgments();
        scores.iter().map(|j| j.score.as_f64().unwrap()).collect()
    }
}

fn patience() -> Patience {
    Patience {
        timeout: Duration::from_millis(700),
        tries: 3,
        first_wait: Duration::from_millis(1),
        longest_wait: Duration::from_secs(2),
    }
}

fn outcome(judged: usize, failed: usize) -> Outcome {
    Outcome {
        judged,
        failed,
        requests: 4,
    }
}

#[test]
fn requests_have_fastchats_form_and_braces_stay() {
    let bench = Bench::new();
    let endpoint = Endpoint::new(vec![Reply::Text("Rating: [[7]]")]);
    assert_eq!(
        bench.judge(&endpoint, ONE_AT_A_TIME).unwrap(),
        outcome(4, 0)
    );
    let heard = endpoint.heard();
    let contents: Vec<_> = heard
        .iter()
        .map(|h| h.body["messages"][1]["content"].as_str().unwrap())
        .collect();
    let expected = [
        "Write {answer}. | first {x}",
        "1 + 1? | first {x} | first {x}",
        "Write {answer}. first {x} More? second",
        "second second {}",
    ];
    assert_eq!(contents, expected);
    let first = &heard[0];
    assert_eq!(first.path, "/v1/chat/completions");
    assert_eq!(
        first.body,
        json!({"model": "judge", "messages": [
            {"role": "system", "content": "Judge."}, {"role": "user", "content": expected[0]},
        ], "temperature": 0, "max_tokens": 2048})
    );
    assert!(
        !first
            .headers
            .iter()
            .any(|line| line.to_lowercase().starts_with("authorization"))
    );
}

#[test]
fn what_passes_is_asked_again_and_each_judgment_is_there_once() {
    let bench = Bench::new();
    let wrong = |body: &str| Reply::Body(body.to_owned());
    let endpoint = Endpoint::new(vec![
        Reply::Status(500, "", String::new()),
        Reply::Cut,
        Reply::Text("[[1]]"),
        Reply::Nothing,
        wrong("not JSON"),
        Reply::Text("[[2]]"),
        wrong(r#"{"choices": []}"#),
        wrong(r#"{"choices": [{"message": {"content": null}}]}"#),
        Reply::Text("[[3]]"),
        Reply::Slow(Duration::from_secs(2)),
        Reply::Text("[[4]]"),
    ]);
    assert_eq!(
        bench.judge(&endpoint, ONE_AT_A_TIME).unwrap(),
        outcome(4, 0)
    );
    assert_eq!(bench.scores(), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(endpoint.heard().len(), 11);
    assert_eq!(
        bench.judge(&endpoint, ONE_AT_A_TIME).unwrap(),
        outcome(4, 0)
    );
    assert_eq!(endpoint.heard().len(), 11, "nothing is asked twice");
}

#[test]
fn retry_after_is_heeded() {
    let bench = Bench::new();
    let busy = Reply::Status(
        429,
        "Retry-After: 1\r\n",
        r#"{"error": {"message": "slow down"}}"#.into(),
    );
    let endpoint = Endpoint::new(vec![busy, Reply::Text("[[5]]")]);
    let start = Instant::now();
    assert_eq!(
        bench.judge(&endpoint, ONE_AT_A_TIME).unwrap(),
        outcome(4, 0)
    );
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[test]
fn failures_are_counted_and_judged_again_on_demand() {
    let bench = Bench::new();
    let filtered =
        json!({"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]});
    let error = r#"{"error": {"message": "context\n too long"}}"#;
    let endpoint = Endpoint::new(vec![
        Reply::Body(filtered.to_string()),
        Reply::Text("I cannot rate this."),
        Reply::Status(400, "", error.into()),
        Reply::Text("[[9]]"),
    ]);
    assert_eq!(
        bench.judge(&endpoint, ONE_AT_A_TIME).unwrap(),
        outcome(1, 3)
    );
    let there = bench.judgments();
    assert_eq!(bench.scores(), [-1.0, -1.0, -1.0, 9.0]);
    let texts: Vec<_> = there.iter().map(|j| j.judgment.as_str()).collect();
    assert_eq!(texts, [FAILED, "I cannot rate this.", FAILED, "[[9]]"]);
    let errors: Vec<_> = there
        .iter()
        .map(|j| j.error.as_deref().unwrap_or(""))
        .collect();
    assert_eq!(
        errors[0],
        "the endpoint refused the content (content_filter)"
    );
    assert_eq!(errors[2], "status 400: context too long");
    let summary = summarise(&there, None);
    let scores = &summary.models["m"];
    assert_eq!((scores.judged, scores.failed, scores.refused), (1, 3, 2));
    // Without --again they stay; with it each is there once.
    assert_eq!(
        bench.judge(&endpoint, ONE_AT_A_TIME).unwrap(),
        outcome(1, 3)
    );
    assert_eq!(endpoint.heard().len(), 4);
    assert_eq!(bench.judge(&endpoint, AGAIN).unwrap(), outcome(4, 0));
    assert_eq!(bench.scores(), [9.0; 4]);
    assert_eq!(endpoint.heard().len(), 7);
}

#[test]
fn an_endpoint_that_never_works_ends_the_work_with_one_line() {
    for (reply, reason) in [
        (
            Reply::Status(401, "", r#"{"error": {"message": "bad key"}}"#.into()),
            "status 401: bad key",
        ),
        (Reply::Status(404, "", String::new()), "status 404: nothing"),
        (
            Reply::Status(302, "Location: http://127.0.0.1:1/\r\n", String::new()),
            "status 302: moved to http://127.0.0.1:1/; give that as --base-url",
        ),
        (
            Reply::Status(
                429,
                "",
                r#"{"error": {"message": "no money", "code": "insufficient_quota"}}"#.into(),
            ),
            "status 429: no money",
        ),
    ] {
        let bench = Bench::new();
        let endpoint = Endpoint::new(vec![reply]);
        let error = bench
            .judge(&endpoint, ONE_AT_A_TIME)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            format!("{}/chat/completions: {reason}", endpoint.base)
        );
        assert_eq!(endpoint.heard().len(), 1);
        assert!(!bench.file().exists(), "nothing was judged");
    }
}

#[test]
fn an_endpoint_that_is_not_there_is_named_at_once() {
    let bench = Bench::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}/v1", free.local_addr().unwrap());
    drop(free);
    let client = Client::new(&base, None, patience()).unwrap();
    let mut desk = Desk::open(&bench.file(), ONE_AT_A_TIME).unwrap();
    let never = AtomicBool::new(false);
    let judged = desk.judge(&bench.requests(), &client, &mut |_| (), &never);
    let error = judged.unwrap_err().to_string();
    assert!(
        error.starts_with(&base) && error.contains("refused"),
        "{error}"
    );
    assert!(bench.judgments().is_empty());
}

#[test]
fn several_failures_in_a_row_end_the_work_and_stay_in_the_file() {
    let bench = Bench::new();
    let questions: Vec<_> = (11..20)
        .map(|id| json!({"question_id": id, "category": "stem", "turns": ["a"]}))
        .collect();
    bench.lines("question.jsonl", &questions);
    let path = answer_file(bench.path(), "m").unwrap();
    let answer = |id| Answer::new(id, "m", vec!["b".into()]);
    AnswerFile::new(path).add((11..20).map(answer)).unwrap();
    let endpoint = Endpoint::new(vec![Reply::Status(503, "", "busy".into())]);
    let error = bench
        .judge(&endpoint, ONE_AT_A_TIME)
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("5 judgments in a row failed, the last one: status 503: busy (3 tries)"),
        "{error}"
    );
    // A further request may have been on its way.
    let scores = bench.scores();
    assert!((5..=6).contains(&scores.len()) && scores.iter().all(|score| *score == -1.0));
}

#[test]
fn a_killed_command_loses_and_repeats_nothing() {
    let bench = Bench::new();
    let endpoint = Endpoint::new(vec![Reply::Text("[[5]]")]);
    bench.judge(&endpoint, ONE_AT_A_TIME).unwrap();
    let text = std::fs::read_to_string(bench.file()).unwrap();
    let second = text.match_indices('\n').nth(1).unwrap().0;
    std::fs::write(bench.file(), &text[..second + 30]).unwrap();
    assert_eq!(
        bench.judge(&endpoint, ONE_AT_A_TIME).unwrap(),
        outcome(4, 0)
    );
    assert_eq!(endpoint.heard().len(), 4 + 2);
    assert_eq!(bench.scores(), [5.0; 4]);
}

#[test]
fn a_judgment_of_an_earlier_answer_is_no_judgment_of_this_one() {
    let bench = Bench::new();
    let endpoint = Endpoint::new(vec![Reply::Text("[[5]]")]);
    bench.judge(&endpoint, ONE_AT_A_TIME).unwrap();
    let path = answer_file(bench.path(), "m").unwrap();
    let questions = Questions::read(&bench.path().join("question.jsonl")).unwrap();
    let mut answers = AnswerFile::read(&path, &questions).unwrap();
    let other = Answer::new(1, "m", vec!["other".into(), "second".into()]);
    answers.add([other]).unwrap();
    let error = bench
        .judge(&endpoint, ONE_AT_A_TIME)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("question 1, turn 1, model m: expected a judgment of the present answer"),
        "{error}"
    );
    assert_eq!(endpoint.heard().len(), 4);
}

#[test]
fn workers_share_the_work_and_a_signal_ends_it() {
    let bench = Bench::new();
    let endpoint = Endpoint::new(vec![Reply::Text("[[5]]")]);
    let parallel = Judging {
        parallel: 3,
        ..ONE_AT_A_TIME
    };
    assert_eq!(bench.judge(&endpoint, parallel).unwrap(), outcome(4, 0));
    assert_eq!(endpoint.heard().len(), 4);
    // The signal is heard while the next judgment is still awaited.
    let endpoint = Endpoint::new(vec![
        Reply::Text("[[5]]"),
        Reply::Slow(Duration::from_millis(300)),
    ]);
    let bench = Bench::new();
    let client = Client::new(&endpoint.base, None, patience()).unwrap();
    let signal = AtomicBool::new(false);
    let mut desk = Desk::open(&bench.file(), ONE_AT_A_TIME).unwrap();
    let mut hear = |_: &Judgment| signal.store(true, Ordering::Relaxed);
    let outcome = desk
        .judge(&bench.requests(), &client, &mut hear, &signal)
        .unwrap();
    assert!(
        (1..=2).contains(&outcome.judged) && outcome.failed == 0,
        "{outcome:?}"
    );
    assert_eq!(bench.judgments().len(), outcome.judged);
    let message = Desk::open(&bench.file(), ONE_AT_A_TIME)
        .unwrap_err()
        .to_string();
    assert!(message.contains("in use"), "{message}");
}

#[test]
fn the_median_of_several_judgments_is_one_line() {
    let bench = Bench::new();
    let thrice = Judging {
        repeat: 3,
        ..ONE_AT_A_TIME
    };
    let texts = ["[[9]]", "[[2]]", "[[4]]", "[[5]]", "none"];
    let mut replies: Vec<_> = texts.map(Reply::Text).into();
    replies.push(Reply::Text("[[7]]"));
    let endpoint = Endpoint::new(replies);
    assert_eq!(bench.judge(&endpoint, thrice).unwrap(), outcome(4, 0));
    // The fifth has no rating, so the second answer has the median of 5 and 7.
    assert_eq!(bench.scores(), [4.0, 6.0, 7.0, 7.0]);
    assert_eq!(bench.judgments()[0].judgment, "[[4]]");
    let runs = JudgmentFile::read(&bench.file().with_extension("runs.jsonl")).unwrap();
    assert_eq!(runs.len(), 12);
    assert_eq!(summarise(&bench.judgments(), None).runs, 3);
    // The median of a killed command is made from what is there.
    std::fs::write(bench.file(), "").unwrap();
    assert_eq!(bench.judge(&endpoint, thrice).unwrap(), outcome(4, 0));
    assert_eq!(endpoint.heard().len(), 12);
    let error = bench
        .judge(&endpoint, ONE_AT_A_TIME)
        .unwrap_err()
        .to_string();
    assert!(error.contains("--repeat) is 3, now it is 1"), "{error}");
}

#[test]
fn a_reference_that_is_missing_or_too_short_is_named() {
    let bench = Bench::new();
    let questions = Questions::read(&bench.path().join("question.jsonl")).unwrap();
    let path = answer_file(bench.path(), "m").unwrap();
    let answers = BTreeMap::from([("m".to_owned(), AnswerFile::read(&path, &questions).unwrap())]);
    let prompts = JudgePrompts::read(&bench.path().join("judge_prompts.jsonl")).unwrap();
    let material = Material {
        questions: &questions,
        answers: &answers,
        references: None,
        prompts: &prompts,
    };
    let error = material.requests("judge", 2).unwrap_err().to_string();
    assert!(
        error.contains("a reference answer to question 2 (math)"),
        "{error}"
    );
    let short = bench.path().join("short.jsonl");
    AnswerFile::new(short.clone())
        .add([Answer::new(2, "j", vec!["2".into()])])
        .unwrap();
    let error = AnswerFile::read_references(&short, &questions)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("short.jsonl, line 1: expected 2 turns, as question 2 has, found 1"),
        "{error}"
    );
}

#[test]
fn a_judgment_is_read_back_from_what_is_sent() {
    assert!(judgment("a \"b\"").contains(r#"a \"b\""#));
}

//! The commands as a shell user sees them.

use std::process::Command;

use serde_json::Value;

use crate::{
    Bench,
    endpoint::{Endpoint, Reply},
    shell::seen,
};

const KEY: &str = "sk-a-secret-key";

impl Bench {
    /// Exit status, standard output, standard error of `vblora evaluate mtbench`.
    fn run(&self, arguments: &str) -> (i32, String, String) {
        let done = Command::new(env!("CARGO_BIN_EXE_vblora"))
            .current_dir(self.path())
            .env("JUDGE_KEY", KEY)
            .env_remove("OPENAI_API_KEY")
            .args(["evaluate", "mtbench"])
            .args(arguments.split_whitespace())
            .output()
            .unwrap();
        seen(done)
    }

    fn fails(&self, arguments: &str) -> String {
        let (status, _, errors) = self.run(arguments);
        assert_eq!(status, 1, "{errors}");
        let lines: Vec<_> = errors
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert_eq!(lines.len(), 1, "{errors}");
        lines[0].to_owned()
    }
}

/// Questions whose answers fit the 256 positions of the bundled model.
#[test]
fn a_model_answers_is_judged_and_shown() {
    let bench = Bench::new();
    let answer =
        "answer --model bundled:llama --template raw --model-id tiny --max-new-tokens 6 --out .";
    let (status, out, errors) = bench.run(&format!("{answer} --limit 1"));
    assert_eq!(status, 0, "{errors}");
    assert!(
        out.starts_with("1 of 1 questions answered with template raw: "),
        "{out}"
    );
    let read = || std::fs::read_to_string(bench.path().join("model_answer/tiny.jsonl")).unwrap();
    let one = read();
    assert_eq!(one.lines().count(), 1);
    let (status, out, errors) = bench.run(answer);
    assert_eq!(
        (status, out.starts_with("2 of 2 questions")),
        (0, true),
        "{errors}"
    );
    let all = read();
    assert!(all.contains(&one), "what was answered stays");
    // Draws depend neither on batches nor on what was answered before.
    let (status, _, errors) = bench.run(&format!("{answer} --overwrite --batch 1"));
    assert_eq!(status, 0, "{errors}");
    let turns = |text: &str| -> Vec<Value> {
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .map(|line| line["choices"][0]["turns"].clone())
            .collect()
    };
    assert_eq!(turns(&read()), turns(&all));
    let error = bench.fails(&format!("{answer} --seed 1"));
    assert!(
        error.contains("tiny.jsonl") && error.contains("draws"),
        "{error}"
    );

    let endpoint = Endpoint::new(vec![Reply::Text("Rating: [[7]]")]);
    let judge = format!(
        "judge --judge judge --base-url {} --api-key-env JUDGE_KEY --out .",
        endpoint.base
    );
    let (status, out, errors) = bench.run(&format!("{judge} --dry-run"));
    assert_eq!((status, out.lines().count()), (0, 8), "{errors}");
    assert!(endpoint.heard().is_empty());
    let (status, out, errors) = bench.run(&format!("{judge} --models tiny --first-turn"));
    assert_eq!(
        (status, out.starts_with("judged 2 of 2: ")),
        (0, true),
        "{out} {errors}"
    );
    let heard = endpoint.heard();
    assert!(
        heard[0]
            .headers
            .contains(&format!("Authorization: Bearer {KEY}")),
        "{heard:?}"
    );
    let (status, out, errors) = bench.run(&judge);
    assert_eq!(
        (status, out.starts_with("judged 8 of 8: ")),
        (0, true),
        "{out} {errors}"
    );
    assert_eq!(endpoint.heard().len(), 8);

    let (status, out, errors) = bench.run("show --out .");
    assert_eq!(status, 0, "{errors}");
    for part in [
        "########## First turn ##########",
        "Judged 4 of 4.",
        "template raw.",
        "| writing ",
    ] {
        assert!(out.contains(part), "{part} in {out}");
    }
    let (_, out, _) = bench.run("show --out . --json");
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        value["models"]["tiny"]["categories"]["math"]["second"]["mean"],
        7.0
    );
}

#[test]
fn the_key_is_in_no_file_and_no_message() {
    let bench = Bench::new();
    let echo = format!(r#"{{"error": {{"message": "wrong key {KEY}"}}}}"#);
    for status in [401, 400] {
        let endpoint = Endpoint::new(vec![Reply::Status(status, "", echo.clone())]);
        let judge = format!(
            "judge --judge judge --base-url {} --api-key-env JUDGE_KEY --out .",
            endpoint.base
        );
        let (_, out, errors) = bench.run(&judge);
        assert!(errors.contains("wrong key [key]"), "{errors}");
        assert!(!(out + &errors).contains(KEY));
    }
    let path = bench.path().join("model_judgment/judge_single.jsonl");
    let judgments = std::fs::read_to_string(&path).unwrap();
    assert!(
        judgments.contains("wrong key [key]") && !judgments.contains(KEY),
        "{judgments}"
    );
    let message = serde_json::json!({"content": format!("Bearer {KEY} says [[7]]")});
    let echo = serde_json::json!({"choices": [{"message": message}]}).to_string();
    let endpoint = Endpoint::new(vec![Reply::Body(echo)]);
    let judge = format!(
        "judge --judge judge --again --base-url {} --api-key-env JUDGE_KEY --out .",
        endpoint.base
    );
    assert_eq!(bench.run(&judge).0, 0);
    let judgments = std::fs::read_to_string(&path).unwrap();
    assert!(
        judgments.contains("Bearer [key] says [[7]]") && !judgments.contains(KEY),
        "{judgments}"
    );
}

#[test]
fn wrong_input_is_one_line_that_names_it() {
    let bench = Bench::new();
    let answer = "answer --model bundled:llama --model-id x --out .";
    std::fs::write(bench.path().join("empty.jsonl"), "").unwrap();
    for (arguments, message) in [
        (answer, "setting template: expected one of alpaca, llama-2"),
        (
            "answer --model bundled:llama --template chat --model-id x --out .",
            "has no chat template",
        ),
        (
            "answer --model bundled:llama --template raw --model-id a/b --out .",
            "setting model-id",
        ),
        (
            "answer --model bundled:llama --template raw --model-id m --out .",
            "nothing says where its answers come from",
        ),
        ("judge --judge judge --out .", "OPENAI_API_KEY"),
        ("judge --judge ../judge --out .", "setting judge"),
        (
            "judge --judge other --out . --dry-run",
            "--references names a file of them",
        ),
        (
            "judge --judge judge --out . --models nobody --dry-run",
            "nobody.jsonl",
        ),
        (
            "judge --judge judge --out . --base-url host",
            "setting base-url",
        ),
        (
            "judge --judge judge --out . --timeout 18446744073709551615",
            "--timeout must be 1 to 86400",
        ),
        ("show --out .", "no file of judgments"),
        (
            "show --out . --file empty.jsonl",
            "empty.jsonl: no judgment",
        ),
        ("show --out . --judge other", "other_single.jsonl"),
    ] {
        let error = bench.fails(arguments);
        assert!(error.contains(message), "{arguments}: {error}");
    }
    bench.lines(
        "model_answer/stranger.jsonl",
        &[serde_json::json!({
            "question_id": 7, "answer_id": "x", "model_id": "x", "choices": [], "tstamp": 1.0
        })],
    );
    let error = bench.fails("judge --judge judge --out . --dry-run");
    assert!(
        error.contains("stranger.jsonl, line 1: expected an answer to one of the questions"),
        "{error}"
    );
}

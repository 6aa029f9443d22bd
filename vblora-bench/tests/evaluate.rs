//! `vblora evaluate gsm8k` and sweeps with benchmarks, on the bundled decoder.
#![cfg(feature = "flex")]
#![forbid(unsafe_code)]

use std::{fs, path::Path, process::Command};

mod shell;

/// Exit status, standard output, standard error.
fn vblora(dir: &Path, line: &str) -> (i32, String, String) {
    let arguments = shlex::split(line).unwrap();
    let program = env!("CARGO_BIN_EXE_vblora");
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir);
    shell::seen(command.output().unwrap())
}

fn succeeds(dir: &Path, line: &str) -> String {
    let (status, out, errors) = vblora(dir, line);
    assert_eq!(status, 0, "{line}: {errors}");
    out
}

fn fails(dir: &Path, line: &str) -> String {
    let (status, out, errors) = vblora(dir, line);
    assert_ne!(status, 0, "{line}: {out}");
    errors
}

fn questions(dir: &Path) {
    let row = |i: usize| {
        format!(
            "{{\"question\": \"{}?\", \"answer\": \"So.\\n#### {i}\"}}\n",
            "How many ".repeat(1 + i % 3)
        )
    };
    fs::write(dir.join("test.jsonl"), (0..9).map(row).collect::<String>()).unwrap();
}

const ASK: &str = "evaluate gsm8k --model bundled:llama --data test.jsonl --out a.jsonl --prompt question --max-new-tokens 6 --limit 3 --batch 2";

#[test]
fn answers_are_written_resumed_and_scored_again_without_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    questions(dir);
    let table = succeeds(dir, ASK);
    assert!(
        table.contains("| paper ") && table.contains("0 of 3"),
        "{table}"
    );
    assert!(
        table.contains("3 of 9 questions, evenly spaced."),
        "{table}"
    );
    let whole = fs::read_to_string(dir.join("a.jsonl")).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    assert_eq!(lines.len(), 3);
    for (line, id) in lines.iter().zip(["gsm8k-2", "gsm8k-5", "gsm8k-8"]) {
        let answer: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(answer["id"], id);
        assert!(answer["tokens"].as_u64().unwrap() <= 6, "{line}");
    }
    // A kill left one whole line and a cut one.
    fs::write(dir.join("a.jsonl"), format!("{}\n{{\"id\":", lines[1])).unwrap();
    assert_eq!(succeeds(dir, ASK), table);
    assert_eq!(fs::read_to_string(dir.join("a.jsonl")).unwrap(), whole);
    let again = succeeds(
        dir,
        "evaluate gsm8k --score a.jsonl --scorer strict --export e.jsonl",
    );
    assert!(again.find("| strict") < again.find("| paper"), "{again}");
    assert!(
        again.contains("3 of 9 questions, evenly spaced."),
        "{again}"
    );
    let mut one = String::from(lines[0]);
    one.push('\n');
    fs::write(dir.join("a.jsonl"), &one).unwrap();
    let part = succeeds(dir, "evaluate gsm8k --score a.jsonl");
    assert!(
        part.contains("3 of 9 questions, evenly spaced; 2 not answered yet."),
        "{part}"
    );
    let exported = fs::read_to_string(dir.join("e.jsonl")).unwrap();
    assert!(exported.contains(r#""gold":"\\boxed{2}""#), "{exported}");
}

const WRITE: &str =
    "evaluate e2e --model bundled:llama --data t.csv --out e.jsonl --beams 2 --max-new-tokens 9";

#[test]
fn texts_for_meaning_representations_get_the_scores_of_the_same_outputs() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let rows = [
        "mr,ref",
        "\"name[A], area[riverside]\",A is by the river.",
        "\"name[A], area[riverside]\",There is A.",
        "\"name[B], area[city centre]\",B is in the centre.",
    ];
    fs::write(dir.join("t.csv"), rows.join("\n")).unwrap();
    let table = succeeds(dir, &format!("{WRITE} --export o.txt"));
    assert!(
        table.starts_with("File\tBLEU\tNIST\tMETEOR\tROUGE_L\tCIDEr\ne.jsonl\t"),
        "{table}"
    );
    let again = succeeds(dir, "evaluate e2e --score e.jsonl");
    assert_eq!(again, table);
    let outputs = fs::read_to_string(dir.join("o.txt")).unwrap();
    assert_eq!(outputs.lines().count(), 2, "{outputs}");
    let theirs = succeeds(dir, "evaluate e2e --refs t.csv --outputs o.txt");
    let scores = |table: &str| {
        table
            .trim_end()
            .rsplit('\n')
            .next()
            .unwrap()
            .split_once('\t')
            .unwrap()
            .1
            .to_owned()
    };
    assert_eq!(scores(&theirs), scores(&table));
    fs::write(dir.join("empty.csv"), "mr,ref\nname[A],A\nname[A],\n").unwrap();
    for (line, says) in [
        (
            WRITE.replace("t.csv", "empty.csv"),
            "empty.csv, field \"ref\": expected text in every row, found 1 empty",
        ),
        ("evaluate e2e".to_owned(), "--outputs"),
        (
            format!("{WRITE} --refs t.csv --outputs o.txt"),
            "cannot be used with",
        ),
        (
            "evaluate e2e --refs t.csv --outputs o.txt --export x.txt".into(),
            "cannot be used with",
        ),
        (
            "evaluate e2e --score e.jsonl --base-dtype bf16".into(),
            "--base-dtype <DTYPE>",
        ),
        (
            "evaluate e2e --refs t.csv --outputs o.txt --beams 4".into(),
            "--beams <N>",
        ),
        (
            "evaluate e2e --refs t.csv --outputs o.txt --adapter a".into(),
            "--adapter <DIR|FILE>",
        ),
        (
            "evaluate math --score e.jsonl".into(),
            "expected answers to its questions, found answers to e2e",
        ),
        (format!("{WRITE} --java-metrics none"), "none"),
        ("evaluate e2e --model bundled:llama".into(), "--data"),
        ("evaluate e2e --refs t.csv".into(), "--outputs"),
    ] {
        let error = fails(dir, &line);
        assert!(error.contains(says), "{line}: {error}");
    }
}

#[test]
fn wrong_uses_are_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    questions(dir);
    succeeds(dir, ASK);
    fs::write(
        dir.join("no.jsonl"),
        "{\"question\": \"q\", \"answer\": \"5\"}\n",
    )
    .unwrap();
    for (line, says) in [
        (
            ASK.replace("--max-new-tokens 6", "--max-new-tokens 7"),
            "their max_new_tokens is 6, now it is 7",
        ),
        (
            ASK.replace("--limit 3", "--limit 2"),
            "choose the same --limit and --data",
        ),
        (
            ASK.replace("--out a.jsonl", "--out test.jsonl --overwrite"),
            "--out and --data name the same file",
        ),
        (
            format!("{ASK} --export ./a.jsonl"),
            "--export and --out name the same file",
        ),
        (
            format!("{ASK} --export test.jsonl"),
            "--export and --data name the same file",
        ),
        (
            "evaluate gsm8k --score a.jsonl --export a.jsonl".into(),
            "--export and --score name the same file",
        ),
        (
            "evaluate gsm8k --score a.jsonl --export a.jsonl.origin.json".into(),
            "--export and the file beside the answers name the same file",
        ),
        (
            "evaluate e2e --score a.jsonl --export a.jsonl".into(),
            "--export and --score name the same file",
        ),
        (
            "evaluate e2e --refs test.jsonl --outputs no.jsonl --segments test.jsonl".into(),
            "--segments and --refs name the same file",
        ),
        ("evaluate gsm8k --score .".into(), "setting score:"),
        (ASK.replace("--limit 3", "--limit 0"), "gsm8k.limit"),
        (
            ASK.replace("--prompt question", "--prompt chat"),
            "chat template",
        ),
        (
            ASK.replace("test.jsonl", "no.jsonl"),
            "no.jsonl, row 1: expected an answer with",
        ),
        ("evaluate gsm8k".into(), "--score FILE"),
        ("evaluate gsm8k --score none.jsonl".into(), "none.jsonl"),
        (
            "evaluate gsm8k --score a.jsonl --limit 2".into(),
            "--limit <N>",
        ),
        (
            "evaluate gsm8k --score a.jsonl --prompt question".into(),
            "--prompt <FORM>",
        ),
        (
            "evaluate gsm8k --score a.jsonl --scorer best".into(),
            "cot-strict",
        ),
    ] {
        let error = fails(dir, &line);
        assert!(error.contains(says), "{line}: {error}");
        assert!(
            error.trim().lines().count() < 8 && !error.contains("panicked"),
            "{error}"
        );
    }
    let long = format!(
        "{{\"question\": \"{}\", \"answer\": \"#### 5\"}}\n",
        "word ".repeat(999)
    );
    fs::write(dir.join("long.jsonl"), long).unwrap();
    let ask = ASK.replace("test.jsonl", "long.jsonl");
    let error = fails(dir, &ask.replace("a.jsonl", "b.jsonl"));
    assert!(error.contains("the prompt of question gsm8k-0"), "{error}");
    assert!(!dir.join("b.jsonl").exists());
}

const SWEEP: &str = r#"about = "a causal sweep"
[base]
recipe = "demo"
task = "text"
epochs = 1
rows = 48
held_out_rows = 8
evaluate.e2e.data = "test.csv"
evaluate.e2e.beams = 1
evaluate.e2e.max_new_tokens = 8
[tables.t]
title = "T"
rows = ["method"]
columns = "task"
[[grid]]
table = "t"
method = ["vblora", "lora"]
seed = [1]
"#;

#[test]
fn a_causal_sweep_scores_its_benchmark_resumes_and_reports() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("s.toml"), SWEEP).unwrap();
    let rows = "mr,ref\n\"name[A], area[riverside]\",A is here.\n\"name[B], area[city centre]\",B is there.\n";
    fs::write(dir.join("test.csv"), rows).unwrap();
    let said = succeeds(dir, "sweep s.toml --out out");
    assert!(said.contains("2 runs done, 0 failed, 0 left"), "{said}");
    assert!(said.contains("e2e.bleu 0."), "{said}");
    let results = fs::read_to_string(dir.join("out/results.jsonl")).unwrap();
    assert_eq!(
        results.matches("\"scores\":{\"e2e.bleu\":").count(),
        2,
        "{results}"
    );
    succeeds(dir, "report out --out page");
    let page = fs::read_to_string(dir.join("page/report.md")).unwrap();
    assert!(
        page.contains("### Generated answers") && page.contains("e2e.bleu"),
        "{page}"
    );
    assert!(!page.contains("cola"), "{page}");
    // A kill while the first run answered: no result, and half of its answers.
    let id = results
        .split("\"id\":\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let answers = dir.join("out/answers").join(id).join("e2e.jsonl");
    let whole = fs::read_to_string(&answers).unwrap();
    let first = whole.lines().next().unwrap();
    fs::write(&answers, format!("{first}\n{{\"id\"")).unwrap();
    fs::remove_file(dir.join("out/results.jsonl")).unwrap();
    let said = succeeds(dir, "sweep s.toml --out out");
    assert!(said.contains("2 runs done, 0 failed, 0 left"), "{said}");
    assert_eq!(fs::read_to_string(&answers).unwrap(), whole);
    // Other questions make other runs.
    fs::write(
        dir.join("test.csv"),
        format!("{rows}\"name[C], area[riverside]\",C.\n"),
    )
    .unwrap();
    let said = succeeds(dir, "sweep s.toml --out out --runs 0");
    assert!(
        said.contains("2 runs to do") && said.contains("2 left"),
        "{said}"
    );
}

#[test]
fn keys_of_texts_are_refused_where_they_have_no_meaning() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("test.csv"), "mr,ref\nname[A],A\n").unwrap();
    let long = format!("mr,ref\nname[{}],A\n", "word ".repeat(999));
    fs::write(dir.join("long.csv"), long).unwrap();
    for (from, to, says) in [
        ("task = \"text\"", "task = \"demo\"", "only task text takes"),
        ("rows = 48", "format = \"poem\"", "unknown format \"poem\""),
        (
            "evaluate.e2e.beams",
            "evaluate.bleu.beams",
            "unknown benchmark \"bleu\"",
        ),
        (
            "evaluate.e2e.beams",
            "evaluate.e2e.beam",
            "unknown field `beam`",
        ),
        (
            "evaluate.e2e.beams = 1",
            "evaluate.e2e.prompt = \"chat\"",
            "e2e.prompt",
        ),
        ("\"test.csv\"", "\"none.csv\"", "none.csv"),
        (
            "\"test.csv\"",
            "\"long.csv\"",
            "the prompt of question e2e-0: expected 1 to ",
        ),
        (
            "rows = 48",
            "rows = 48\nmax_steps = 99",
            "seed=1: setting max_steps: expected at most 6, the steps of 1 epoch of 6, found 99",
        ),
        ("rows = 48", "rows = -1", "whole number"),
        ("rows = 48", "rows = 0", "rows: expected at least 1"),
        ("rows = 48", "format = \"alpaca\"", "format: expected e2e"),
        (
            "evaluate.e2e.beams = 1",
            "evaluate.e2e.beams = 0",
            "beams must be at least 1",
        ),
        (
            "evaluate.e2e.beams = 1",
            "evaluate.e2e.beams = 1\nevaluate.e2e.length_penalty = 0.9",
            "e2e.length_penalty: expected none unless beams is above 1",
        ),
    ] {
        fs::write(dir.join("s.toml"), SWEEP.replacen(from, to, 1)).unwrap();
        let error = fails(dir, "sweep s.toml --out out --dry-run");
        assert!(error.contains(says), "{to}: {error}");
    }
}

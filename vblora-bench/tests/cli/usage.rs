//! The program's help, completions, lost output, and paths given by mistake.

use std::{
    fs::File,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::{directory, vblora};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_vblora"))
}

#[test]
fn help_lists_every_subcommand_in_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let (status, out, _) = vblora(dir.path(), "--help");
    assert_eq!(status, 0);
    for part in [
        "Train:",
        "Use:",
        "Files:",
        "Research:",
        "  inspect ",
        "  sweep ",
    ] {
        assert!(out.contains(part), "{part:?} in {out}");
    }
    let (status, out, error) = vblora(dir.path(), "");
    assert_eq!((status, out.as_str()), (2, ""), "{error}");
    assert!(error.contains("Files:"), "{error}");
    let (status, out, _) = vblora(dir.path(), "plan --help");
    assert_eq!(status, 0);
    assert!(out.starts_with("vblora plan "), "{out}");
}

#[test]
fn every_shell_gets_its_completions() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (status, out, error) = vblora(dir.path(), &format!("completions {shell}"));
        assert_eq!(status, 0, "{error}");
        assert!(
            out.contains("--at-most") || out.contains("at-most"),
            "{out}"
        );
        assert!(!out.contains("sweep-worker"), "{shell}");
    }
}

/// A full disk is a failure. A closed pipe is not.
#[cfg(target_os = "linux")]
#[test]
fn what_standard_output_does_not_take_is_no_success() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["plan", "--help"],
        &["completions", "bash"],
    ] {
        let done = program().args(arguments).stdout(full()).output().unwrap();
        assert_eq!(done.status.code(), Some(1), "{arguments:?}");
        let error = String::from_utf8(done.stderr).unwrap();
        let expected =
            "error: cannot write standard output: No space left on device (os error 28)\n";
        assert_eq!(error, expected, "{arguments:?}");
    }
    let mut left = program()
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(left.stdout.take());
    assert_eq!(left.wait().unwrap().code(), Some(0));
}

/// Scripts read these names.
#[test]
fn reports_are_one_json_object_with_stable_fields() {
    let dir = tempfile::tempdir().unwrap();
    directory(dir.path());
    let plan = "plan bundled.json --targets qv --vector-length 64";
    let config = vblora_bench::demo::model_files()
        .read("config.json")
        .unwrap();
    std::fs::write(dir.path().join("bundled.json"), config).unwrap();
    let with = |more: &str| format!("{plan} {more}");
    for (arguments, fields) in [
        (
            with(""),
            &[
                "architecture",
                "bytes",
                "count",
                "settings",
                "sites",
                "sub_vectors",
            ][..],
        ),
        (
            with("--method lora").replace("--vector-length 64", ""),
            &["architecture", "count", "settings", "sites"],
        ),
        (
            with("--at-most 30kB"),
            &["architecture", "at_most", "fits", "form", "sites"],
        ),
        (
            "inspect net".to_owned(),
            &[
                "bank",
                "base_model",
                "base_sha256",
                "count",
                "form",
                "method",
                "patterned",
                "recipe",
                "saved",
                "sites",
            ],
        ),
        (
            "diff net net".to_owned(),
            &[
                "bank",
                "codes",
                "only_in_one",
                "only_in_other",
                "other_dimensions",
                "saved",
                "sites",
            ],
        ),
    ] {
        let (status, out, error) = vblora(dir.path(), &format!("{arguments} --json"));
        assert_eq!(status, 0, "{arguments}: {error}");
        let report: Value = serde_json::from_str(&out).unwrap();
        let mut found: Vec<_> = report.as_object().unwrap().keys().collect();
        found.sort();
        assert_eq!(found, fields, "{arguments}");
    }
}

#[test]
fn a_directory_without_an_adapter_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (folder, file) in [
        ("out/head-seed1", "head.safetensors"),
        ("out/full-seed1", "model.safetensors"),
        ("out/full-seed1", "head.safetensors"),
        ("out", "config.toml"),
        ("empty", "config.toml"),
    ] {
        std::fs::create_dir_all(at(folder)).unwrap();
        std::fs::write(at(folder).join(file), "").unwrap();
    }
    directory(&at("out"));
    for (folder, reason) in [
        (
            "out/head-seed1",
            "the run trained the head alone, which is in head.safetensors",
        ),
        (
            "out/full-seed1",
            "it is a whole model, in model.safetensors",
        ),
        (
            "out",
            "it is the directory of a session; the adapters of its runs are in net",
        ),
        ("empty", "no run of it has an adapter"),
    ] {
        for command in ["inspect", "diff out/net"] {
            let (status, _, error) = vblora(dir.path(), &format!("{command} {folder}"));
            assert_eq!(status, 1, "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
            assert!(
                error.contains(&format!("{folder}: no adapter: ")),
                "{error}"
            );
            assert!(error.contains(reason), "{error}");
        }
    }
    let (status, _, error) = vblora(dir.path(), "inspect out/net");
    assert_eq!(status, 0, "{error}");
}

#[test]
fn a_directory_without_recordings_says_how_one_is_made() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("run")).unwrap();
    for command in ["view", "figures --out pictures"] {
        for (place, reason) in [("run", "--record-every"), ("absent", "cannot read absent")] {
            let (status, _, error) = vblora(dir.path(), &format!("{command} {place}"));
            assert_eq!(status, 1, "{error}");
            assert!(error.contains(reason), "{error}");
        }
    }
    let (status, _, error) = vblora(dir.path(), "sweep smoke --out s --hours -1");
    assert_eq!(status, 1, "{error}");
    assert!(error.contains("hours"), "{error}");
}

#[test]
fn a_first_mistake_of_training_says_which_flag_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let row = |i: usize| format!("{i},the {i}th text,{}\n", ["bad", "good"][i % 2]);
    let rows: String = (0..20).map(row).collect();
    std::fs::write(at("a.csv"), format!("id,message,topic\n{rows}")).unwrap();
    std::fs::write(at("dev.csv"), "id,message,topic\n1,x,bad\n2,x,other\n").unwrap();
    let chat = r#"{"messages": [{"role": "user", "content": "x"}]}"#;
    std::fs::write(at("chat.jsonl"), chat).unwrap();
    std::fs::write(at("text.txt"), "x").unwrap();
    std::fs::create_dir_all(at("run/head-seed1")).unwrap();
    for name in [
        "config.toml",
        "results.json",
        "table.md",
        "head-seed1/head.safetensors",
    ] {
        std::fs::write(at("run").join(name), "").unwrap();
    }
    std::fs::create_dir(at("tables")).unwrap();
    std::fs::copy(at("a.csv"), at("tables/train.csv")).unwrap();
    let table = "train --data a.csv --text message --label topic --plan";
    let used = "--model bundled:roberta --adapter run --data a.csv";
    for (arguments, reason) in [
        (
            "train --data a.csv --out x".to_owned(),
            "a.csv: a table needs --text COLUMN and --label COLUMN; its columns are id, message, topic",
        ),
        (
            "train --data chat.jsonl --method vblora".into(),
            "conversations need --model with a causal model, for example bundled:llama",
        ),
        (
            "train --data tables".into(),
            "tables/train.csv: a table needs --text COLUMN and --label COLUMN",
        ),
        ("train --data text.txt".into(), "documents need --model"),
        (
            "train --data a.csv --task mrpc".into(),
            "needs --data DIR with mrpc/train.tsv",
        ),
        // Nothing is left for training to find.
        (format!("{table} --dev absent.csv"), "absent.csv"),
        (format!("{table} --dev dev.csv"), "dev.csv, line 3"),
        (format!("{table} --patience 90"), "evaluation.patience"),
        (format!("{table} --out a.csv/x"), "a.csv is in the way"),
        (format!("{table} --out run"), "run already holds a run"),
        (format!("predict {used}"), "its runs are in head-seed1"),
        (format!("evaluate {used}"), "its runs are in head-seed1"),
        (
            "generate --model bundled:llama --adapter run --prompt x".into(),
            "the directory of a session",
        ),
        ("report run --out page".into(), "table.md and curves.svg"),
    ] {
        let (status, out, error) = vblora(dir.path(), &arguments);
        assert_eq!(status, 1, "{arguments}: {error}");
        assert!(error.contains(reason), "{arguments}: {error}");
        assert!(!out.contains("VB-LoRA"), "{arguments}: {out}");
    }
    let (status, out, error) = vblora(
        dir.path(),
        &format!("{table} --epochs 2 --batch 4 --seeds 1,2"),
    );
    assert_eq!(status, 0, "{error}");
    let outline =
        "3 methods × 2 seeds × 2 epochs × 5 steps; 18 rows to train on, 2 to evaluate on\n";
    assert!(out.ends_with(outline), "{out}");
}

#[test]
fn an_adapter_of_conversations_asks_for_their_form() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny-llama");
    std::fs::create_dir(at("model")).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(assets.join(name), at("model").join(name)).unwrap();
    }
    let template = "{% for m in messages %}{{ '<s>' + m.role + '\n' + m.content + '</s>\n' }}{% endfor %}\
                    {% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}";
    std::fs::write(at("model/chat_template.jinja"), template).unwrap();
    let row = |i: usize| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "{i}?"}}, {{"role": "assistant", "content": "It is {i}."}}]}}"#
        ) + "\n"
    };
    std::fs::write(at("chat.jsonl"), (0..20).map(row).collect::<String>()).unwrap();
    let train =
        "train --model model --data chat.jsonl --method vblora --epochs 1 --generate 0 --out run";
    let (status, out, error) = vblora(dir.path(), train);
    assert_eq!(status, 0, "{error}");
    assert!(out.contains("chat.jsonl: one in 20 is held out"), "{out}");
    let counts = "19 conversations to train on, 1 to evaluate on\n";
    assert!(error.contains(counts), "{error}");
    // What was detected is recorded like what is given, and MT-Bench asks in that form.
    for name in ["results.json", "session.json"] {
        let text = std::fs::read_to_string(at("run").join(name)).unwrap();
        let recorded = text.replace("\",\n", " ").replace(['"', '\n'], "");
        let words: Vec<_> = recorded.split_whitespace().collect();
        let is_there = words
            .windows(2)
            .any(|pair| pair[0] == "--format" && pair[1].starts_with("chat"));
        assert!(is_there, "{text}");
    }
    let question = r#"{"question_id": 1, "category": "math", "turns": ["1?", "2?"]}"#;
    std::fs::write(at("question.jsonl"), question).unwrap();
    let answer = "evaluate mtbench answer --model model --adapter run/vblora-seed1 --model-id m --max-new-tokens 2 --out .";
    let (status, out, error) = vblora(dir.path(), answer);
    assert_eq!(status, 0, "{error}");
    assert!(out.contains("answered with template chat: "), "{out}");
    let settings = std::fs::read_to_string(at("model_answer/m.json")).unwrap();
    assert!(settings.contains("\"chat\""), "{settings}");
    let generate =
        "generate --model model --adapter run/vblora-seed1 --prompt x --max-new-tokens 1";
    let note = "note: this adapter was trained on conversations: --chat gives";
    for (flag, count) in [("", 1), ("--chat", 0)] {
        let (status, _, error) = vblora(dir.path(), &format!("{generate} {flag}"));
        assert_eq!(status, 0, "{error}");
        assert_eq!(error.matches(note).count(), count, "{error}");
    }
}

/// A maximum length beyond the model's positions is said with both numbers.
#[test]
fn a_length_that_the_model_has_no_positions_for_is_said() {
    let dir = tempfile::tempdir().unwrap();
    for (model, most, found) in [("bundled:roberta", 64, 65), ("bundled:llama", 256, 1000)] {
        let train = |length: usize| {
            let line =
                format!("train --model {model} --method vblora --plan --max-length {length}");
            let (status, _, error) = vblora(dir.path(), &line);
            assert_eq!(status, 0, "{error}");
            error
        };
        let error = train(found);
        let note = format!("max_length is {found}, but the model has positions for {most} tokens");
        assert_eq!(error.matches(&note).count(), 1, "{error}");
        let error = train(most);
        assert!(!error.contains("max_length"), "{error}");
    }
}

/// A launcher starts a command several times; each process would do the whole work.
#[test]
fn a_command_that_knows_no_ranks_is_not_done_several_times() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &str| {
        let mut command = program();
        let command = command.current_dir(dir.path());
        let command = command.args(arguments.split_whitespace());
        let output = command.env("SLURM_STEP_NUM_TASKS", "3").output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), error)
    };
    for arguments in ["plan a", "inspect a", "diff a b", "report a --out b"] {
        let (status, error) = run(arguments);
        let name = arguments.split(' ').next().unwrap();
        let expected = format!("the whole work of vblora {name}");
        assert_eq!(status, Some(2), "{error}");
        assert!(
            error.contains("SLURM_STEP_NUM_TASKS") && error.contains(&expected),
            "{error}"
        );
    }
    if cfg!(not(feature = "mpi")) {
        for arguments in ["train", "sweep smoke --out out"] {
            let (status, error) = run(arguments);
            assert_eq!(status, Some(1), "{error}");
            assert!(error.contains("without the feature mpi"), "{error}");
        }
    }
}

#[test]
fn several_devices_are_for_several_processes() {
    let dir = tempfile::tempdir().unwrap();
    let (status, _, error) = vblora(dir.path(), "train --devices flex:0,flex:1");
    assert_eq!(status, 1);
    assert!(error.contains("mpirun -n 2"), "{error}");
}

//! Ranks that are processes of MPI: killed, resumed by another number of ranks, and refused. Unit tests hold the bits of every method with
//! threads as ranks.
#![allow(missing_docs, clippy::print_stdout)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use vblora_bench::{
    demo,
    tasks::{Example, Label, SplitName},
};

/// What every rank runs: eight steps of four micro-batches, each with a checkpoint.
const TRAIN: &str = "train --task demo --data data --method vblora --seeds 1 --epochs 4 --batch 4 --accumulation 4 \
                     --max-length 16 --checkpoint-every 1 --keep 100 --quiet --out run";

/// Returns true if there is MPI to test; otherwise says why not.
fn is_there() -> bool {
    let reason = match Command::new("mpirun").arg("--version").output() {
        _ if !cfg!(feature = "mpi") => "built without the feature mpi",
        Err(_) => "there is no mpirun",
        Ok(_) => return true,
    };
    println!("skipped: {reason}");
    false
}

/// A directory with data.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    data(&dir.path().join("data"), 32);
    dir
}

fn data(dir: &Path, rows: usize) {
    fs::create_dir_all(dir.join("demo")).unwrap();
    for (name, rows) in [(SplitName::Train, rows), (SplitName::Dev, 4)] {
        let split = demo::split(name).unwrap();
        let line = |e: &Example| {
            let Label::Class(class) = e.label else {
                panic!("classes")
            };
            format!("x\t{class}\t\t{}\n", e.a)
        };
        let text: String = split.examples[..rows].iter().map(line).collect();
        fs::write(dir.join(format!("demo/{}.tsv", name.name())), text).unwrap();
    }
}

/// The program by `size` ranks, or alone.
fn program(dir: &Path, size: usize) -> Command {
    let vblora = env!("CARGO_BIN_EXE_vblora");
    let mut command = match size {
        0 => Command::new(vblora),
        _ => {
            let mut command = Command::new("mpirun");
            command.args([
                "--allow-run-as-root",
                "--oversubscribe",
                "--bind-to",
                "none",
            ]);
            command.args(["-n", &size.to_string(), vblora]);
            command
        }
    };
    command
        .current_dir(dir)
        .env("RAYON_NUM_THREADS", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[track_caller]
fn succeed(mut command: Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", said(&done));
}

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&[&*done.stdout, &*done.stderr].concat()).into_owned()
}

/// Waits for the end of a job that something has happened to.
#[track_caller]
fn end(mut job: Child, limit: Duration) -> Output {
    let started = Instant::now();
    while job.try_wait().unwrap().is_none() {
        if started.elapsed() > limit {
            job.kill().unwrap();
            panic!("the job goes on for {limit:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    job.wait_with_output().unwrap()
}

/// The process of a rank of mpirun.
fn process_of(job: &Child, rank: usize) -> u32 {
    let variable = format!("OMPI_COMM_WORLD_RANK={rank}");
    let is_it = |process: u32| {
        let read = |file: &str| fs::read(format!("/proc/{process}/{file}")).unwrap_or_default();
        let status = String::from_utf8_lossy(&read("status")).into_owned();
        let environment = read("environ");
        let mut variables = environment.split(|&byte| byte == 0);
        status.contains(&format!("PPid:\t{}\n", job.id()))
            && variables.any(|found| found == variable.as_bytes())
    };
    let names = fs::read_dir("/proc")
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut processes = names.filter_map(|name| name.to_str()?.parse().ok());
    processes.find(|&process| is_it(process)).unwrap()
}

fn signal(process: u32, name: &str) {
    let status = Command::new("kill")
        .args([name, &process.to_string()])
        .status();
    assert!(status.unwrap().success());
}

/// Waits for the checkpoint after this many steps.
fn wait_for(dir: &Path, step: usize) {
    let set = dir.join(format!("run/checkpoints/vblora-seed1/step-{step:08}"));
    let started = Instant::now();
    while !set.exists() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "no step {step}"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// Every file of a session, without the times and the lines about communication in it.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            let inner = files(&path).into_iter();
            found.extend(inner.map(|(inner, bytes)| (name.join(inner), bytes)));
            continue;
        }
        let without = |parts: &[&str]| {
            let text = fs::read_to_string(&path).unwrap();
            let stays = |line: &&str| !parts.iter().any(|part| line.contains(part));
            let lines = text.lines().filter(stays);
            lines.collect::<Vec<_>>().join("\n").into_bytes()
        };
        let bytes = match name.to_str().unwrap() {
            // They contain times, or hashes of times. A process killed while it writes a file leaves its temporary file.
            "table.md" | "manifest.json" => continue,
            name if name.starts_with(".tmp") => continue,
            // The last command is that of the resumption.
            "results.json" | "state.json" => without(&["second", "\"command\""]),
            "log.jsonl" => without(&["\"event\":\"communication\""]),
            _ => fs::read(&path).unwrap(),
        };
        found.insert(name, bytes);
    }
    found
}

#[track_caller]
fn assert_same(found: &Path, expected: &Path) {
    let [found, expected] = [found, expected].map(|dir| files(&dir.join("run")));
    assert!(found.keys().eq(expected.keys()), "{:?}", found.keys());
    for (name, bytes) in &found {
        let lines = [bytes, &expected[name]].map(|bytes| String::from_utf8_lossy(bytes));
        let mut lines = lines[0].lines().zip(lines[1].lines());
        let other = lines.find(|(found, expected)| found != expected);
        assert!(bytes == &expected[name], "{}: {other:?}", name.display());
    }
}

/// A rank dies, another number of ranks goes on, and the files are those of one process.
#[test]
fn a_killed_rank_ends_the_job_and_others_finish_it() {
    if !is_there() {
        return;
    }
    let (alone, killed) = (directory(), directory());
    let mut command = program(alone.path(), 0);
    command.args(TRAIN.split_whitespace());
    succeed(command);
    let mut command = program(killed.path(), 3);
    command.args(TRAIN.split_whitespace());
    let job = command.spawn().unwrap();
    wait_for(killed.path(), 2);
    signal(process_of(&job, 1), "-KILL");
    let done = end(job, Duration::from_secs(20));
    assert!(!done.status.success());
    let text = said(&done);
    assert!(text.contains("rank 1"), "{text}");
    let mut command = program(killed.path(), 2);
    command.args(["train", "--resume", "--out", "run", "--quiet"]);
    succeed(command);
    assert_same(killed.path(), alone.path());
}

/// A rank that hangs ends the job after the time that was set, by name.
#[test]
fn a_stopped_rank_ends_the_job_after_its_time() {
    if !is_there() {
        return;
    }
    let dir = directory();
    let mut command = program(dir.path(), 2);
    command.args(TRAIN.split_whitespace());
    command.args(["--rank-timeout", "2"]);
    let job = command.spawn().unwrap();
    wait_for(dir.path(), 1);
    signal(process_of(&job, 1), "-STOP");
    let done = end(job, Duration::from_secs(20));
    let text = said(&done);
    assert_eq!(done.status.code(), Some(1), "{text}");
    assert!(text.contains("no answer from rank 1 in step "), "{text}");
}

#[test]
fn a_rank_with_another_recipe_is_refused_by_name() {
    if !is_there() {
        return;
    }
    let dir = directory();
    let mut command = program(dir.path(), 1);
    command.args(TRAIN.split_whitespace());
    command.args([":", "-n", "1", env!("CARGO_BIN_EXE_vblora")]);
    command.args(TRAIN.split_whitespace());
    command.args(["--lr-head", "0.5"]);
    let done = command.output().unwrap();
    let text = said(&done);
    assert_eq!(done.status.code(), Some(1), "{text}");
    let expected = "error: rank 1 cannot work with rank 0: its setting lr.head is 0.5";
    assert!(text.contains(expected), "{text}");
    assert!(!dir.path().join("run/config.toml").exists());
}

/// A sweep of four runs.
const SWEEP: &str = r#"about = "a test"

[base]
recipe = "demo"
task = "demo"
data = "little"
epochs = 1
batch = 16

[tables.methods]
title = "Methods"
rows = ["method"]
columns = "task"

[[grid]]
table = "methods"
method = ["head", "vblora"]
seed = [1, 2]
"#;

/// Each rank makes its share, and rank 0 writes the table of all.
#[test]
fn ranks_take_their_shares_of_a_sweep() {
    if !is_there() {
        return;
    }
    let dir = directory();
    fs::write(dir.path().join("s.toml"), SWEEP).unwrap();
    let mut command = program(dir.path(), 2);
    command.args("sweep s.toml --out out --place little=data".split_whitespace());
    let done = command.output().unwrap();
    let text = said(&done);
    assert!(done.status.success(), "{text}");
    assert!(text.contains("4 runs done, 0 failed, 0 left"), "{text}");
    let lines = |name: &str| {
        let text = fs::read_to_string(dir.path().join("out").join(name)).unwrap();
        text.lines().count()
    };
    assert_eq!(lines("results-1-of-2.jsonl"), 2);
    assert_eq!(lines("results-2-of-2.jsonl"), 2);
    assert_eq!(lines("results.csv"), 1 + 4);
}

/// Predictions and scores are those of one process, to the byte. A rank with other rows is named, and standard input has one reader.
#[test]
fn ranks_share_predictions() {
    if !is_there() {
        return;
    }
    let dir = directory();
    let run = |size: usize, words: &str| {
        let mut command = program(dir.path(), size);
        command.args(words.split_whitespace());
        command.output().unwrap()
    };
    let done = |size: usize, words: &str| {
        let output = run(size, words);
        assert!(output.status.success(), "{}", said(&output));
        output.stdout
    };
    done(0, TRAIN);
    let of_run = "--model bundled:roberta --adapter run/vblora-seed1";
    let rows: Vec<String> = (0..70)
        .map(|row| format!("a text of {}row {row}", "long ".repeat(row % 7)))
        .collect();
    fs::write(
        dir.path().join("new.csv"),
        format!("text\n{}\n", rows.join("\n")),
    )
    .unwrap();
    let predict = format!("predict {of_run} --data new.csv --text text");
    let alone = done(0, &predict);
    assert_eq!(alone.iter().filter(|&&byte| byte == b'\n').count(), 71);
    for size in [2, 3] {
        assert!(done(size, &predict) == alone, "{size} ranks");
    }
    let evaluate = format!("evaluate {of_run} --data data/demo/train.tsv --json");
    assert_eq!(done(2, &evaluate), done(0, &evaluate));

    let refused = run(2, &format!("predict {of_run} --data - --text text"));
    assert!(!refused.status.success());
    assert!(
        said(&refused).contains("--data: expected a file that every rank can read"),
        "{}",
        said(&refused)
    );
    fs::write(dir.path().join("other.csv"), "text\nanother\n").unwrap();
    let mut command = program(dir.path(), 1);
    command.args(predict.split_whitespace());
    command.args([":", "-n", "1", env!("CARGO_BIN_EXE_vblora")]);
    command.args(predict.replace("new.csv", "other.csv").split_whitespace());
    let refused = command.output().unwrap();
    assert!(
        said(&refused).contains("rank 1 cannot work with rank 0: its data is SHA-256"),
        "{}",
        said(&refused)
    );
}

/// Answers and scores are those of one process, to the byte. Other questions of a rank are named, and a file is scored by one process.
#[test]
fn ranks_share_the_answers_to_questions() {
    if !is_there() {
        return;
    }
    let dir = directory();
    let problems: Vec<String> = (0..7)
        .map(|row| {
            format!(
                r#"{{"question": "What is {row} {}and 2?", "answer": "Sum.\n#### {}"}}"#,
                "and 0 ".repeat(row % 3),
                row + 2
            )
        })
        .collect();
    fs::write(dir.path().join("test.jsonl"), problems.join("\n")).unwrap();
    let words = |out: &str| {
        format!(
            "evaluate gsm8k --model bundled:llama --data test.jsonl --out {out} --batch 2 --max-new-tokens 6"
        )
    };
    let run = |size: usize, words: &str| {
        let mut command = program(dir.path(), size);
        command.args(words.split_whitespace());
        command.output().unwrap()
    };
    let answers = |out: &str| fs::read(dir.path().join(out)).unwrap();
    let alone = run(0, &words("alone.jsonl"));
    assert!(alone.status.success(), "{}", said(&alone));
    for size in [2, 3] {
        let out = format!("by-{size}.jsonl");
        let shared = run(size, &words(&out));
        assert!(shared.status.success(), "{}", said(&shared));
        assert!(answers(&out) == answers("alone.jsonl"), "{size} ranks");
        assert!(shared.stdout == alone.stdout, "{}", said(&shared));
    }
    // A file with some of the answers is finished, by the questions that are left.
    let whole = String::from_utf8(answers("by-2.jsonl")).unwrap();
    let some: Vec<&str> = whole.lines().skip(3).collect();
    fs::write(dir.path().join("by-2.jsonl"), some.join("\n") + "\n").unwrap();
    let finished = run(2, &words("by-2.jsonl"));
    assert!(
        said(&finished).contains("4 of 7 answered"),
        "{}",
        said(&finished)
    );
    assert_eq!(whole.into_bytes(), answers("by-2.jsonl"));

    fs::write(dir.path().join("other.jsonl"), problems[1..].join("\n")).unwrap();
    let mut command = program(dir.path(), 1);
    command.args(words("refused.jsonl").split_whitespace());
    command.args([":", "-n", "1", env!("CARGO_BIN_EXE_vblora")]);
    let other = words("refused.jsonl").replace("test.jsonl", "other.jsonl");
    command.args(other.split_whitespace());
    let refused = said(&command.output().unwrap());
    assert!(
        refused.contains("rank 1 cannot work with rank 0: its all_questions is 6"),
        "{refused}"
    );
    assert!(!dir.path().join("refused.jsonl").exists());
    let refused = said(&run(2, "evaluate gsm8k --score by-2.jsonl"));
    assert!(refused.contains("share theirs"), "{refused}");
}

//! Tests of sweeps as processes, with interrupted and killed workers, and of the report on their results.
#![allow(missing_docs)]
#![cfg(feature = "flex")]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// A sweep on a small part of the bundled data.
const SWEEP: &str = r#"about = "a test"

[base]
recipe = "demo"
task = "demo"
data = "little"
epochs = 2
batch = 16
h = 12

[tables.methods]
title = "Methods & <more>"
rows = ["method"]
columns = "task"

[[grid]]
table = "methods"
method = ["head", "vblora"]
seed = [1, 2]
"#;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vblora-bench/assets/demo");
        std::fs::create_dir_all(dir.path().join("little/demo")).unwrap();
        for (name, rows) in [("train.tsv", 64), ("dev.tsv", 32)] {
            let text = std::fs::read_to_string(assets.join(name)).unwrap();
            let few: String = text.split_inclusive('\n').take(rows).collect();
            std::fs::write(dir.path().join("little/demo").join(name), few).unwrap();
        }
        std::fs::write(dir.path().join("s.toml"), SWEEP).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, command: &str, rest: &[&str]) -> Command {
        let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"));
        xtask.current_dir(self.0.path()).arg(command).args(rest);
        xtask.stdout(Stdio::piped()).stderr(Stdio::piped());
        xtask
    }

    fn sweep(&self, out: &str, rest: &[&str]) -> Output {
        let all = [&["s.toml", "--out", out], rest].concat();
        self.command("sweep", &all).output().unwrap()
    }

    fn start(&self, out: &str, rest: &[&str]) -> Child {
        let all = [&["s.toml", "--out", out], rest].concat();
        self.command("sweep", &all).spawn().unwrap()
    }

    fn results(&self, out: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(out).join("results.jsonl")).unwrap();
        let line = |line: &str| serde_json::from_str(line).unwrap();
        text.lines().map(line).collect()
    }

    /// Waits until a run of a sweep has written a checkpoint.
    fn wait_for_checkpoint(&self, out: &str) {
        let start = Instant::now();
        let has = |run: PathBuf| {
            let found = std::fs::read_dir(run.join("checkpoints"));
            found.is_ok_and(|mut runs| runs.next().is_some())
        };
        loop {
            let runs = std::fs::read_dir(self.path(out).join("runs"));
            let mut runs = runs.into_iter().flatten().flatten();
            if runs.any(|run| has(run.path())) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(120), "no checkpoint");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn signal(signal: &str, pid: &str) {
    let sent = Command::new("kill").args([signal, pid]).status().unwrap();
    assert!(sent.success());
}

/// The process of a sweep's only worker.
#[cfg(target_os = "linux")]
fn workers(sweep: &Child) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", sweep.id())).unwrap();
    let children = |task: std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("children")).unwrap_or_default()
    };
    let workers: String = tasks.flatten().map(children).collect();
    workers.trim().to_owned()
}

/// A run's result, without values that depend on the clock.
fn epochs(record: &Value) -> &Value {
    let epochs = &record["result"]["epochs"];
    assert!(epochs.is_array(), "{record}");
    epochs
}

#[test]
fn a_sweep_is_planned_done_reused_and_extended() {
    let place = Place::new();
    let plan = place.sweep("out", &["--dry-run"]);
    assert!(plan.status.success(), "{}", text(&plan.stderr));
    let plan = text(&plan.stdout);
    assert!(plan.contains("4 of 4 runs left: about "), "{plan}");
    assert!(!place.path("out").exists());

    let first = place.sweep("out", &["--jobs", "2", "--set", "seed=[1]"]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let results = place.results("out");
    assert_eq!(results.len(), 2);
    for record in &results {
        assert_eq!(epochs(record).as_array().unwrap().len(), 2);
        let dir = place
            .path("out")
            .join("runs")
            .join(record["id"].as_str().unwrap());
        assert!(dir.join("results.json").exists() && !dir.join("checkpoints").exists());
    }
    // Two of the four runs exist already, and a third call has nothing to do.
    assert!(place.sweep("out", &["--runs", "1"]).status.success());
    assert_eq!(place.results("out").len(), 3);
    let rest = place.sweep("out", &[]);
    assert!(text(&rest.stdout).contains("4 runs done, 0 failed, 0 left"));
    assert_eq!(place.results("out").len(), 4);
    assert!(place.sweep("out", &[]).status.success());
    assert_eq!(place.results("out").len(), 4);
    let csv = std::fs::read_to_string(place.path("out/results.csv")).unwrap();
    assert_eq!(csv.lines().count(), 5);

    let report = place
        .command("report", &["out", "--out", "page"])
        .output()
        .unwrap();
    assert!(report.status.success(), "{}", text(&report.stderr));
    let page = std::fs::read_to_string(place.path("page/index.html")).unwrap();
    assert!(page.contains("<h2>Methods &amp; &lt;more&gt;</h2>") && page.contains("<svg"));
    let figure = std::fs::read_to_string(place.path("page/scores-1.svg")).unwrap();
    assert!(figure.contains("stored parameters"));
    let markdown = std::fs::read_to_string(place.path("page/report.md")).unwrap();
    assert!(markdown.contains("](scores-1.svg)"));
}

#[test]
fn a_run_that_fails_is_recorded_and_the_rest_goes_on() {
    let place = Place::new();
    let text_of = SWEEP.replace("seed = [1, 2]", "seed = 1\nlr.head = [1e38, 1e-3]");
    std::fs::write(place.path("s.toml"), text_of).unwrap();
    let output = place.sweep("out", &[]);
    assert_eq!(output.status.code(), Some(1));
    let results = place.results("out");
    let failed = |record: &&Value| record["error"].is_string();
    assert_eq!(
        (results.len(), results.iter().filter(failed).count()),
        (4, 2)
    );
    assert!(text(&output.stderr).contains("non-finite loss at step"));
}

/// The last step before the only evaluation leaves parameters that are not finite. The run has no score of 0; it fails and names the
/// parameter.
#[test]
fn a_run_whose_parameters_are_no_numbers_is_recorded_as_failed() {
    let place = Place::new();
    let text_of = SWEEP.replace("seed = [1, 2]", "seed = 1\nlr.head = [1e300, 1e-3]");
    std::fs::write(place.path("s.toml"), text_of).unwrap();
    let one_step = ["--set", "epochs=1", "--set", "batch=64"];
    let output = place.sweep(
        "out",
        &[&one_step[..], &["--set", "schedule.warmup_ratio=0.0"]].concat(),
    );
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let errors: Vec<String> = place
        .results("out")
        .iter()
        .filter_map(|record| Some(record["error"].as_str()?.to_owned()))
        .collect();
    let expected = "non-finite head.dense.weight after step 1";
    assert_eq!(errors, [expected; 2], "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains(expected));
    let csv = std::fs::read_to_string(place.path("out/results.csv")).unwrap();
    let failed = csv.lines().filter(|line| line.contains(expected));
    assert!(
        failed.clone().all(|line| line.contains(",matthews,,,0,1,")),
        "{csv}"
    );
    assert_eq!(failed.count(), 2);
}

#[test]
fn an_interrupted_sweep_goes_on_where_it_was() {
    let place = Place::new();
    let settings = [
        "--set",
        "epochs=30",
        "--set",
        "method=vblora",
        "--set",
        "seed=1",
    ];
    let child = place.start("cut", &settings);
    place.wait_for_checkpoint("cut");
    signal("-INT", &child.id().to_string());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stdout));
    assert!(!place.path("cut/results.jsonl").exists());

    assert!(place.sweep("cut", &settings).status.success());
    assert!(place.sweep("whole", &settings).status.success());
    let [cut, whole] = ["cut", "whole"].map(|out| place.results(out));
    assert_eq!(epochs(&cut[0]), epochs(&whole[0]));
    assert_eq!(cut[0]["id"], whole[0]["id"]);
}

#[cfg(unix)]
#[test]
fn whatever_asks_a_sweep_to_end_it_ends_with_a_checkpoint() {
    let place = Place::new();
    let settings = [
        "--set",
        "epochs=60",
        "--set",
        "method=vblora",
        "--set",
        "seed=1",
    ];
    for (name, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let child = place.start(name, &settings);
        place.wait_for_checkpoint(name);
        signal(&format!("-{name}"), &child.id().to_string());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert!(!place.path(name).join("results.jsonl").exists());
        let said = text(&output.stdout);
        assert!(said.contains("0 runs done, 0 failed, 1 left"), "{said}");
    }
}

/// A worker that is stopped alone interrupts only its run. The run continues when the sweep is started again.
#[cfg(target_os = "linux")]
#[test]
fn a_worker_that_is_told_to_stop_fails_its_run_by_name() {
    let place = Place::new();
    let settings = ["--set", "epochs=30", "--set", "method=vblora"];
    let child = place.start("out", &settings);
    place.wait_for_checkpoint("out");
    signal("-TERM", &workers(&child));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let results = place.results("out");
    let error = results[0]["error"].as_str().unwrap();
    assert!(error.contains("a signal stopped the worker"), "{error}");
    assert!(results[1]["error"].is_null(), "{}", results[1]);
    assert!(place.sweep("out", &settings).status.success());
}

#[cfg(target_os = "linux")]
#[test]
fn a_second_signal_ends_a_sweep_at_once() {
    use std::os::unix::process::ExitStatusExt;
    let place = Place::new();
    let mut child = place.start("out", &["--set", "epochs=60", "--set", "method=vblora"]);
    place.wait_for_checkpoint("out");
    // The sweep would wait for its worker.
    let (parent, worker) = (child.id().to_string(), workers(&child));
    signal("-STOP", &worker);
    signal("-TERM", &parent);
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none());
    signal("-TERM", &parent);
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    signal("-KILL", &worker);
}

#[cfg(target_os = "linux")]
#[test]
fn a_hangup_that_is_ignored_stays_ignored() {
    let place = Place::new();
    let mut shell = Command::new("sh");
    let script = format!(
        "trap '' HUP; exec {} sweep s.toml --out out --set epochs=20 --set method=vblora --set seed=1",
        env!("CARGO_BIN_EXE_xtask")
    );
    shell.current_dir(place.0.path()).args(["-c", &script]);
    let child = shell.stdout(Stdio::piped()).spawn().unwrap();
    place.wait_for_checkpoint("out");
    signal("-HUP", &child.id().to_string());
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(place.results("out").len(), 1);
}

/// The reader has left or the disk is full. The work is still done and written.
#[cfg(target_os = "linux")]
#[test]
fn a_closed_or_full_output_costs_no_work() {
    let place = Place::new();
    let few = ["--set", "method=head", "--set", "epochs=1"];
    let sweep = |out: &str| {
        let all = [&["s.toml", "--out", out], &few[..]].concat();
        place.command("sweep", &all)
    };
    let mut child = sweep("closed").spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(place.results("closed").len(), 2);

    let full = || {
        std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    let output = sweep("full").stdout(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        "error: cannot write standard output: No space left on device (os error 28)\n"
    );
    assert_eq!(place.results("full").len(), 2);

    let output = sweep("both").stdout(full()).stderr(full()).status();
    assert_eq!(output.unwrap().code(), Some(1));
    assert_eq!(place.results("both").len(), 2);
}

#[test]
fn a_report_of_nothing_and_a_sweep_of_nothing_say_so() {
    let place = Place::new();
    let report = place
        .command("report", &["little", "--out", "page"])
        .output()
        .unwrap();
    assert_eq!(report.status.code(), Some(1));
    assert!(text(&report.stderr).contains("it holds no sweep"));
    assert!(!place.path("page").exists());
    let sweep = place.sweep("out", &["--set", "k=99", "--set", "method=vblora"]);
    assert!(
        text(&sweep.stderr).contains("vblora.topk"),
        "{}",
        text(&sweep.stderr)
    );
    assert!(!place.path("out").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_worker_that_is_killed_costs_one_run_and_the_next_attempt_goes_on() {
    let place = Place::new();
    let settings = ["--set", "epochs=30", "--set", "method=vblora"];
    let child = place.start("out", &settings);
    place.wait_for_checkpoint("out");
    signal("-KILL", &workers(&child));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let results = place.results("out");
    assert_eq!(results.len(), 2);
    let error = results[0]["error"].as_str().unwrap();
    assert!(error.contains("the worker died: signal: 9"), "{error}");
    assert!(results[1]["error"].is_null());

    let again = place.sweep("out", &settings);
    assert!(again.status.success(), "{}", text(&again.stderr));
    let results = place.results("out");
    assert_eq!(results.len(), 3);
    assert_eq!(results[2]["id"], results[0]["id"]);
    assert_eq!(epochs(&results[2]).as_array().unwrap().len(), 30);
}

/// A sweep is killed repeatedly, with no time to stop its workers. It makes every run once and gets the results of an undisturbed sweep.
#[cfg(target_os = "linux")]
#[test]
fn a_sweep_whose_parent_is_killed_loses_no_run_and_makes_none_twice() {
    let place = Place::new();
    let settings = ["--jobs", "2", "--set", "epochs=6", "--set", "method=vblora"];
    let mut kills = 0;
    for wait in [0, 150, 600] {
        let mut child = place.start("killed", &settings);
        if wait == 0 {
            place.wait_for_checkpoint("killed");
        }
        std::thread::sleep(Duration::from_millis(wait));
        if child.try_wait().unwrap().is_none() {
            signal("-KILL", &child.id().to_string());
            kills += 1;
        }
        // Workers may still be writing, and nothing waits for them here.
        child.wait().unwrap();
    }
    assert!(kills > 0, "nothing was killed");
    let last = place.sweep("killed", &settings);
    assert!(last.status.success(), "{}", text(&last.stderr));
    assert!(place.sweep("whole", &settings).status.success());
    let by_id = |out: &str| -> std::collections::BTreeMap<String, Value> {
        let results = place.results(out);
        let records = results.iter().map(|record| {
            let id = record["id"].as_str().unwrap().to_owned();
            (id, epochs(record).clone())
        });
        let all: std::collections::BTreeMap<_, _> = records.collect();
        assert_eq!(all.len(), results.len(), "a run is recorded twice in {out}");
        all
    };
    let killed = by_id("killed");
    assert_eq!(killed.len(), 2);
    assert_eq!(killed, by_id("whole"));
    for id in killed.keys() {
        let log = place.path("killed/runs").join(id).join("log.jsonl");
        let log = std::fs::read_to_string(log).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
        let steps: Vec<u64> = lines
            .filter(|line: &Value| line["event"] == "step")
            .filter_map(|line| line["step"].as_u64())
            .collect();
        let once: Vec<u64> = (0..steps.len() as u64).collect();
        assert_eq!(steps, once, "each step once, in order");
        assert_eq!(steps.len(), 6 * 64 / 16);
    }
}

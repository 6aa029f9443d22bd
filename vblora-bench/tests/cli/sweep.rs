//! `vblora sweep` and the commands for its results. `cargo xtask sweep`, which is the same code, has the tests of interrupted and killed
//! sweeps.
#![cfg(feature = "flex")]

use std::path::Path;

use super::vblora;

/// One epoch of only the head on a small part of the bundled data.
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
method = ["head"]
seed = [1]
"#;

fn files(dir: &Path) {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    std::fs::create_dir_all(dir.join("data/demo")).unwrap();
    for (name, rows) in [("train.tsv", 40), ("dev.tsv", 20)] {
        let text = std::fs::read_to_string(assets.join(name)).unwrap();
        let few: String = text.split_inclusive('\n').take(rows).collect();
        std::fs::write(dir.join("data/demo").join(name), few).unwrap();
    }
    std::fs::write(dir.join("s.toml"), SWEEP).unwrap();
}

#[test]
fn a_sweep_starts_its_own_workers_and_its_report_is_made() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path());
    let (status, out, error) = vblora(dir.path(), "sweep s.toml --out out --place little=data");
    assert_eq!(status, 0, "{error}");
    assert!(out.contains("1 runs done, 0 failed, 0 left"), "{out}");
    let (status, _, error) = vblora(dir.path(), "report out --out page");
    assert_eq!(status, 0, "{error}");
    let page = std::fs::read_to_string(dir.path().join("page/index.html")).unwrap();
    assert!(page.contains("<h2>Methods</h2>"));
    let (status, _, error) = vblora(dir.path(), "report data --out other");
    assert_eq!(status, 1);
    assert!(
        error.contains("it holds no sweep; vblora sweep makes one"),
        "{error}"
    );
    // Recorded runs are drawn. A run of only the head has no recording.
    let (status, _, error) = vblora(dir.path(), "figures out --out figures");
    assert_eq!(status, 1);
    assert!(error.contains("out"), "{error}");
}

#[test]
fn a_setting_without_a_value_or_set_twice_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path());
    for (set, expected) in [
        ("--set epochs=[]", "expected at least one value"),
        ("--set epochs=1 --set epochs=2", "expected each key once"),
    ] {
        let (status, _, error) = vblora(dir.path(), &format!("sweep s.toml --out out {set}"));
        assert_eq!(status, 1, "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

/// Its report would be refused after all runs.
#[test]
fn a_table_of_unknown_keys_is_refused_before_any_run() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path());
    for (from, to, parts) in [
        (
            "rows = [\"method\"]",
            "rows = [\"metod\"]",
            [
                "s.toml, line 12: [tables.methods]: rows: \"metod\"",
                "model, data, task, method",
            ],
        ),
        (
            "columns = \"task\"",
            "columns = \"lr.bamk\"",
            [
                "s.toml, line 13: [tables.methods]: columns: \"lr.bamk\"",
                "`bank`",
            ],
        ),
        (
            "columns = \"task\"",
            "columns = \"task\"\npaper = \"tabel5\"",
            ["s.toml: ", "\"tabel5\""],
        ),
        (
            "columns = \"task\"",
            "columns = \"task\"\npaper = \"table5\"",
            ["s.toml: ", "paper = \"table5\""],
        ),
    ] {
        std::fs::write(dir.path().join("s.toml"), SWEEP.replace(from, to)).unwrap();
        let (status, _, error) = vblora(dir.path(), "sweep s.toml --out out --place little=data");
        assert_eq!(status, 1, "{error}");
        for part in parts {
            assert!(error.contains(part), "{part:?} in {error}");
        }
        assert!(!dir.path().join("out").exists(), "{error}");
    }
}

/// Two processes make a run each in one directory, and their results are read together.
#[test]
fn shares_of_a_sweep_are_reported_together() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path());
    std::fs::write(
        dir.path().join("s.toml"),
        SWEEP.replace("seed = [1]", "seed = [1, 2]"),
    )
    .unwrap();
    let share = |number: usize| {
        let line = format!("sweep s.toml --out out --place little=data --shard {number}/2");
        vblora(dir.path(), &line)
    };
    let done = std::thread::scope(|scope| {
        let threads = [1, 2].map(|number| scope.spawn(move || share(number)));
        threads.map(|thread| thread.join().unwrap())
    });
    for (status, out, error) in done {
        assert_eq!(status, 0, "{error}");
        assert!(out.contains("1 runs done, 0 failed, 0 left"), "{out}");
    }
    let (status, _, error) = vblora(dir.path(), "report out --out page");
    assert_eq!(status, 0, "{error}");
    // A sweep of all runs finds nothing to do, and makes the table of both.
    let all = "sweep s.toml --out out --place little=data";
    let (_, out, _) = vblora(dir.path(), all);
    assert!(
        out.contains("0 runs to do") && out.contains("2 runs done"),
        "{out}"
    );
    let csv = std::fs::read_to_string(dir.path().join("out/results.csv")).unwrap();
    assert_eq!(csv.lines().count(), 3);
    let (status, _, error) = vblora(dir.path(), &format!("{all} --shard 3/2"));
    assert_eq!(status, 2);
    assert!(error.contains("expected I/N"), "{error}");
}

#[test]
fn a_place_that_no_run_uses_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path());
    for (place, status, reason) in [
        (
            "x=data",
            1,
            "--place x=data: the sweep has no model or data of this name; its names are little",
        ),
        ("little=", 2, "expected NAME=DIR"),
        ("little", 2, "expected NAME=DIR"),
        (
            "little=data --place little=else",
            1,
            "expected one directory, found data and else",
        ),
    ] {
        let command = format!("sweep s.toml --out out --place {place}");
        let (found, _, error) = vblora(dir.path(), &command);
        assert_eq!(found, status, "{error}");
        assert!(error.contains(reason), "{error}");
    }
    let (status, _, error) = vblora(dir.path(), "sweep smoke --out out --place x=data");
    assert_eq!(status, 1);
    assert!(error.contains("it uses only bundled ones"), "{error}");
    assert!(!dir.path().join("out").exists());
}

#[test]
fn a_directory_in_place_of_a_plan_is_named() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path());
    std::fs::create_dir_all(dir.path().join("out/sweeps/s.json")).unwrap();
    for (command, reason) in [
        (
            "sweep s.toml --out out --place little=data",
            "it is not a plain file",
        ),
        ("report out --out page", "found a directory"),
    ] {
        let (status, _, error) = vblora(dir.path(), command);
        assert_eq!(status, 1, "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains("out/sweeps/s.json"), "{error}");
        assert!(error.contains(reason), "{error}");
    }
    assert!(!dir.path().join("page").exists());
}

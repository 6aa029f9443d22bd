//! Jobs that are killed, or whose disk fails, at a call that changes a file. They are then started again, and nothing may be lost.
//!
//! A preloaded library (`shim.c`) fails the n-th such call. The rules:
//! - A killed job that is started again ends with exactly the files of an undisturbed job.
//! - A replaced file or folder is at any time either the older or the newer one, and complete.
//! - A job on a full or broken disk ends with one line of error, or succeeds. It never panics.
//!
//! One call of each kind on each kind of file is tried. `VBLORA_KILL_ALL` tries all calls.
#![allow(missing_docs, clippy::print_stdout)]
#![cfg(all(target_os = "linux", feature = "flex"))]

mod jobs;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::LazyLock,
};

use jobs::Job;
use serde_json::Value;

/// The kind of failure of a call.
const MODES: [&str; 3] = ["kill", "enospc", "eio"];

/// Every file below a job's folder, without values that depend on the clock.
type Outcome = BTreeMap<PathBuf, Vec<u8>>;

/// The library, compiled once. `None`, with a printed reason, without a compiler.
static SHIM: LazyLock<Option<(tempfile::TempDir, PathBuf)>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let (source, shim) = (
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kill/shim.c"),
        dir.path().join("shim.so"),
    );
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-shared", "-fPIC", "-o"])
        .args([&shim, &source])
        .arg("-ldl");
    match cc.output() {
        Ok(output) if output.status.success() => Some((dir, shim)),
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            println!("skipped: no C compiler ({error})");
            None
        }
    }
});

/// A call that changed a file.
#[derive(Debug, Clone)]
struct Call {
    number: usize,
    what: String,
}

/// Processes of a job whose calls are counted.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Who {
    All,
    Only(&'static str),
    AllBut(&'static str),
}

/// A job in a folder of its own: `in` is read, `work` is written.
struct Place(tempfile::TempDir);

impl Place {
    fn new(job: Job) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(place.work()).unwrap();
        std::fs::create_dir(place.0.path().join("in")).unwrap();
        job.prepare(place.0.path());
        place
    }

    fn copy(&self) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        copy(self.0.path(), place.0.path());
        place
    }

    fn work(&self) -> PathBuf {
        self.0.path().join("work")
    }

    fn run(&self, job: Job) -> Output {
        job.command(self.0.path()).output().unwrap()
    }

    fn run_struck(&self, job: Job, who: Who, mode: &str, at: Option<usize>, log: &Path) -> Output {
        let (_, shim) = SHIM.as_ref().expect("asked for before");
        let mut command = job.command(self.0.path());
        command
            .env("LD_PRELOAD", shim)
            .env("KILL_BELOW", format!("{}/", self.work().display()))
            .env("KILL_MODE", mode)
            .env("KILL_LOG", log);
        match who {
            Who::All => {}
            Who::Only(word) => drop(command.env("KILL_ONLY", word)),
            Who::AllBut(word) => drop(command.env("KILL_NOT", word)),
        }
        if let Some(at) = at {
            command.env("KILL_AT", at.to_string());
        }
        command.output().unwrap()
    }

    fn outcome(&self) -> Outcome {
        let mut found = Outcome::new();
        collect(&self.work(), Path::new(""), &mut found);
        found
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn collect(dir: &Path, below: &Path, found: &mut Outcome) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), below.join(entry.file_name()));
        if path.is_dir() {
            collect(&path, &name, found);
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let bytes = match name.file_name().unwrap().to_str().unwrap() {
            // They contain times or hashes of times, or the output of workers.
            "table.md" | "manifest.json" | "0.log" => Vec::new(),
            "results.csv" => timeless_csv(&String::from_utf8(bytes).unwrap()),
            "results.json" | "state.json" => timeless(&bytes),
            // The last line of a run counts.
            "results.jsonl" => {
                let lines = bytes.split(|byte| *byte == b'\n');
                let lines = lines.filter(|line| !line.is_empty()).map(|line| {
                    let value: Value = serde_json::from_slice(line).unwrap();
                    (value["id"].to_string(), timeless(line))
                });
                let last: BTreeMap<_, _> = lines.collect();
                last.into_values().flatten().collect()
            }
            _ => bytes,
        };
        found.insert(name, bytes);
    }
}

/// Keys with times, in JSON and CSV.
const OF_THE_CLOCK: [&str; 4] = ["seconds", "seconds_per_step", "tokens_per_second", "date"];

/// No cell of these columns contains a comma.
fn timeless_csv(text: &str) -> Vec<u8> {
    let names: Vec<&str> = text.lines().next().unwrap_or("").split(',').collect();
    let row = |line: &str| {
        let cells = names.iter().zip(line.split(','));
        let cells = cells.filter(|(name, _)| !OF_THE_CLOCK.contains(name));
        cells.map(|(_, cell)| cell).collect::<Vec<_>>().join(",")
    };
    let rows: Vec<String> = text.lines().map(row).collect();
    rows.join("\n").into_bytes()
}

fn timeless(json: &[u8]) -> Vec<u8> {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|key, _| !OF_THE_CLOCK.contains(&key.as_str()));
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut value = serde_json::from_slice(json).unwrap();
    strip(&mut value);
    value.to_string().into_bytes()
}

fn is_leftover(path: &Path) -> bool {
    let is_one = |part: &std::ffi::OsStr| {
        let part = part.to_string_lossy();
        part.starts_with(".tmp") || part.starts_with(".vblora-")
    };
    path.iter().any(is_one)
}

/// The differences between two outcomes, without leftover files.
fn difference(found: &Outcome, expected: &Outcome) -> Option<String> {
    let names: BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let differs = |name: &&PathBuf| !is_leftover(name) && found.get(*name) != expected.get(*name);
    let differing: Vec<String> = names
        .into_iter()
        .filter(differs)
        .map(|name| match (found.get(name), expected.get(name)) {
            (None, _) => format!("no {}", name.display()),
            (_, None) => format!("{} beside the others", name.display()),
            _ => format!("another {}", name.display()),
        })
        .collect();
    (!differing.is_empty()).then(|| differing.join(", "))
}

/// A name without the parts that differ from file to file.
fn kind(path: &str) -> String {
    let part = |part: &str| match part {
        _ if part.starts_with(".tmp") || part.starts_with(".vblora-") => ".tmp".to_owned(),
        // The same code writes all runs.
        _ if part.contains("-seed") && !part.contains('.') => "RUN".to_owned(),
        // A hash names each run of a sweep.
        _ if part.len() == 16 && part.bytes().all(|b| b.is_ascii_hexdigit()) => "ID".to_owned(),
        _ => part.chars().filter(|c| !c.is_ascii_digit()).collect(),
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

/// The calls that are tried.
fn chosen(calls: &[Call], mode: &str) -> Vec<Call> {
    if std::env::var_os("VBLORA_KILL_ALL").is_some() {
        return calls.to_vec();
    }
    let mut seen = BTreeSet::new();
    let is_new = |call: &&Call| {
        let folder = || call.what.rsplit_once('/').map_or("", |(folder, _)| folder);
        // Each kind of call in each folder is one piece of code that meets a failing disk.
        let kind = if mode == "kill" { &call.what } else { folder() };
        seen.insert(kind.to_owned())
    };
    let new = calls.iter().filter(is_new).cloned();
    match mode {
        "kill" => new.collect(),
        // Every second call meets a full disk, the others a broken one.
        "enospc" => new.step_by(2).collect(),
        _ => new.skip(1).step_by(2).collect(),
    }
}

/// The results of a job's points.
#[derive(Default)]
struct Tally {
    tried: BTreeMap<&'static str, usize>,
    lost: Vec<String>,
    leftovers: Vec<String>,
}

/// Tries a job's points, and asserts that nothing was lost.
fn try_points(job: Job, who: Who) {
    if SHIM.is_none() {
        return;
    }
    let log = tempfile::NamedTempFile::new().unwrap();
    let start = Place::new(job);
    let before = start.outcome();
    let whole = start.copy();
    let output = whole.run_struck(job, who, "kill", None, log.path());
    assert!(output.status.success(), "{}", said(&output));
    let expected = whole.outcome();
    let again = start.copy();
    assert!(again.run(job).status.success());
    assert_eq!(
        difference(&again.outcome(), &expected),
        None,
        "two undisturbed jobs"
    );
    let calls: Vec<Call> = std::fs::read_to_string(log.path())
        .unwrap()
        .lines()
        .map(|line| {
            let (number, what) = line.split_once(' ').unwrap();
            let (number, what) = (number.parse().unwrap(), kind(what));
            Call { number, what }
        })
        .collect();
    assert!(calls.len() > 5, "{calls:?}");
    let mut tally = Tally::default();
    for mode in MODES {
        for call in chosen(&calls, mode) {
            *tally.tried.entry(mode).or_default() += 1;
            let name = format!("{mode} at call {} ({})", call.number, call.what);
            let place = start.copy();
            let output = place.run_struck(job, who, mode, Some(call.number), log.path());
            let problem = job
                .ended_well(&output, mode, who != Who::All)
                .err()
                .or_else(|| {
                    let (old, new) = (&before, &expected);
                    job.replaces()
                        .then(|| neither(&place.outcome(), old, new))?
                })
                .or_else(|| {
                    let again = place.run(job);
                    let failed = !again.status.success();
                    failed.then(|| format!("the repeat failed: {}", said(&again)))
                })
                .or_else(|| difference(&place.outcome(), &expected));
            tally
                .lost
                .extend(problem.map(|problem| format!("{name}: {problem}")));
            let left: Vec<_> = place.outcome().into_keys().collect();
            let left = left.iter().filter(|path| is_leftover(path));
            tally
                .leftovers
                .extend(left.map(|path| format!("{name}: {}", path.display())));
        }
    }
    println!(
        "{job:?} {who:?}: {} calls; tried {:?}, lost {}, leftovers {}",
        calls.len(),
        tally.tried,
        tally.lost.len(),
        tally.leftovers.len()
    );
    assert!(tally.lost.is_empty(), "lost:\n{}", tally.lost.join("\n"));
    assert!(
        tally.leftovers.is_empty(),
        "left behind:\n{}",
        tally.leftovers.join("\n")
    );
}

/// The reason why a folder is neither in its old nor in its new state.
fn neither(found: &Outcome, old: &Outcome, new: &Outcome) -> Option<String> {
    let (from_old, from_new) = (difference(found, old)?, difference(found, new)?);
    Some(format!(
        "not the older ({from_old}), not the newer ({from_new})"
    ))
}

fn said(output: &Output) -> String {
    let [out, error] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{}\n{out}\n{error}", output.status)
}

impl Job {
    /// Returns true if a failed job ended in an allowed way.
    fn ended_well(self, output: &Output, mode: &str, has_parent: bool) -> Result<(), String> {
        let errors = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = errors.lines().collect();
        match (mode, output.status.signal(), output.status.code()) {
            ("kill", Some(9), _) => Ok(()),
            // The parent of a worker was killed, or the call was not made the second time.
            ("kill", None, Some(0 | 1)) if has_parent => Ok(()),
            // A failure without consequences, such as one while tidying up.
            ("enospc" | "eio", None, Some(0)) => Ok(()),
            ("enospc" | "eio", None, Some(1)) if errors.contains("panicked") => Err(said(output)),
            ("enospc" | "eio", None, Some(1)) => match lines.len() {
                1 => Ok(()),
                // There is one line for each run that failed.
                _ if has_parent && !lines.is_empty() => Ok(()),
                _ => Err(format!("expected one line, found {}", said(output))),
            },
            _ => Err(format!("ended otherwise: {}", said(output))),
        }
    }
}

#[test]
fn a_training_session_loses_nothing() {
    try_points(Job::Train, Who::All);
}

#[test]
fn a_session_that_is_resumed_loses_nothing() {
    try_points(Job::Resume, Who::All);
}

#[test]
fn an_adapter_that_is_converted_loses_nothing() {
    try_points(Job::Convert, Who::All);
}

#[test]
fn a_merge_loses_nothing() {
    try_points(Job::Merge, Who::All);
}

#[test]
fn a_sweep_whose_worker_dies_loses_nothing() {
    try_points(Job::Sweep, Who::Only("sweep-worker"));
}

#[test]
fn a_sweep_that_dies_loses_nothing() {
    try_points(Job::Sweep, Who::AllBut("sweep-worker"));
}

//! The results of a sweep's directory: JSON lines that are only appended, and the same data as CSV.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use vblora::storage::{read_file, strict_json, write_atomically};

use super::{plan::Plan, record::Record, shard::Shard};
use crate::{
    Error, Result,
    directory::{DirLock, clear_leftovers, is_file, is_folder, names, require_no_link},
    limits::MAX_RESULTS_BYTES,
    results::RunResult,
};

const RESULTS: &str = "results.jsonl";
const CSV: &str = "results.csv";
const PLANS: &str = "sweeps";
const RUNS: &str = "runs";
const WORKERS: &str = "workers";
const ANSWERS: &str = "answers";

/// The lock of the process that uses the directory.
const LOCK: &str = "sweep.lock";

/// How long a process with a share waits for others that look at the directory's lock, as it does itself.
const MOMENT: Duration = Duration::from_secs(5);

/// The directory of one or several sweeps.
///
/// | file | what |
/// | --- | --- |
/// | `sweeps/NAME.json` | the planned runs of a sweep, with their names, tables and ids |
/// | `runs/ID/` | the directory of a run |
/// | `answers/ID/` | a run's answers to each benchmark |
/// | `results.jsonl` | a line for each run that ended or failed; the last line of an id counts |
/// | `results.csv` | the same, for spreadsheets |
/// | `workers/N.log` | the output of worker N |
/// | `sweep.lock` | the process that makes runs here; removed when it ends |
/// | `results-I-of-N.jsonl`, `sweep-I-of-N.lock` | those of share I of N; results of all shares are read together |
///
/// The directory itself may be a symbolic link. A link under one of these names is an error for a process that writes there.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    lock: Option<DirLock>,
    shard: Option<Shard>,
    records: BTreeMap<String, Record>,
    damaged: Vec<String>,
}

impl Store {
    /// Reads the directory. A missing directory has no results.
    ///
    /// # Errors
    /// The results cannot be read. A damaged line is no error: see [`damaged`](Self::damaged).
    pub fn open(dir: &Path) -> Result<Self> {
        let mut store = Self {
            dir: dir.to_owned(),
            lock: None,
            shard: None,
            records: BTreeMap::new(),
            damaged: Vec::new(),
        };
        let names = match dir.is_dir() {
            true => names(dir)?,
            false => Vec::new(),
        };
        for name in names.iter().filter(|name| is_results(name)) {
            for record in store.read(&dir.join(name))?.into_values() {
                store.merge(record);
            }
        }
        Ok(store)
    }

    /// The same store for a process that makes the runs of a share, or of all.
    #[must_use]
    pub fn with_shard(self, shard: Option<Shard>) -> Self {
        Self { shard, ..self }
    }

    /// The share whose runs are made, if it is not all.
    pub fn shard(&self) -> Option<Shard> {
        self.shard
    }

    /// Takes in a record of another file. A failure does not replace a completed run.
    fn merge(&mut self, record: Record) {
        if record.completed().is_some() || !self.is_done(&record.id) {
            self.records.insert(record.id.clone(), record);
        }
    }

    /// The last record of each run in a file of results.
    fn read(&mut self, path: &Path) -> Result<BTreeMap<String, Record>> {
        let text = read_file(path, MAX_RESULTS_BYTES).map_err(|e| Error::read(path, e))?;
        let mut records = BTreeMap::new();
        for (i, line) in text.split(|byte| *byte == b'\n').enumerate() {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match read_record(line) {
                Ok(record) => drop(records.insert(record.id.clone(), record)),
                Err(error) => {
                    let place = format!("{}, line {}: {error}", path.display(), i + 1);
                    self.damaged.push(place);
                }
            }
        }
        Ok(records)
    }

    /// Locks the directory for this process, and creates it if it is missing. The results are read again, because another process may have
    /// added some. A store that is already locked stays unchanged.
    ///
    /// # Errors
    /// Another process uses the directory; a symbolic link is in place of a file to write; as [`open`](Self::open).
    pub fn lock(self) -> Result<Self> {
        if self.lock.is_some() {
            return Ok(self);
        }
        let (dir, shard) = (self.dir, self.shard);
        std::fs::create_dir_all(&dir).map_err(|e| Error::write(&dir, e))?;
        let lock = take(&dir, shard)?;
        for name in [&*in_share(RESULTS, shard), CSV] {
            is_file(&dir.join(name))?;
        }
        for name in [PLANS, RUNS, WORKERS, ANSWERS] {
            let folder = dir.join(name);
            let within = if is_folder(&folder)? {
                names(&folder)?
            } else {
                Vec::new()
            };
            for name in within {
                require_no_link(&folder.join(name))?;
            }
        }
        // What looks left over may be another share's work in progress.
        if shard.is_none() {
            for folder in [dir.join(PLANS), dir.clone()] {
                clear_leftovers(&folder)?;
            }
        }
        let lock = Some(lock);
        Ok(Self {
            lock,
            shard,
            ..Self::open(&dir)?
        })
    }

    /// The lines that could not be read, each with file, line and reason.
    pub fn damaged(&self) -> &[String] {
        &self.damaged
    }

    /// The last record of a run.
    pub fn get(&self, id: &str) -> Option<&Record> {
        self.records.get(id)
    }

    /// Every run's last record, by id.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// Returns true if a run is completed.
    pub fn is_done(&self, id: &str) -> bool {
        self.get(id)
            .is_some_and(|record| record.completed().is_some())
    }

    /// The directory of a run.
    pub fn run_dir(&self, id: &str) -> PathBuf {
        self.dir.join(RUNS).join(id)
    }

    /// The directory of a run's answers.
    pub fn answers_dir(&self, id: &str) -> PathBuf {
        self.dir.join(ANSWERS).join(id)
    }

    /// The file for the output of a worker.
    pub fn worker_log(&self, worker: usize) -> PathBuf {
        let name = format!("{worker}.log");
        let share = self.shard.map(Shard::in_files);
        let name = share.map_or(name.clone(), |share| format!("{share}-{name}"));
        self.dir.join(WORKERS).join(name)
    }

    /// Appends a line, flushes it to the disk, and rewrites the CSV. With a share the CSV is left to a later process with all runs.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn add(&mut self, record: Record) -> Result<()> {
        let path = self.dir.join(in_share(RESULTS, self.shard));
        let mut line = json(&path, &record)?;
        line.push('\n');
        append(&path, &line).map_err(|e| Error::write(&path, e))?;
        self.records.insert(record.id.clone(), record);
        self.write_csv()
    }

    /// Writes the plan of a sweep and replaces its earlier plan.
    ///
    /// # Errors
    /// The file cannot be written, or something else is in its place.
    pub fn save_plan(&self, plan: &Plan) -> Result<()> {
        let path = self.dir.join(PLANS).join(format!("{}.json", plan.sweep));
        is_file(&path)?;
        Ok(write_atomically(&path, json(&path, plan)?.as_bytes())?)
    }

    /// The plan of each sweep of the directory, by name.
    ///
    /// # Errors
    /// A plan cannot be read.
    pub fn plans(&self) -> Result<Vec<Plan>> {
        let dir = self.dir.join(PLANS);
        if !dir.is_dir() {
            return Ok(Vec::new());
        }
        let entries = std::fs::read_dir(&dir).map_err(|e| Error::read(&dir, e))?;
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<_>>()
            .map_err(|e| Error::read(&dir, e))?;
        paths.retain(|path| path.extension().is_some_and(|end| end == "json"));
        paths.sort();
        paths.iter().map(|path| read_plan(path)).collect()
    }

    /// Writes the results as CSV, if there are any.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write_csv(&self) -> Result<()> {
        if self.records.is_empty() || self.shard.is_some() {
            return Ok(());
        }
        let path = self.dir.join(CSV);
        let failed = |error: csv::Error| Error::write(&path, std::io::Error::other(error));
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(COLUMNS).map_err(failed)?;
        for record in self.records.values() {
            writer.write_record(row(record)).map_err(failed)?;
        }
        let bytes = writer.into_inner();
        let bytes = bytes.map_err(|error| Error::write(&path, error.into_error()))?;
        Ok(write_atomically(&path, &bytes)?)
    }
}

/// The name of a file that each share has for itself: `results-2-of-4.jsonl`.
fn in_share(name: &str, shard: Option<Shard>) -> String {
    match (shard, name.split_once('.')) {
        (Some(shard), Some((stem, end))) => format!("{stem}-{}.{end}", shard.in_files()),
        _ => name.to_owned(),
    }
}

/// Returns true if the name is that of a file of results, or of a share's.
fn is_results(name: &str) -> bool {
    name == RESULTS || share_of(name, RESULTS).is_some()
}

/// The share that a file of this kind belongs to.
fn share_of(name: &str, kind: &str) -> Option<Shard> {
    let (stem, end) = kind.split_once('.')?;
    let share = name.strip_prefix(stem)?.strip_prefix('-')?;
    let share = share.strip_suffix(end)?.strip_suffix('.')?;
    share.replacen("-of-", "/", 1).parse().ok()
}

/// Locks the directory for the runs of a share, or of all. Shares do not exclude each other, and all runs exclude every share. Each side takes
/// its own lock before it looks at the other's, so one of two sees the other.
fn take(dir: &Path, shard: Option<Shard>) -> Result<DirLock> {
    let lock = DirLock::take(dir, &in_share(LOCK, shard))?;
    if shard.is_some() {
        let started = Instant::now();
        while let Err(error) = DirLock::take(dir, LOCK) {
            if started.elapsed() > MOMENT || !matches!(error, Error::InUse { .. }) {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(20));
        }
        return Ok(lock);
    }
    for name in names(dir)? {
        if share_of(&name, LOCK).is_some() {
            DirLock::take(dir, &name)?;
        }
    }
    Ok(lock)
}

fn json(path: &Path, value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|cause| Error::Json {
        file: path.display().to_string(),
        cause,
    })
}

/// A line of the results, with numbers that a run can come to.
fn read_record(line: &[u8]) -> std::result::Result<Record, String> {
    let record: Record = strict_json::from_slice(line).map_err(|error| error.to_string())?;
    record.result.iter().try_for_each(RunResult::check)?;
    Ok(record)
}

fn read_plan(path: &Path) -> Result<Plan> {
    let bytes = read_file(path, MAX_RESULTS_BYTES).map_err(|e| Error::read(path, e))?;
    strict_json::from_slice(&bytes).map_err(|e| Error::json(path, e))
}

/// Appends a line in one write. It starts a new line if a crash cut the last one off.
fn append(path: &Path, line: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = File::options()
        .append(true)
        .read(true)
        .create(true)
        .open(path)?;
    let mut last = [b'\n'];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    let start = if last == *b"\n" { "" } else { "\n" };
    file.write_all(format!("{start}{line}").as_bytes())?;
    file.sync_all()
}

const COLUMNS: [&str; 22] = [
    "id",
    "sweep",
    "name",
    "model",
    "data",
    "task",
    "method",
    "targets",
    "seed",
    "metric",
    "best",
    "last",
    "epochs",
    "steps",
    "trained_parameters",
    "stored_parameters",
    "stored_bytes",
    "seconds",
    "seconds_per_step",
    "device",
    "date",
    "error",
];

fn row(record: &Record) -> [String; COLUMNS.len()] {
    let config = &record.config;
    let result = record.result.as_ref();
    let of = |value: fn(&crate::results::RunResult) -> String| result.map_or(String::new(), value);
    let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    let scores = record.scores();
    [
        record.id.clone(),
        record.sweep.clone(),
        record.name.clone(),
        config.model.clone(),
        config.data.clone(),
        config.recipe.task.to_string(),
        config.method.clone(),
        config.value("targets"),
        config.seed.to_string(),
        record.metric().to_string(),
        number(scores.map(|(best, _)| best)),
        number(scores.map(|(_, last)| last)),
        of(|result| result.epochs.len().to_string()),
        of(|result| result.steps.to_string()),
        of(|result| result.trained_parameters.to_string()),
        of(|result| result.stored_parameters.to_string()),
        of(|result| result.stored_bytes.to_string()),
        of(|result| format!("{:.3}", result.seconds)),
        number(record.seconds_per_step()),
        record.made.device.clone(),
        record.made.date.clone(),
        record.error.clone().unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::record::tests::{made, record};

    #[test]
    fn what_is_added_is_read_back_and_the_last_line_counts() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let good = record("a", "lora", 1, &[0.5, 0.75]);
        let failed = Record::new(
            ("a", "s", "n"),
            &good.config,
            Err("no, \"memory\"".into()),
            made(),
        );
        store.add(failed.clone()).unwrap();
        assert!(!store.is_done("a"));
        let csv = || std::fs::read_to_string(dir.path().join(CSV)).unwrap();
        assert!(csv().contains("\"no, \"\"memory\"\"\""), "{}", csv());
        store.add(good.clone()).unwrap();
        store.add(record("b", "vblora", 2, &[0.6])).unwrap();
        let again = Store::open(dir.path()).unwrap();
        assert!(again.is_done("a") && again.damaged().is_empty());
        assert_eq!(again.get("a"), Some(&good));
        assert_eq!(again.records().count(), 2);
        let csv = csv();
        assert_eq!(csv.lines().count(), 3);
        let line = csv.lines().nth(1).unwrap();
        assert!(
            line.starts_with("a,s,lora seed=1,bundled,glue,mrpc,lora,all,1,accuracy,0.75,0.75,"),
            "{line}"
        );
    }

    #[test]
    fn one_process_at_a_time_may_add_and_others_may_read() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("new");
        let early = Store::open(&out).unwrap();
        let mut store = Store::open(&out).unwrap().lock().unwrap();
        store.add(record("a", "lora", 1, &[0.5])).unwrap();
        let again = Store::open(&out).unwrap();
        assert!(again.is_done("a"));
        let message = again.lock().unwrap_err().to_string();
        let process = format!("process {}", std::process::id());
        let place = out.display().to_string();
        assert!(
            message.contains(&place) && message.contains(&process),
            "{message}"
        );
        std::fs::write(out.join(".tmpAbC123"), "of a killed process").unwrap();
        drop(store.lock().unwrap());
        assert!(early.lock().unwrap().is_done("a"), "read again");
        assert_eq!(names(&out).unwrap(), [CSV, RESULTS]);
    }

    #[test]
    fn shares_write_at_the_same_time_and_are_read_together() {
        let dir = tempfile::tempdir().unwrap();
        let open = |shard: &str| {
            let shard = (!shard.is_empty()).then(|| shard.parse().unwrap());
            Store::open(dir.path()).unwrap().with_shard(shard).lock()
        };
        let (mut first, mut second) = (open("1/2").unwrap(), open("2/2").unwrap());
        for other in ["1/2", ""] {
            let error = open(other).unwrap_err();
            assert!(matches!(error, Error::InUse { .. }), "{error}");
        }
        first.add(record("a", "lora", 1, &[0.5])).unwrap();
        second.add(record("b", "lora", 2, &[0.6])).unwrap();
        let config = record("a", "lora", 1, &[0.5]).config;
        let failed = Record::new(("a", "s", "n"), &config, Err("no memory".into()), made());
        second.add(failed).unwrap();
        assert!(!dir.path().join(CSV).exists());
        drop((first, second));
        let mut all = open("").unwrap();
        assert!(all.is_done("a") && all.is_done("b"));
        all.add(record("c", "lora", 3, &[0.7])).unwrap();
        let csv = std::fs::read_to_string(dir.path().join(CSV)).unwrap();
        assert_eq!(csv.lines().count(), 4);
        let error = open("1/3").unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn links_in_the_directory_are_not_written_through() {
        for link in [
            "results.jsonl",
            "results.csv",
            "runs",
            "runs/a",
            "workers/0.log",
            "sweeps/s.json",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("out").join(link);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(dir.path(), &path).unwrap();
            let store = Store::open(&dir.path().join("out"));
            let Ok(store) = store else { continue };
            let message = store.lock().unwrap_err().to_string();
            assert!(
                message.contains(link) && message.contains("symbolic link"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_damaged_line_is_skipped_counted_and_named_and_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store.add(record("a", "lora", 1, &[0.5])).unwrap();
        let path = dir.path().join(RESULTS);
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"id\": \"b\", \"swe");
        std::fs::write(&path, &text).unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store.add(record("c", "lora", 3, &[0.5])).unwrap();
        // No task has such a score.
        store.add(record("d", "lora", 4, &[5.5])).unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(store.is_done("a") && store.is_done("c") && !store.is_done("d"));
        let [damaged, impossible] = store.damaged() else {
            panic!("{:?}", store.damaged())
        };
        assert!(damaged.contains("results.jsonl, line 2: "), "{damaged}");
        let says = "results.jsonl, line 4: epoch 1: accuracy: 5.5";
        assert!(impossible.contains(says), "{impossible}");
    }
}

//! This crate's errors. Every message names the file, line or setting.

use std::path::{Path, PathBuf};

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory cannot be read or written.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// The attempted action, as a verb: `read`, `write`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        cause: std::io::Error,
    },
    /// No file holds the split of a task.
    #[error("no {split} split of task {task}: {reason} in {}", dir.display())]
    NoSplit {
        /// `train` or `dev`.
        split: &'static str,
        /// The task's name.
        task: String,
        /// The directory that was searched.
        dir: PathBuf,
        /// The files searched for, and the files found.
        reason: String,
    },
    /// A split file has no examples.
    #[error("{file}: the split is empty, expected at least one example")]
    EmptySplit {
        /// The file, or the name of the text.
        file: String,
    },
    /// A header lacks a column that the task needs.
    #[error("{file}: no column \"{column}\" in the header, found {found}")]
    MissingColumn {
        /// The file, or the name of the text.
        file: String,
        /// The column looked for.
        column: String,
        /// The header's columns.
        found: String,
    },
    /// A table lacks a column.
    #[error("{file}: no column \"{column}\", found {found}")]
    NoColumn {
        /// The file.
        file: String,
        /// The column looked for.
        column: String,
        /// The columns of the file.
        found: String,
    },
    /// A row of a split cannot be read.
    #[error("{file}, line {line}: expected {expected}, found {found}")]
    Row {
        /// The file, or the name of the text.
        file: String,
        /// The line, counted from 1, the header included.
        line: usize,
        /// The content that the task expects.
        expected: String,
        /// The found content.
        found: String,
    },
    /// A row of a file of texts cannot be used.
    #[error("{file}, {place}: expected {expected}, found {found}")]
    Entry {
        /// The file.
        file: String,
        /// The position: `line 3`, or `item 3` of a JSON array.
        place: String,
        /// The expected content.
        expected: String,
        /// The found content.
        found: String,
    },
    /// A template of texts does not parse.
    #[error("{file}, line {line}: {message}")]
    Template {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The template engine's message.
        message: String,
    },
    /// A name is unknown.
    #[error("unknown {what} \"{name}\", expected one of {expected}")]
    UnknownName {
        /// The kind of thing: `task`, `metric`, ...
        what: &'static str,
        /// The name given.
        name: String,
        /// The known names.
        expected: String,
    },
    /// Predictions cannot be scored against the labels.
    #[error("cannot score {task}: expected {expected}, found {found}")]
    Score {
        /// The task's name.
        task: String,
        /// The values that the task expects.
        expected: String,
        /// The found values.
        found: String,
    },
    /// An output of the model is not finite and cannot be scored.
    #[error("{what} is not finite")]
    NonFinite {
        /// The output.
        what: String,
    },
    /// A recipe file does not parse. The message names the key and, if known, the line.
    #[error("recipe {file}: {message}")]
    RecipeSyntax {
        /// The file.
        file: String,
        /// The parser's message.
        message: String,
    },
    /// A sweep file cannot be expanded.
    #[error("{file}, line {line}: {message}")]
    Sweep {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The error, with the names that are allowed.
        message: String,
    },
    /// No table can be made from the results.
    #[error("no report of {}: {reason}", dir.display())]
    Report {
        /// The sweep's directory.
        dir: PathBuf,
        /// The missing or inconsistent part.
        reason: String,
    },
    /// A setting is outside its range.
    #[error("setting {setting}: expected {expected}, found {found}")]
    Setting {
        /// The setting's key, as in the recipe file (`vblora.topk`).
        setting: String,
        /// The values allowed.
        expected: String,
        /// The value given.
        found: String,
    },
    /// There is no built-in recipe for this task and size.
    #[error("no built-in recipe for task {task} in \"{size}\", which has {available}")]
    NoRecipe {
        /// The recipe file's name.
        size: &'static str,
        /// The task's name.
        task: String,
        /// The tasks that the file has.
        available: String,
    },
    /// A file does not parse as JSON, or cannot be written as JSON.
    #[error("{file}: {cause}")]
    Json {
        /// The file.
        file: String,
        /// The parser's or serializer's message.
        cause: serde_json::Error,
    },
    /// A program or library that a task needs is missing or fails.
    #[error("{program}: {reason}")]
    Program {
        /// What it is for: a metric, MPI, the device.
        program: &'static str,
        /// The reason, with the program's own words.
        reason: String,
    },
    /// The adapter library's error.
    #[error(transparent)]
    Adapter(#[from] vblora::Error),
    /// The model library's error.
    #[error(transparent)]
    Model(#[from] vblora_models::Error),
    /// A run directory is already in use by an earlier run.
    #[error("{} already holds a run ({found}); choose another --out, or {way}", dir.display())]
    RunExists {
        /// The directory.
        dir: PathBuf,
        /// The file that proves it.
        found: String,
        /// The flag that would use the directory.
        way: &'static str,
    },
    /// Another process writes to the directory.
    #[error("{} is in use by {holder}; wait until that ends, or choose another directory", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process, as its lock names it.
        holder: String,
    },
    /// Something exists where a file or directory must be written, and is not replaced.
    #[error("{} is in the way: {reason}", path.display())]
    InTheWay {
        /// The existing path.
        path: PathBuf,
        /// The reason why it stays.
        reason: String,
    },
    /// The stored run differs from the run that should continue it.
    #[error("{} cannot be resumed: its {part} is {expected}, now it is {found}", place.display())]
    OtherRun {
        /// The checkpoint or configuration.
        place: PathBuf,
        /// The part that differs: backend, base model, data, recipe or run.
        part: String,
        /// The stored value.
        expected: String,
        /// The present value.
        found: String,
    },
    /// A file of answers comes from other settings than those that should continue it.
    #[error("the answers in {} cannot be continued: their {part} is {expected}, now it is {found}; choose another file, or overwrite it", path.display())]
    OtherAnswers {
        /// The file.
        path: PathBuf,
        /// The setting that differs.
        part: String,
        /// The stored value.
        expected: String,
        /// The present value.
        found: String,
    },
    /// A run that is to be repeated differs from the run that would repeat it.
    #[error("{} cannot be repeated: its {part} is {expected}, now it is {found}", place.display())]
    OtherRepetition {
        /// The file that says so.
        place: PathBuf,
        /// The part that differs: backend, base model, data, recipe, threads.
        part: String,
        /// The recorded value.
        expected: String,
        /// The present value.
        found: String,
    },
    /// A rank was given something else than rank 0.
    #[error(
        "rank {rank} cannot work with rank 0: its {part} is {found}, that of rank 0 is {expected}"
    )]
    OtherRank {
        /// The rank.
        rank: usize,
        /// The part that differs: version, backend, recipe, data, threads.
        part: String,
        /// The value of rank 0.
        expected: String,
        /// The rank's value.
        found: String,
    },
    /// A launcher has started several processes, which cannot share the work.
    #[error("{name} says that {size} processes were started for this job, and {reason}")]
    Launched {
        /// The number of processes.
        size: usize,
        /// The variable of the environment that says so.
        name: &'static str,
        /// Why they cannot, and what to do.
        reason: String,
    },
    /// Ranks do not answer.
    #[error("no answer from {ranks} {during} for {seconds} s (--rank-timeout)")]
    SilentRank {
        /// The ranks that are waited for.
        ranks: String,
        /// The time in the run: `in step 12`.
        during: String,
        /// The seconds waited.
        seconds: u64,
    },
    /// A message of another rank is not what was agreed on.
    #[error("rank {rank} sent {found}, expected {expected}")]
    RankMessage {
        /// The rank.
        rank: usize,
        /// The expected content.
        expected: String,
        /// The found content.
        found: String,
    },
    /// The work of a rank other than 0 failed.
    #[error("rank {rank} failed {during}: {cause}")]
    OfRank {
        /// The rank.
        rank: usize,
        /// The time in the run: `in step 12`.
        during: String,
        /// Its error.
        cause: Box<Error>,
    },
    /// A recording of selections cannot be used.
    #[error("recording {}: {reason}", path.display())]
    Recording {
        /// The file, or the folder that was searched.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// An endpoint gives no answers.
    #[error("{address}: {reason}")]
    Endpoint {
        /// Its address.
        address: String,
        /// The reason of the last failure.
        reason: String,
    },
    /// A picture cannot be drawn.
    #[error("cannot draw {what}: {message}")]
    Draw {
        /// The picture.
        what: String,
        /// The drawing library's message.
        message: String,
    },
}

impl Error {
    /// The error of a JSON file with this reason.
    pub(crate) fn json(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Json {
            file: path.display().to_string(),
            cause: serde::de::Error::custom(reason),
        }
    }

    /// The error of reading `path`.
    pub(crate) fn read(path: &Path, cause: std::io::Error) -> Self {
        let path = path.to_path_buf();
        Self::Io {
            action: "read",
            path,
            cause,
        }
    }

    /// The error for something at `path` that stays.
    pub(crate) fn in_the_way(path: &Path, reason: impl Into<String>) -> Self {
        Self::InTheWay {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }

    /// The error of writing `path`.
    pub(crate) fn write(path: &Path, cause: std::io::Error) -> Self {
        let path = path.to_path_buf();
        Self::Io {
            action: "write",
            path,
            cause,
        }
    }
}

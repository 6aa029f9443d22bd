//! What can go wrong in this crate; every message names the file, line or setting.

use std::path::{Path, PathBuf};

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was tried, as a verb: `read`, `write`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
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
        /// What was looked for and what was found.
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
    /// A row of a split cannot be read.
    #[error("{file}, line {line}: expected {expected}, found {found}")]
    Row {
        /// The file, or the name of the text.
        file: String,
        /// The line, counted from 1, the header included.
        line: usize,
        /// What the task asks for.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A row of a file of texts that cannot be used.
    #[error("{file}, {place}: expected {expected}, found {found}")]
    Entry {
        /// The file.
        file: String,
        /// Where it stands: `line 3`, or `item 3` of a JSON array.
        place: String,
        /// What is asked for.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A template of texts that does not parse.
    #[error("{file}, line {line}: {message}")]
    Template {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The template engine's words.
        message: String,
    },
    /// A name that stands for nothing.
    #[error("unknown {what} \"{name}\", expected one of {expected}")]
    UnknownName {
        /// The kind of thing: `task`, `metric`, ...
        what: &'static str,
        /// The name given.
        name: String,
        /// The names there are.
        expected: String,
    },
    /// Predictions that cannot be scored against the labels.
    #[error("cannot score {task}: expected {expected}, found {found}")]
    Score {
        /// The task's name.
        task: String,
        /// What the task asks for.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A model whose outputs are no numbers, which no metric is fed.
    #[error("{what} is not finite")]
    NonFinite {
        /// The output.
        what: String,
    },
    /// A recipe file that does not parse; the message names the key and, where known, the line.
    #[error("recipe {file}: {message}")]
    RecipeSyntax {
        /// The file.
        file: String,
        /// The parser's words.
        message: String,
    },
    /// A sweep file that cannot be expanded.
    #[error("{file}, line {line}: {message}")]
    Sweep {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong, with the names that are allowed.
        message: String,
    },
    /// Results from which no table can be made.
    #[error("no report of {}: {reason}", dir.display())]
    Report {
        /// The sweep's directory.
        dir: PathBuf,
        /// What is missing, or does not go together.
        reason: String,
    },
    /// A setting outside its range.
    #[error("setting {setting}: expected {expected}, found {found}")]
    Setting {
        /// The setting's key, as in the recipe file (`vblora.topk`).
        setting: String,
        /// The values allowed.
        expected: String,
        /// The value given.
        found: String,
    },
    /// There is no built-in recipe for this pair.
    #[error("no built-in recipe for task {task} in \"{size}\", which has {available}")]
    NoRecipe {
        /// The recipe file's name.
        size: &'static str,
        /// The task's name.
        task: String,
        /// The tasks that the file has.
        available: String,
    },
    /// A `results.json` that does not parse or cannot be written as JSON.
    #[error("results {file}: {cause}")]
    Json {
        /// The file.
        file: String,
        /// The parser's or serialiser's words.
        cause: serde_json::Error,
    },
    /// The adapter library's error.
    #[error(transparent)]
    Adapter(#[from] vblora::Error),
    /// The model library's error.
    #[error(transparent)]
    Model(#[from] vblora_models::Error),
    /// A run directory that is not free.
    #[error("{} already holds a run ({found}); choose another --out, or {way}", dir.display())]
    RunExists {
        /// The directory.
        dir: PathBuf,
        /// The file that shows it.
        found: String,
        /// What would take the directory.
        way: &'static str,
    },
    /// A directory that another process writes to.
    #[error("{} is in use by {holder}; wait until that ends, or choose another directory", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process, as its lock names it.
        holder: String,
    },
    /// Something stands where a file or directory is to be written, and is not replaced.
    #[error("{} is in the way: {reason}", path.display())]
    InTheWay {
        /// What stands there.
        path: PathBuf,
        /// Why it stays.
        reason: String,
    },
    /// What is to be resumed was made otherwise.
    #[error("{} cannot be resumed: its {part} is {expected}, now it is {found}", place.display())]
    OtherRun {
        /// The checkpoint or configuration.
        place: PathBuf,
        /// What differs: backend, base model, data, recipe or run.
        part: &'static str,
        /// What it was.
        expected: String,
        /// What it is now.
        found: String,
    },
    /// A recording of selections that cannot be used.
    #[error("recording {}: {reason}", path.display())]
    Recording {
        /// The file, or the folder it was looked for in.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A picture could not be drawn.
    #[error("cannot draw {what}: {message}")]
    Draw {
        /// The picture.
        what: String,
        /// The drawing library's words.
        message: String,
    },
}

impl Error {
    /// A reading error of `path`.
    /// What is wrong with a JSON file.
    pub(crate) fn json(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Json {
            file: path.display().to_string(),
            cause: serde::de::Error::custom(reason),
        }
    }

    pub(crate) fn read(path: &Path, cause: std::io::Error) -> Self {
        let path = path.to_path_buf();
        Self::Io {
            action: "read",
            path,
            cause,
        }
    }

    /// Something at `path` that stays.
    pub(crate) fn in_the_way(path: &Path, reason: impl Into<String>) -> Self {
        Self::InTheWay {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }

    /// A writing error of `path`.
    pub(crate) fn write(path: &Path, cause: std::io::Error) -> Self {
        let path = path.to_path_buf();
        Self::Io {
            action: "write",
            path,
            cause,
        }
    }
}

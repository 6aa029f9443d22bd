//! Examples of a task with labels, and their splits.

use std::path::PathBuf;

/// The label of an example.
#[derive(Debug, Clone, PartialEq)]
pub enum Label {
    /// The id of a class: its index in [`Task::classes`](super::Task::classes).
    Class(usize),
    /// The ids of all classes of the example, ascending and each once; may be empty (multi-label).
    Classes(Vec<usize>),
    /// A number (regression).
    Value(f32),
}

/// One row of a split.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The sentence, or the first of a pair. It is not empty and has no blanks at its ends.
    pub a: String,
    /// The second sentence of a pair.
    pub b: Option<String>,
    /// The label.
    pub label: Label,
}

/// The splits with labels. (GLUE's test splits have none.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitName {
    /// `train.tsv`
    Train,
    /// `dev.tsv`
    Dev,
}

impl SplitName {
    /// `train` or `dev`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Dev => "dev",
        }
    }
}

/// The examples of one file, in its order, at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// The examples.
    pub examples: Vec<Example>,
    /// The file they were read from. Programs report a file other than `train.tsv`: see [`read_split`](super::read_split).
    pub source: PathBuf,
}

//! Examples of a task with labels, and the splits that they come in.

use std::path::PathBuf;

/// What an example is to be predicted as.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Label {
    /// The id of a class: its place in [`Task::classes`](super::Task::classes).
    Class(usize),
    /// A number (regression).
    Value(f32),
}

/// One row of a split.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The sentence, or the first of a pair; never empty, no blanks at its ends.
    pub a: String,
    /// The second sentence of a pair.
    pub b: Option<String>,
    /// The label.
    pub label: Label,
}

/// The labelled splits. (GLUE's test splits have no labels.)
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

/// The examples of one file, in its order; never empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// The examples.
    pub examples: Vec<Example>,
    /// The file they were read from. Worth reporting when it is not `train.tsv`: see [`read_split`](super::read_split).
    pub source: PathBuf,
}

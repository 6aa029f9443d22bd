//! Examples of a task with labels, and their splits.

use std::{borrow::Borrow, path::PathBuf};

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

impl Label {
    /// The ids of its classes; none for a number.
    pub fn classes(&self) -> &[usize] {
        match self {
            Self::Class(class) => std::slice::from_ref(class),
            Self::Classes(set) => set,
            Self::Value(_) => &[],
        }
    }
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

/// The number of examples of each class.
///
/// # Panics
/// A class is not below `classes`.
pub(crate) fn class_counts<L: Borrow<Label>>(
    labels: impl IntoIterator<Item = L>,
    classes: usize,
) -> Vec<usize> {
    let mut counts = vec![0; classes];
    for label in labels {
        let label: &Label = label.borrow();
        for class in label.classes() {
            counts[*class] += 1;
        }
    }
    counts
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

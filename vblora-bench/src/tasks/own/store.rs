//! Examples in one piece of memory. A row takes its text, eight bytes for each end of a text, and four for a class.

use std::sync::Arc;

use vblora::storage::sha256_hex;

use crate::tasks::{Example, Label, Target, class_counts};

/// The examples of some files.
#[derive(Debug)]
pub(super) struct Store {
    text: String,
    /// The end of each text in `text`. An example of pairs has two.
    ends: Vec<u64>,
    is_pair: bool,
    labels: Labels,
}

#[derive(Debug)]
enum Labels {
    Classes(Vec<u32>),
    Sets { ids: Vec<u32>, ends: Vec<u64> },
    Values(Vec<f32>),
}

impl Store {
    /// An empty store, with room for this many bytes of text.
    pub(super) fn new(target: &Target, is_pair: bool, bytes: usize) -> Self {
        let labels = match target {
            Target::Classes { .. } => Labels::Classes(Vec::new()),
            Target::Sets { .. } => Labels::Sets {
                ids: Vec::new(),
                ends: Vec::new(),
            },
            Target::Number { .. } => Labels::Values(Vec::new()),
        };
        let mut text = String::new();
        // The size is a guess from the file, so a store without this room is no error. Pages that are not written to take no memory.
        let _ = text.try_reserve_exact(bytes);
        Self {
            text,
            ends: Vec::new(),
            is_pair,
            labels,
        }
    }

    /// Adds an example. Its texts are one, or two in a store of pairs.
    pub(super) fn push<'a>(&mut self, texts: impl IntoIterator<Item = &'a str>, label: &Label) {
        for text in texts {
            self.text.push_str(text);
            self.ends.push(self.text.len() as u64);
        }
        match (&mut self.labels, label) {
            (Labels::Classes(all), Label::Class(class)) => all.push(*class as u32),
            (Labels::Sets { ids, ends }, Label::Classes(set)) => {
                ids.extend(set.iter().map(|class| *class as u32));
                ends.push(ids.len() as u64);
            }
            (Labels::Values(all), Label::Value(value)) => all.push(*value),
            (Labels::Classes(_) | Labels::Sets { .. } | Labels::Values(_), _) => {
                unreachable!("the store was made for the same target")
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        match &self.labels {
            Labels::Classes(all) => all.len(),
            Labels::Sets { ends, .. } => ends.len(),
            Labels::Values(all) => all.len(),
        }
    }

    /// The class of each example; `None` for other labels.
    pub(super) fn classes(&self) -> Option<&[u32]> {
        match &self.labels {
            Labels::Classes(all) => Some(all),
            Labels::Sets { .. } | Labels::Values(_) => None,
        }
    }

    fn piece(&self, at: usize) -> &str {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start as usize..self.ends[at] as usize]
    }

    fn texts(&self, row: usize) -> (&str, Option<&str>) {
        match self.is_pair {
            true => (self.piece(2 * row), Some(self.piece(2 * row + 1))),
            false => (self.piece(row), None),
        }
    }

    fn label(&self, row: usize) -> Label {
        match &self.labels {
            Labels::Classes(all) => Label::Class(all[row] as usize),
            Labels::Sets { ids, ends } => {
                let start = row.checked_sub(1).map_or(0, |before| ends[before]);
                let set = &ids[start as usize..ends[row] as usize];
                Label::Classes(set.iter().map(|class| *class as usize).collect())
            }
            Labels::Values(all) => Label::Value(all[row]),
        }
    }
}

/// Some examples of a store, in the order of its file.
#[derive(Debug, Clone)]
pub struct StoredSplit {
    store: Arc<Store>,
    /// The rows of the store; `None` for all of them.
    rows: Option<Vec<u32>>,
}

impl StoredSplit {
    pub(super) fn new(store: Arc<Store>, rows: Option<Vec<u32>>) -> Self {
        Self { store, rows }
    }

    /// The number of examples.
    pub fn len(&self) -> usize {
        self.rows
            .as_ref()
            .map_or_else(|| self.store.len(), Vec::len)
    }

    /// Returns true if there are no examples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn row(&self, index: usize) -> usize {
        self.rows
            .as_ref()
            .map_or(index, |rows| rows[index] as usize)
    }

    /// The text or the pair of texts of an example.
    pub fn texts(&self, index: usize) -> (&str, Option<&str>) {
        self.store.texts(self.row(index))
    }

    /// The label of an example.
    pub fn label(&self, index: usize) -> Label {
        self.store.label(self.row(index))
    }

    /// The bytes of text of an example.
    pub fn bytes(&self, index: usize) -> usize {
        let (first, second) = self.texts(index);
        first.len() + second.map_or(0, str::len)
    }

    /// Every label, in order.
    pub fn labels(&self) -> Vec<Label> {
        (0..self.len()).map(|index| self.label(index)).collect()
    }

    /// The number of examples of each class.
    pub fn counts(&self, classes: usize) -> Vec<usize> {
        class_counts((0..self.len()).map(|index| self.label(index)), classes)
    }

    /// An example on its own.
    pub fn example(&self, index: usize) -> Example {
        let (a, b) = self.texts(index);
        Example {
            a: a.to_owned(),
            b: b.map(ToOwned::to_owned),
            label: self.label(index),
        }
    }

    /// SHA-256 of every text and label.
    pub fn sha256(&self) -> String {
        sha256_hex((0..self.len()).map(|index| {
            let (a, b) = self.texts(index);
            format!("{a:?} {b:?} {:?}\n", self.label(index))
        }))
    }
}

//! Examples in one piece of memory. A row takes its text, eight bytes for each end of a text, and four for a class.

use std::sync::Arc;

use vblora::storage::sha256_hex;

use crate::tasks::{Example, Label, Target, class_counts};

/// The most examples: their numbers have 32 bits.
pub(super) const MAX_ROWS: usize = u32::MAX as usize;

/// Room is made for rows of this many bytes. Shorter ones let the ends and labels grow, which takes up to twice their memory.
const ROW_BYTES: usize = 16;

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
    /// An empty store, with room for the examples of files with this many bytes.
    pub(super) fn new(target: &Target, is_pair: bool, bytes: usize) -> Self {
        let rows = bytes / ROW_BYTES;
        let labels = match target {
            Target::Classes { .. } => Labels::Classes(with_room(rows)),
            Target::Sets { .. } => Labels::Sets {
                ids: with_room(rows),
                ends: with_room(rows),
            },
            Target::Number { .. } => Labels::Values(with_room(rows)),
        };
        Self {
            text: String::from_utf8(with_room(bytes)).unwrap_or_default(),
            ends: with_room(rows * (1 + usize::from(is_pair))),
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

/// An empty list with room for this many items. The number is a guess from a file's size, so a list without this room is no error. Pages
/// that are not written to take no memory.
fn with_room<T>(items: usize) -> Vec<T> {
    let mut list = Vec::new();
    let _ = list.try_reserve_exact(items);
    list
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

//! Notes for the user about the rows that were read.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
};

use super::store::StoredSplit;
use crate::tasks::counted;

/// Rows that training takes as they are, but that may be mistakes.
#[derive(Debug, Default)]
pub(super) struct Oddities {
    /// Rows with an empty text, and the first of them.
    pub(super) empty: (usize, Option<String>),
    /// Rows without any label, in data of several labels.
    pub(super) unlabelled: usize,
}

impl Oddities {
    pub(super) fn add_empty(&mut self, place: impl FnOnce() -> String) {
        self.empty.0 += 1;
        self.empty.1.get_or_insert_with(place);
    }

    pub(super) fn notes(&self, file: &str) -> Vec<String> {
        let mut notes = Vec::new();
        if let (count, Some(first)) = &self.empty {
            let found = counted(
                *count,
                &format!("row has an empty text, at {first}; it is kept"),
                &format!("rows have an empty text, the first at {first}; they are kept"),
            );
            notes.push(format!("{file}: {found}"));
        }
        if self.unlabelled > 0 {
            let found = counted(
                self.unlabelled,
                "row has no label; it counts as a row of no class",
                "rows have no label; they count as rows of no class",
            );
            notes.push(format!("{file}: {found}"));
        }
        notes
    }
}

/// The classes without a training row.
pub(super) fn without_rows(names: &[String], counts: &[usize]) -> Option<String> {
    let empty = names.iter().zip(counts).filter(|(_, count)| **count == 0);
    let empty: Vec<&str> = empty.map(|(name, _)| name.as_str()).collect();
    let some = empty[..empty.len().min(20)].join(", ");
    match empty.len() {
        0 => None,
        1 => Some(format!("class {some} has no training row")),
        count => Some(format!("{count} classes have no training row: {some}")),
    }
}

/// The number of development rows whose texts a training row has too. Eight bytes stand for the texts of a row.
pub(super) fn seen_in_training(
    dev: &StoredSplit,
    train: &StoredSplit,
    file: &Path,
) -> Option<String> {
    let hash = |split: &StoredSplit, row| {
        let mut hasher = DefaultHasher::new();
        split.texts(row).hash(&mut hasher);
        hasher.finish()
    };
    let mut rows: HashMap<u64, usize> = HashMap::new();
    for row in 0..dev.len() {
        *rows.entry(hash(dev, row)).or_default() += 1;
    }
    let seen = (0..train.len()).filter_map(|row| rows.remove(&hash(train, row)));
    match seen.sum() {
        0 => None,
        seen => Some(format!(
            "{}: {} of {} have a text that a training row has too, so scores on them say little",
            file.display(),
            seen,
            counted(dev.len(), "row", "rows")
        )),
    }
}

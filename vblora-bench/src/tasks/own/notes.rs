//! Notes for the user about the rows that were read.

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
            notes.push(format!(
                "{file}: {count} rows have an empty text, the first at {first}; they are kept"
            ));
        }
        if self.unlabelled > 0 {
            notes.push(format!(
                "{file}: {} rows have no label; they count as rows of no class",
                self.unlabelled
            ));
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

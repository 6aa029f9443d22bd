//! The position of a row in a file, and the start of a value, for messages.

use std::fmt;

use crate::Error;

/// The position of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The line where it begins, from 1; a header is line 1.
    Line(u64),
    /// Its index in a JSON array, from 1.
    Item(u64),
    /// Its index in a Parquet file, from 1.
    Row(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Item(item) => write!(f, "item {item}"),
            Self::Row(row) => write!(f, "row {row}"),
        }
    }
}

impl Place {
    /// The error of a row in this place of a file.
    pub(super) fn error(
        self,
        file: impl fmt::Display,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        Error::Entry {
            file: file.to_string(),
            place: self.to_string(),
            expected: expected.into(),
            found: found.into(),
        }
    }
}

/// The first characters of a text, at most `limit`, and a mark if there are more.
pub(super) fn shown(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

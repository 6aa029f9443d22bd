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

/// A number of things, in words for one and for any other number of them.
pub(crate) fn counted(count: usize, one: &str, other: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { other })
}

/// The first characters of a text, at most `limit`, and a mark if there are more.
pub(super) fn shown(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A fault of JSON that its place already names the line of: without serde's line, which counts from the start of the text it was given.
pub(super) fn in_line(cause: &serde_json::Error) -> String {
    let (line, column) = (cause.line(), cause.column());
    let place = format!(" at line {line} column {column}");
    cause
        .to_string()
        .replace(&place, &format!(" at column {column}"))
}

//! The position of a row in a file.

use std::fmt;

/// The position of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The line where it begins, from 1, with the header.
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

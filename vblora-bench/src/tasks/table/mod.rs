//! Tables of the user's own data: CSV, TSV, JSON lines, a JSON array or Parquet, read row by row.
//!
//! A reader hands each row to a callback, so a file is never in memory as a whole. CSV and TSV quote fields as RFC 4180 says, as pandas
//! writes them.

mod cell;
mod format;
mod json;
mod parquet;
mod quotes;
mod separated;
mod stream;

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

pub use cell::Cell;
pub use format::Format;

pub use super::place::Place;
use super::place::{in_line, shown};
use crate::{Error, Result};
pub(in crate::tasks) use json::is_rounded;
pub(crate) use quotes::{Fault, Quotes};
pub(in crate::tasks) use separated::{Failed, Records};

/// A file of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    path: PathBuf,
    format: Format,
}

/// A row, with the cells of the columns that were asked for, in that order.
#[derive(Debug)]
pub struct Row {
    /// Its position in the file.
    pub place: Place,
    /// Its cells.
    pub cells: Vec<Cell>,
}

/// Takes rows. An error ends the reading.
type Sink<'a> = dyn FnMut(Row) -> Result<()> + 'a;

impl Table {
    /// A file whose extension tells its format: `.csv`, `.tsv`, `.jsonl` or `.ndjson`, `.json`, `.parquet`.
    ///
    /// # Errors
    /// The extension is another. The error lists those that are known.
    pub fn open(path: &Path) -> Result<Self> {
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        let Some(format) = Format::of(&extension) else {
            return Err(Error::Entry {
                file: path.display().to_string(),
                place: "name".into(),
                expected: format!("a file of one of the kinds {}", Format::extensions()),
                found: match extension.is_empty() {
                    true => "no extension".into(),
                    false => format!(".{extension}"),
                },
            });
        };
        Ok(Self::with_format(path, format))
    }

    /// A file or a stream (`/dev/stdin`) in this format.
    pub fn with_format(path: &Path, format: Format) -> Self {
        let path = path.to_owned();
        Self { path, format }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The most bytes that its text can take, to make room for it. That is the file's size, or the size of Parquet's columns without
    /// compression.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn text_bytes(&self, columns: &[&str]) -> Result<u64> {
        match self.format {
            Format::Parquet => parquet::text_bytes(&self.path, columns),
            Format::Csv | Format::Tsv | Format::JsonLines | Format::Json => {
                let found = std::fs::metadata(&self.path);
                found
                    .map(|found| found.len())
                    .map_err(|e| Error::read(&self.path, e))
            }
        }
    }

    /// Reads the cells of these columns, row by row.
    ///
    /// # Errors
    /// The file cannot be read, is not in its format, or lacks a column; `sink` returns an error. The error names file and row.
    pub fn read(&self, columns: &[&str], sink: &mut Sink<'_>) -> Result<()> {
        match self.format {
            Format::Csv => separated::read(&self.path, b',', columns, sink),
            Format::Tsv => separated::read(&self.path, b'\t', columns, sink),
            Format::JsonLines => json::lines(&self.path, columns, sink),
            Format::Json => json::read(&self.path, columns, sink),
            Format::Parquet => parquet::read(&self.path, columns, sink),
        }
    }

    /// The text of a cell; an empty one if it is missing.
    ///
    /// # Errors
    /// The cell has a list, or another value that is no text.
    pub fn text<'a>(&self, place: Place, cell: &'a Cell) -> Result<Cow<'a, str>> {
        match (cell.text(), cell) {
            (Some(text), _) => Ok(text),
            (None, Cell::Missing) => Ok("".into()),
            (None, _) => Err(self.error(place, "a text", cell.shown())),
        }
    }

    /// The error at a place of this file.
    pub fn error(
        &self,
        place: Place,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        error(&self.path, place, expected, found)
    }
}

fn error(
    path: &Path,
    place: Place,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> Error {
    place.error(path.display(), expected, found)
}

/// The error of a column that is missing.
fn no_column(path: &Path, column: &str, found: &[impl AsRef<str>]) -> Error {
    let names: Vec<_> = found
        .iter()
        .map(|name| format!("{:?}", name.as_ref()))
        .collect();
    Error::NoColumn {
        file: path.display().to_string(),
        column: column.to_owned(),
        found: shown(&names.join(", "), 400),
    }
}

/// The position of each wanted column among the names in this place. Other columns may have any names.
fn positions(path: &Path, place: &str, columns: &[&str], found: &[String]) -> Result<Vec<usize>> {
    let position = |column: &&str| {
        let mut places = (0..found.len()).filter(|&i| found[i] == *column);
        match (places.next(), places.next()) {
            (Some(place), None) => Ok(place),
            (None, _) => Err(no_column(path, column, found)),
            (Some(_), Some(_)) => Err(Error::Entry {
                file: path.display().to_string(),
                place: place.to_owned(),
                expected: format!("one column {column:?}"),
                found: "two of that name".into(),
            }),
        }
    };
    columns.iter().map(position).collect()
}

#[cfg(test)]
mod tests;

//! Files with a JSON object in each line.

use std::path::Path;

use serde::de::DeserializeOwned;
use vblora::storage::{read_text, strict_json};

use crate::{Error, Result, limits::MAX_RESULTS_BYTES};

/// A line of a file.
#[derive(Debug)]
pub(super) struct Line<T> {
    /// Its number, from 1.
    pub(super) number: usize,
    /// The line as it stands in the file.
    pub(super) text: String,
    /// The value of its JSON.
    pub(super) value: T,
}

/// Reads all lines that are not empty.
///
/// # Errors
/// The file cannot be read; a line is not JSON of this type, or has a key twice.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<Line<T>>> {
    let text = read_text(path, MAX_RESULTS_BYTES).map_err(|e| Error::read(path, e))?;
    parse_all(path, &text)
}

/// Reads the lines of a file's text that are not empty.
///
/// # Errors
/// As [`read`].
pub(super) fn parse_all<T: DeserializeOwned>(path: &Path, text: &str) -> Result<Vec<Line<T>>> {
    let lines = (1..).zip(text.lines());
    let full = lines.filter(|(_, line)| !line.trim().is_empty());
    full.map(|(number, text)| parse(path, number, text))
        .collect()
}

/// Reads one line.
///
/// # Errors
/// As [`read`].
pub(super) fn parse<T: DeserializeOwned>(
    path: &Path,
    number: usize,
    text: &str,
) -> Result<Line<T>> {
    let value = strict_json::from_slice(text.as_bytes());
    let value = value.map_err(|reason| wrong(path, number, "a JSON object", reason))?;
    let text = text.to_owned();
    Ok(Line {
        number,
        text,
        value,
    })
}

/// The error of a line.
pub(super) fn wrong(
    path: &Path,
    number: usize,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> Error {
    Error::Entry {
        file: path.display().to_string(),
        place: format!("line {number}"),
        expected: expected.into(),
        found: found.into(),
    }
}

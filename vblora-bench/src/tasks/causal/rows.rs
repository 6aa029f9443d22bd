//! The rows of a file as objects, each with its place.

use std::fmt;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// The most characters of a value that a message shows.
const SHOWN: usize = 60;

/// Where a row stands.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// The line it begins in, from 1.
    Line(u64),
    /// Its number in a JSON array, from 1.
    Item(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Item(item) => write!(f, "item {item}"),
        }
    }
}

/// One row.
#[derive(Debug)]
pub(super) struct Row<'a> {
    file: &'a str,
    place: Place,
    /// Its fields.
    pub(super) values: Map<String, Value>,
}

impl Row<'_> {
    /// The text of a field.
    pub(super) fn text(&self, field: &str) -> Result<&str> {
        match self.values.get(field) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(self.error(
                format!("text in field \"{field}\""),
                shown(&other.to_string()),
            )),
            None => {
                let mut names: Vec<_> = self.values.keys().map(String::as_str).collect();
                names.sort_unstable();
                Err(self.error(format!("a field \"{field}\""), shown(&names.join(", "))))
            }
        }
    }

    pub(super) fn error(&self, expected: impl Into<String>, found: impl Into<String>) -> Error {
        error(self.file, self.place, expected, found)
    }
}

/// JSON lines; empty ones are passed over.
pub(super) fn lines<'a>(text: &str, file: &'a str) -> Result<Vec<Row<'a>>> {
    let lines = (1..).zip(text.lines());
    let full = lines.filter(|(_, line)| !line.trim().is_empty());
    let row = |(line, text)| {
        let place = Place::Line(line);
        let values = serde_json::from_str(text)
            .map_err(|e| error(file, place, "a JSON object", e.to_string()))?;
        Ok(Row {
            file,
            place,
            values,
        })
    };
    full.map(row).collect()
}

/// A JSON array.
pub(super) fn array<'a>(text: &str, file: &'a str) -> Result<Vec<Row<'a>>> {
    let items: Vec<Value> = serde_json::from_str(text).map_err(|e| {
        let place = Place::Line(e.line() as u64);
        error(file, place, "an array of JSON objects", e.to_string())
    })?;
    let row = |(i, item)| {
        let place = Place::Item(i);
        match item {
            Value::Object(values) => Ok(Row {
                file,
                place,
                values,
            }),
            other => Err(error(
                file,
                place,
                "a JSON object",
                shown(&other.to_string()),
            )),
        }
    };
    (1..).zip(items).map(row).collect()
}

/// Comma-separated values with a header.
pub(super) fn csv<'a>(text: &str, file: &'a str) -> Result<Vec<Row<'a>>> {
    let mut reader = ::csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().map_err(|e| unreadable(file, &e))?.clone();
    let names: Vec<&str> = header.iter().collect();
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            let found = format!("\"{}\" twice", shown(name));
            return Err(error(
                file,
                Place::Line(1),
                "columns of different names",
                found,
            ));
        }
    }
    let row = |record: ::csv::Result<::csv::StringRecord>| {
        let record = record.map_err(|e| unreadable(file, &e))?;
        let fields = names.iter().zip(&record);
        let values = fields.map(|(name, value)| ((*name).to_owned(), value.into()));
        Ok(Row {
            file,
            place: Place::Line(record.position().map_or(0, ::csv::Position::line)),
            values: values.collect(),
        })
    };
    reader.records().map(row).collect()
}

fn unreadable(file: &str, cause: &::csv::Error) -> Error {
    let place = Place::Line(cause.position().map_or(1, ::csv::Position::line));
    match cause.kind() {
        ::csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => error(
            file,
            place,
            format!("{expected_len} fields"),
            len.to_string(),
        ),
        _ => error(file, place, "comma-separated values", cause.to_string()),
    }
}

fn error(file: &str, place: Place, expected: impl Into<String>, found: impl Into<String>) -> Error {
    Error::Entry {
        file: file.to_owned(),
        place: place.to_string(),
        expected: expected.into(),
        found: found.into(),
    }
}

/// The start of a value, for messages.
pub(super) fn shown(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

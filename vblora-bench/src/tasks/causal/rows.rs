//! The rows of a file as objects, each with its position.

use std::{fmt, path::Path};

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

use crate::{
    Error, Result,
    tasks::{
        place::{self, Place},
        table::{Failed, Records},
    },
};

/// The maximum number of characters of a value in a message.
const SHOWN: usize = 60;

/// One row.
#[derive(Debug)]
pub(super) struct Row<'a> {
    file: &'a str,
    /// The position in the file.
    pub(super) place: Place,
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
            None => Err(self.error(format!("a field \"{field}\""), self.names())),
        }
    }

    /// The names of its fields, for messages.
    pub(super) fn names(&self) -> String {
        let mut names: Vec<_> = self.values.keys().map(String::as_str).collect();
        names.sort_unstable();
        shown(&names.join(", "))
    }

    pub(super) fn error(&self, expected: impl Into<String>, found: impl Into<String>) -> Error {
        self.place.error(self.file, expected, found)
    }
}

/// Reads the rows of a file with this ending, in lower case.
pub(super) fn read<'a>(text: &str, ending: &str, file: &'a str) -> Result<Vec<Row<'a>>> {
    match ending {
        "json" => json(text, file),
        "csv" => csv(text, file, usize::MAX),
        _ => lines(text, file),
    }
}

/// Reads the first row. None if there is none.
pub(super) fn first<'a>(text: &str, ending: &str, file: &'a str) -> Result<Option<Row<'a>>> {
    let rows = match ending {
        "json" => json(text, file),
        "csv" => csv(text, file, 1),
        _ => {
            let start = text.len() - text.trim_start().len();
            let end = text[start..].find('\n').map_or(text.len(), |at| start + at);
            lines(&text[..end], file)
        }
    };
    Ok(rows?.into_iter().next())
}

/// Reads JSON lines and skips empty lines.
pub(super) fn lines<'a>(text: &str, file: &'a str) -> Result<Vec<Row<'a>>> {
    let lines = (1..).zip(text.lines());
    let full = lines.filter(|(_, line)| !line.trim().is_empty());
    let row = |(line, text)| {
        let place = Place::Line(line);
        let Once(values) = serde_json::from_str(text)
            .map_err(|e| place.error(file, "a JSON object", place::in_line(&e)))?;
        Ok(Row {
            file,
            place,
            values,
        })
    };
    full.map(row).collect()
}

/// Reads the rows of a `.json` file: an array, alone or inside an object, or JSON lines, which often have this extension.
pub(super) fn json<'a>(text: &str, file: &'a str) -> Result<Vec<Row<'a>>> {
    if !text.trim_start().starts_with('{') {
        return array(text, file);
    }
    let object = match serde_json::from_str::<Once>(text) {
        Ok(Once(object)) => object,
        // The file has several lines, and each of them is a row.
        Err(_) if is_object(text.trim_start().lines().next().unwrap_or_default()) => {
            return lines(text, file);
        }
        Err(e) => return Err(no_rows(file, ARRAY, &e)),
    };
    match object.get(WRAPPER) {
        Some(Value::Array(_)) => {
            let wrapped: Wrapped =
                serde_json::from_str(text).map_err(|e| no_rows(file, ARRAY, &e))?;
            rows(wrapped.data, file)
        }
        _ => {
            let names: Vec<_> = object.keys().map(String::as_str).collect();
            let found = format!("an object with {}", shown(&names.join(", ")));
            Err(Place::Line(1).error(file, ARRAY, found))
        }
    }
}

fn is_object(line: &str) -> bool {
    serde_json::from_str::<Map<String, Value>>(line).is_ok()
}

/// The field of an object that may hold the rows of a file.
const WRAPPER: &str = "data";
/// The expected content of a `.json` file.
const ARRAY: &str = "an array of JSON objects, alone or in the field \"data\", or JSON lines";

/// Rows in an object.
#[derive(Deserialize)]
struct Wrapped {
    data: Vec<Item>,
}

/// An item of the array. An object that is not a row has a field twice.
#[derive(Deserialize)]
#[serde(untagged)]
enum Item {
    Row(Once),
    Other(Value),
}

/// The fields of an object. Each name occurs once.
struct Once(Map<String, Value>);

struct OnceVisitor;

impl<'de> de::Visitor<'de> for OnceVisitor {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: de::MapAccess<'de>>(
        self,
        mut entries: A,
    ) -> std::result::Result<Self::Value, A::Error> {
        let mut values = Map::new();
        while let Some((name, value)) = entries.next_entry::<String, Value>()? {
            if values.contains_key(&name) {
                let name = shown(&name);
                return Err(de::Error::custom(format!("field \"{name}\" twice")));
            }
            values.insert(name, value);
        }
        Ok(values)
    }
}

/// Reads a JSON array.
fn array<'a>(text: &str, file: &'a str) -> Result<Vec<Row<'a>>> {
    let items =
        serde_json::from_str(text).map_err(|e| no_rows(file, "an array of JSON objects", &e))?;
    rows(items, file)
}

fn no_rows(file: &str, expected: &str, cause: &serde_json::Error) -> Error {
    let place = Place::Line(cause.line() as u64);
    place.error(file, expected, cause.to_string())
}

fn rows(items: Vec<Item>, file: &str) -> Result<Vec<Row<'_>>> {
    let row = |(i, item)| {
        let place = Place::Item(i);
        let found = match item {
            Item::Row(Once(values)) => {
                return Ok(Row {
                    file,
                    place,
                    values,
                });
            }
            Item::Other(Value::Object(_)) => "one with a field twice".to_owned(),
            Item::Other(other) => shown(&other.to_string()),
        };
        Err(place.error(file, "a JSON object", found))
    };
    (1..).zip(items).map(row).collect()
}

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(OnceVisitor).map(Self)
    }
}

/// Reads comma-separated values with a header, at most so many rows.
fn csv<'a>(text: &str, file: &'a str, most: usize) -> Result<Vec<Row<'a>>> {
    let failed = |failed| match failed {
        Failed::Quotes(fault) => fault.error(file, |line| line),
        Failed::Record(place, cause) => unreadable(file, place, &cause),
    };
    let records = Records::new(text.as_bytes(), b',');
    let mut records = records.map_err(|e| Error::read(Path::new(file), e))?;
    let header = records.header().map_err(failed)?.clone();
    let names: Vec<&str> = header.iter().collect();
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            let found = format!("\"{}\" twice", shown(name));
            return Err(Place::Line(1).error(file, "columns of different names", found));
        }
    }
    let (mut rows, mut record) = (Vec::new(), ::csv::StringRecord::new());
    while let Some(place) = records.read(&mut record).map_err(failed)? {
        let fields = names.iter().zip(&record);
        let values = fields.map(|(name, value)| ((*name).to_owned(), value.into()));
        rows.push(Row {
            file,
            place,
            values: values.collect(),
        });
        if rows.len() == most {
            return Ok(rows);
        }
    }
    Ok(rows)
}

fn unreadable(file: &str, place: Place, cause: &::csv::Error) -> Error {
    match cause.kind() {
        ::csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => place.error(file, format!("{expected_len} fields"), len.to_string()),
        _ => place.error(file, "comma-separated values", cause.to_string()),
    }
}

/// The start of a value, for messages.
pub(super) fn shown(value: &str) -> String {
    place::shown(value, SHOWN)
}

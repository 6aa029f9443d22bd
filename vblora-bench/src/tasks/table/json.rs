//! JSON lines, and a JSON array of objects.

use std::{
    fmt,
    io::{BufRead, Read},
    path::Path,
};

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

use super::{Place, Row, Sink, cell::Cell, error, in_line, no_column, shown, stream};
use crate::{Error, Result};

/// The maximum number of characters of a line in a message.
const SHOWN: usize = 60;

/// The maximum number of bytes of such a line that are read.
const MOST_BYTES: u64 = 4 * (SHOWN as u64 + 1);

/// Reads JSON lines and skips empty ones.
pub(super) fn lines(path: &Path, columns: &[&str], sink: &mut Sink<'_>) -> Result<()> {
    each_line(stream::text(path)?, 1, path, columns, sink)
}

/// Reads an array of objects, or JSON lines.
pub(super) fn read(path: &Path, columns: &[&str], sink: &mut Sink<'_>) -> Result<()> {
    let mut text = stream::text(path)?;
    let mut line = 1;
    loop {
        let bytes = text.fill_buf().map_err(|e| Error::read(path, e))?;
        match bytes.first() {
            Some(byte) if byte.is_ascii_whitespace() => {
                line += u64::from(*byte == b'\n');
                text.consume(1);
            }
            Some(b'[') => return array(text, path, line, columns, sink),
            Some(b'{') => return each_line(text, line, path, columns, sink),
            Some(_) => {
                let mut start = Vec::new();
                let read = text.take(MOST_BYTES).read_until(b'\n', &mut start);
                read.map_err(|e| Error::read(path, e))?;
                let start = String::from_utf8_lossy(&start);
                let expected = "an array of JSON objects, or JSON lines";
                let found = shown(start.trim_end(), SHOWN);
                return Err(error(path, Place::Line(line), expected, found));
            }
            None => {
                let file = path.display().to_string();
                return Err(Error::EmptySplit { file });
            }
        }
    }
}

fn each_line(
    mut text: impl BufRead,
    first: u64,
    path: &Path,
    columns: &[&str],
    sink: &mut Sink<'_>,
) -> Result<()> {
    let mut line = Vec::new();
    for number in first.. {
        line.clear();
        let count = text.read_until(b'\n', &mut line);
        if count.map_err(|e| Error::read(path, e))? == 0 {
            break;
        }
        let trimmed = line.trim_ascii();
        if trimmed.is_empty() {
            continue;
        }
        let place = Place::Line(number);
        let mut parser = serde_json::Deserializer::from_slice(line.trim_ascii_end());
        let object = Object { columns }.deserialize(&mut parser);
        let object = object.and_then(|object| parser.end().map(|()| object));
        let object = object.map_err(|e| {
            let found = format!(
                "{}: {}",
                in_line(&e),
                shown(&String::from_utf8_lossy(trimmed), SHOWN)
            );
            error(path, place, "a JSON object", found)
        })?;
        sink(object.row(path, place, columns)?)?;
    }
    Ok(())
}

fn array(
    text: impl Read,
    path: &Path,
    line: u64,
    columns: &[&str],
    sink: &mut Sink<'_>,
) -> Result<()> {
    let mut parser = serde_json::Deserializer::from_reader(text);
    let mut failed = None;
    let items = Items {
        path,
        columns,
        sink,
        failed: &mut failed,
    };
    let read = items.deserialize(&mut parser).and_then(|()| parser.end());
    match (failed, read) {
        (Some(failed), _) => Err(failed),
        (None, Err(cause)) => {
            let place = Place::Line(line + cause.line() as u64 - 1);
            Err(error(
                path,
                place,
                "an array of JSON objects",
                in_line(&cause),
            ))
        }
        (None, Ok(())) => Ok(()),
    }
}

/// The items of an array, each of which goes to the sink.
struct Items<'a, 'b> {
    path: &'a Path,
    columns: &'a [&'a str],
    sink: &'a mut Sink<'b>,
    /// The sink's error, which is no error of JSON.
    failed: &'a mut Option<Error>,
}

impl<'de> DeserializeSeed<'de> for Items<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<(), A::Error> {
        let columns = self.columns;
        let mut number = 0;
        while let Some(object) = items.next_element_seed(Object { columns })? {
            number += 1;
            let row = object.row(self.path, Place::Item(number), columns);
            if let Err(failed) = row.and_then(&mut *self.sink) {
                *self.failed = Some(failed);
                return Err(de::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}

/// An object, of which some fields are wanted.
#[derive(Clone, Copy)]
struct Object<'a> {
    columns: &'a [&'a str],
}

/// The wanted fields of an object, and the names of the others.
struct Fields {
    cells: Vec<Option<Cell>>,
    others: Vec<String>,
}

impl Fields {
    fn row(self, path: &Path, place: Place, columns: &[&str]) -> Result<Row> {
        if let Some(at) = self.cells.iter().position(Option::is_none) {
            let present = columns
                .iter()
                .zip(&self.cells)
                .filter(|(_, cell)| cell.is_some());
            let present = present.map(|(column, _)| (*column).to_owned());
            let names: Vec<String> = present.chain(self.others).collect();
            let missing = no_column(path, columns[at], &names);
            return Err(match place {
                Place::Line(1) | Place::Item(1) => missing,
                Place::Line(_) | Place::Item(_) | Place::Row(_) => error(
                    path,
                    place,
                    format!("a field {:?}", columns[at]),
                    shown(&names.join(", "), SHOWN),
                ),
            });
        }
        let cells = self.cells.into_iter().flatten().collect();
        Ok(Row { place, cells })
    }
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = Fields;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<Fields, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Fields, A::Error> {
        let mut cells = vec![None; self.columns.len()];
        let mut others = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            match self.columns.iter().position(|column| *column == name) {
                Some(at) if cells[at].is_some() => {
                    return Err(de::Error::custom(format!("field {name:?} twice")));
                }
                Some(at) => cells[at] = Some(cell(map.next_value()?)),
                None => {
                    map.next_value::<IgnoredAny>()?;
                    others.push(name);
                }
            }
        }
        // One column may be asked for twice.
        for at in 1..cells.len() {
            let first = self
                .columns
                .iter()
                .position(|column| *column == self.columns[at]);
            if let Some(first) = first.filter(|first| *first < at) {
                cells[at] = cells[first].clone();
            }
        }
        Ok(Fields { cells, others })
    }
}

fn cell(value: Value) -> Cell {
    match value {
        Value::Null => Cell::Missing,
        Value::Bool(value) => Cell::Bool(value),
        Value::Number(number) => numeric(&number),
        Value::String(text) => Cell::Text(text),
        Value::Array(items) => Cell::List(items.into_iter().map(cell).collect()),
        Value::Object(_) => Cell::Other("an object"),
    }
}

fn numeric(number: &Number) -> Cell {
    match number.as_i128() {
        Some(whole) => Cell::Integer(whole),
        None => {
            let value = number.as_f64().unwrap_or(f64::NAN);
            match is_rounded(value) {
                true => Cell::Rounded(value),
                false => Cell::Float(value),
            }
        }
    }
}

/// Returns true if the JSON number may be a whole one that does not fit 64 bits. The parser has rounded it, and its digits are lost.
pub(in crate::tasks) fn is_rounded(number: f64) -> bool {
    // As floats the two are 2^64 and -2^63. The parser keeps whole numbers between them.
    number >= u64::MAX as f64 || number <= i64::MIN as f64
}

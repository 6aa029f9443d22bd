//! Comma-separated and tab-separated values with a header.

use std::{io::BufRead as _, path::Path};

use csv::{ErrorKind, ReaderBuilder, StringRecord};

use super::{Place, Row, Sink, cell::Cell, error, positions, stream};
use crate::{Error, Result};

pub(super) fn read(
    path: &Path,
    delimiter: u8,
    columns: &[&str],
    sink: &mut Sink<'_>,
) -> Result<()> {
    let mut text = stream::text(path)?;
    let start = text.fill_buf().map_err(|e| Error::read(path, e))?;
    let shift = lag(start);
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .from_reader(Last::new(text));
    let header = reader.headers().map_err(|e| unreadable(path, e))?;
    let names: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
    if names.iter().all(String::is_empty) {
        let file = path.display().to_string();
        return Err(Error::EmptySplit { file });
    }
    let positions = positions(path, columns, &names)?;
    let mut record = StringRecord::new();
    let mut end = (Place::Line(1), false);
    while reader
        .read_record(&mut record)
        .map_err(|e| unreadable(path, e))?
    {
        let place = Place::Line(record.position().map_or(0, csv::Position::line) + shift);
        let has_break = record
            .iter()
            .next_back()
            .is_some_and(|field| field.contains('\n'));
        end = (place, has_break);
        let cells = positions
            .iter()
            .map(|&at| Cell::Text(record[at].to_owned()));
        let cells = cells.collect();
        sink(Row { place, cells })?;
    }
    // The reader takes the end of the file as the end of a quoted field. A field that is quoted ends with a quote.
    let (place, has_break) = end;
    match has_break && reader.get_ref().last != Some(b'"') {
        true => Err(error(
            path,
            place,
            "a quote at the end of the quoted field",
            "the end of the file",
        )),
        false => Ok(()),
    }
}

/// The lines by which the reader's count lags: it ends a record at CR, and counts the LF after it with the next record.
fn lag(start: &[u8]) -> u64 {
    let end = start.iter().position(|byte| *byte == b'\n');
    let is_crlf = end.is_some_and(|end| start[..end].ends_with(b"\r"));
    u64::from(is_crlf)
}

/// Remembers the last byte of a text that is no line break.
struct Last<R> {
    inner: R,
    last: Option<u8>,
}

impl<R> Last<R> {
    fn new(inner: R) -> Self {
        Self { inner, last: None }
    }
}

impl<R: std::io::Read> std::io::Read for Last<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let bytes = buffer[..count].iter().rev();
        let last = bytes.copied().find(|byte| !matches!(byte, b'\r' | b'\n'));
        self.last = last.or(self.last);
        Ok(count)
    }
}

fn unreadable(path: &Path, cause: csv::Error) -> Error {
    let place = Place::Line(cause.position().map_or(1, csv::Position::line));
    match cause.into_kind() {
        ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => error(
            path,
            place,
            format!("{expected_len} fields, as many as the header has"),
            len.to_string(),
        ),
        ErrorKind::Utf8 { err, .. } => error(path, place, "UTF-8 text", err.to_string()),
        ErrorKind::Io(cause) => Error::read(path, cause),
        other => error(path, place, "separated values", format!("{other:?}")),
    }
}

//! Comma-separated and tab-separated values with a header.

use std::{
    fmt,
    io::{self, BufRead},
    path::Path,
};

use csv::{ErrorKind, Position, Reader, ReaderBuilder, StringRecord};

use super::{Place, Row, Sink, cell::Cell, error, positions, stream};
use crate::{Error, Result};

pub(super) fn read(
    path: &Path,
    delimiter: u8,
    columns: &[&str],
    sink: &mut Sink<'_>,
) -> Result<()> {
    let failed = |(place, cause)| unreadable(path, place, cause);
    let records = Records::new(stream::text(path)?, delimiter);
    let mut records = records.map_err(|e| Error::read(path, e))?;
    let header = records.header().map_err(failed)?;
    let names: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
    if names.iter().all(String::is_empty) {
        let file = path.display().to_string();
        return Err(Error::EmptySplit { file });
    }
    let positions = positions(path, columns, &names)?;
    let mut record = StringRecord::new();
    while let Some(place) = records.read(&mut record).map_err(failed)? {
        let cells = positions
            .iter()
            .map(|&at| Cell::Text(record[at].to_owned()));
        let cells = cells.collect();
        sink(Row { place, cells })?;
    }
    records.check_end(path.display())
}

/// The records of separated values, with the lines where they begin.
pub(in crate::tasks) struct Records<R> {
    reader: Reader<Last<R>>,
    /// The lines by which the reader's count lags behind a record.
    lag: u64,
    /// The place of the last record, and whether its last field has a line break.
    end: (Place, bool),
}

/// An error of the reader, and its place.
type Failed = (Place, csv::Error);

impl<R: BufRead> Records<R> {
    pub(in crate::tasks) fn new(mut text: R, delimiter: u8) -> io::Result<Self> {
        let lag = lag(text.fill_buf()?);
        let mut builder = ReaderBuilder::new();
        Ok(Self {
            reader: builder.delimiter(delimiter).from_reader(Last::new(text)),
            lag,
            end: (Place::Line(1), false),
        })
    }

    pub(in crate::tasks) fn header(&mut self) -> std::result::Result<&StringRecord, Failed> {
        let failed = |cause: csv::Error| {
            let line = cause.position().map_or(1, Position::line);
            (Place::Line(line), cause)
        };
        self.reader.headers().map_err(failed)
    }

    /// Reads the next record, and returns its place; `None` at the end.
    pub(in crate::tasks) fn read(
        &mut self,
        record: &mut StringRecord,
    ) -> std::result::Result<Option<Place>, Failed> {
        match self.reader.read_record(record) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(cause) => return Err((self.place(cause.position()), cause)),
        }
        let place = self.place(record.position());
        let last = record.iter().next_back();
        self.end = (place, last.is_some_and(|field| field.contains('\n')));
        Ok(Some(place))
    }

    fn place(&self, at: Option<&Position>) -> Place {
        Place::Line(at.map_or(1, Position::line) + self.lag)
    }

    /// Refuses a quoted field that the end of the file ends. The reader takes it as whole, but such a field ends with a quote.
    pub(in crate::tasks) fn check_end(&self, file: impl fmt::Display) -> Result<()> {
        let (place, has_break) = self.end;
        match has_break && self.reader.get_ref().last != Some(b'"') {
            true => Err(place.error(
                file,
                "a quote at the end of the quoted field",
                "the end of the file",
            )),
            false => Ok(()),
        }
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

impl<R: io::Read> io::Read for Last<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let bytes = buffer[..count].iter().rev();
        let last = bytes.copied().find(|byte| !matches!(byte, b'\r' | b'\n'));
        self.last = last.or(self.last);
        Ok(count)
    }
}

fn unreadable(path: &Path, place: Place, cause: csv::Error) -> Error {
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

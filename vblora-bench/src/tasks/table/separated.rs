//! Comma-separated and tab-separated values with a header.

use std::{
    io::{self, BufRead},
    path::Path,
};

use csv::{ErrorKind, Position, Reader, ReaderBuilder, StringRecord};

use super::{
    Place, Row, Sink,
    cell::Cell,
    error, positions,
    quotes::{Fault, Followed},
    stream,
};
use crate::{Error, Result};

pub(super) fn read(
    path: &Path,
    delimiter: u8,
    columns: &[&str],
    sink: &mut Sink<'_>,
) -> Result<()> {
    let failed = |failed| match failed {
        Failed::Quotes(fault) => fault.error(path.display(), |line| line),
        Failed::Record(place, cause) => unreadable(path, place, cause),
    };
    let records = Records::new(stream::text(path)?, delimiter);
    let mut records = records.map_err(|e| Error::read(path, e))?;
    let header = records.header().map_err(failed)?;
    let names: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
    if names.iter().all(String::is_empty) {
        let file = path.display().to_string();
        return Err(Error::EmptySplit { file });
    }
    let positions = positions(path, "line 1", columns, &names)?;
    let mut record = StringRecord::new();
    while let Some(place) = records.read(&mut record).map_err(failed)? {
        let cells = positions
            .iter()
            .map(|&at| Cell::Text(record[at].to_owned()));
        let cells = cells.collect();
        sink(Row { place, cells })?;
    }
    Ok(())
}

/// The records of separated values, with the lines where they begin.
pub(in crate::tasks) struct Records<R> {
    reader: Reader<Followed<R>>,
    /// The lines by which the reader's count lags behind a record.
    lag: u64,
}

/// Why a record cannot be read.
pub(in crate::tasks) enum Failed {
    /// One of its quoted fields does not end as such.
    Quotes(Fault),
    /// Its place, and the reader's error.
    Record(Place, csv::Error),
}

impl<R: BufRead> Records<R> {
    pub(in crate::tasks) fn new(mut text: R, delimiter: u8) -> io::Result<Self> {
        let lag = lag(text.fill_buf()?);
        let mut builder = ReaderBuilder::new();
        let text = Followed::new(text, delimiter);
        Ok(Self {
            reader: builder.delimiter(delimiter).from_reader(text),
            lag,
        })
    }

    pub(in crate::tasks) fn header(&mut self) -> std::result::Result<&StringRecord, Failed> {
        let read = self.reader.headers().map(|_| ());
        self.check_quotes()?;
        let failed = |cause: csv::Error| {
            let line = cause.position().map_or(1, Position::line);
            Failed::Record(Place::Line(line), cause)
        };
        read.map_err(failed)?;
        self.reader.headers().map_err(failed)
    }

    /// Reads the next record, and returns its place; `None` at the end.
    pub(in crate::tasks) fn read(
        &mut self,
        record: &mut StringRecord,
    ) -> std::result::Result<Option<Place>, Failed> {
        let read = self.reader.read_record(record);
        self.check_quotes()?;
        match read {
            Ok(true) => Ok(Some(self.place(record.position()))),
            Ok(false) => Ok(None),
            Err(cause) => Err(Failed::Record(self.place(cause.position()), cause)),
        }
    }

    fn place(&self, at: Option<&Position>) -> Place {
        Place::Line(at.map_or(1, Position::line) + self.lag)
    }

    /// Refuses the record that was read if a quoted field of it does not end as such.
    fn check_quotes(&mut self) -> std::result::Result<(), Failed> {
        let end = self.reader.position().byte();
        let fault = self.reader.get_mut().take_fault(end);
        fault.map_or(Ok(()), |fault| Err(Failed::Quotes(fault)))
    }
}

/// The lines by which the reader's count lags: it ends a record at CR, and counts the LF after it with the next record.
fn lag(start: &[u8]) -> u64 {
    let end = start.iter().position(|byte| *byte == b'\n');
    let is_crlf = end.is_some_and(|end| start[..end].ends_with(b"\r"));
    u64::from(is_crlf)
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

//! Quoted fields that do not end as quoted fields end. The csv crate takes them as they are, with the rows that they swallow.

use std::{fmt, io};

use crate::{Error, tasks::place::Place};

/// Follows the quotes of separated values byte by byte, as the csv crate reads them.
#[derive(Debug)]
pub(crate) struct Quotes {
    delimiter: u8,
    state: State,
    /// The bytes so far, and the last one.
    count: u64,
    last: u8,
    /// The line of the next byte.
    line: u64,
    /// Where the last quoted field opens.
    opening: Opening,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// At the start of a field.
    Start,
    /// In a field without quotes. A quote is a character as others.
    Plain,
    /// In a quoted field.
    Quoted,
    /// After a quote in a quoted field, which ends the field or is the first of two.
    Closed,
}

#[derive(Debug, Clone, Copy)]
struct Opening {
    byte: u64,
    line: u64,
}

/// A quoted field that does not end with a quote, or goes on after it.
#[derive(Debug)]
pub(crate) struct Fault {
    opening: Opening,
    /// The line with text after the closing quote; `None` at the end of the file.
    text: Option<u64>,
}

impl Quotes {
    pub(crate) fn new(delimiter: u8) -> Self {
        Self {
            delimiter,
            state: State::Start,
            count: 0,
            last: 0,
            line: 1,
            opening: Opening { byte: 0, line: 1 },
        }
    }

    /// Takes the next byte. A fault is text after a closing quote; the field then goes on as one without quotes.
    pub(crate) fn step(&mut self, byte: u8) -> Option<Fault> {
        let is_end = byte == self.delimiter || matches!(byte, b'\r' | b'\n');
        let (state, text) = match self.state {
            State::Quoted if byte == b'"' => (State::Closed, None),
            State::Quoted => (State::Quoted, None),
            State::Start if byte == b'"' => {
                (self.opening.byte, self.opening.line) = (self.count, self.line);
                (State::Quoted, None)
            }
            State::Closed if byte == b'"' => (State::Quoted, None),
            State::Start | State::Plain | State::Closed if is_end => (State::Start, None),
            State::Start | State::Plain => (State::Plain, None),
            State::Closed => (State::Plain, Some(self.line)),
        };
        // CR and LF end one line.
        let ends_line = byte == b'\r' || byte == b'\n' && self.last != b'\r';
        self.line += u64::from(ends_line);
        self.count += 1;
        (self.state, self.last) = (state, byte);
        text.map(|line| self.fault(Some(line)))
    }

    /// The fault of a quoted field that the end of the file ends.
    pub(crate) fn end(&self) -> Option<Fault> {
        matches!(self.state, State::Quoted).then(|| self.fault(None))
    }

    fn fault(&self, text: Option<u64>) -> Fault {
        let opening = self.opening;
        Fault { opening, text }
    }
}

impl Fault {
    /// Returns true if the field has several lines.
    pub(crate) fn has_lines(&self) -> bool {
        self.text != Some(self.opening.line)
    }

    /// The error of the fault. `line` is the file's line of a line here.
    pub(crate) fn error(&self, file: impl fmt::Display, line: impl Fn(u64) -> u64) -> Error {
        let opening = line(self.opening.line);
        let (expected, found) = match self.text.map(line) {
            None => (
                "a quote at the end of the quoted field",
                "the end of the file".into(),
            ),
            Some(text) if text == opening => (QUOTED, "text after that quote".into()),
            Some(text) => (QUOTED, format!("text after that quote in line {text}")),
        };
        Place::Line(opening).error(file, expected, found)
    }
}

const QUOTED: &str = "a quoted field that ends with its closing quote";

/// A text whose quotes are followed as it is read.
pub(super) struct Followed<R> {
    inner: R,
    quotes: Quotes,
    fault: Option<Fault>,
}

impl<R> Followed<R> {
    pub(super) fn new(inner: R, delimiter: u8) -> Self {
        Self {
            inner,
            quotes: Quotes::new(delimiter),
            fault: None,
        }
    }

    /// The first fault, if its field opens before this byte.
    pub(super) fn take_fault(&mut self, before: u64) -> Option<Fault> {
        self.fault.take_if(|fault| fault.opening.byte < before)
    }
}

impl<R: io::Read> io::Read for Followed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if self.fault.is_none() {
            self.fault = match count {
                0 => self.quotes.end(),
                _ => buffer[..count]
                    .iter()
                    .find_map(|byte| self.quotes.step(*byte)),
            };
        }
        Ok(count)
    }
}

//! The lines of a file as Python's `codecs.open` gives them.

use std::path::Path;

use vblora::storage::read_input;

use crate::{Error, Result, limits::MAX_DATA_BYTES, metrics::text::is_blank};

/// A line without its end and without white space at both ends.
#[derive(Debug)]
pub(super) struct Line {
    /// Its number, from 1.
    pub(super) number: usize,
    pub(super) text: String,
}

/// The lines of a file, of which at least one is not empty.
///
/// # Errors
/// The file cannot be read, is not UTF-8, or has no text.
pub(super) fn read_lines(path: &Path) -> Result<Vec<Line>> {
    let bytes = read_input(path, MAX_DATA_BYTES).map_err(|cause| Error::read(path, cause))?;
    let wrong = |line: usize, expected: &str, found: String| Error::Entry {
        file: path.display().to_string(),
        place: format!("line {line}"),
        expected: expected.to_owned(),
        found,
    };
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let at = error.valid_up_to();
        let line = 1 + bytes[..at].iter().filter(|&&byte| byte == b'\n').count();
        wrong(line, "UTF-8 text", format!("byte 0x{:02x}", bytes[at]))
    })?;
    let lines: Vec<_> = (1..)
        .zip(split(text))
        .map(|(number, line)| Line {
            number,
            text: line.trim_matches(is_blank).to_owned(),
        })
        .collect();
    if lines.iter().all(|line| line.text.is_empty()) {
        return Err(wrong(1, "text", "an empty file".to_owned()));
    }
    Ok(lines)
}

/// Splits a text like `str.splitlines`. The end of the last line starts no other.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some((at, end)) = rest.char_indices().find(|&(_, c)| is_end(c)) else {
            return Some(std::mem::take(&mut rest));
        };
        let line = &rest[..at];
        rest = &rest[at + end.len_utf8()..];
        if end == '\r' {
            rest = rest.strip_prefix('\n').unwrap_or(rest);
        }
        Some(line)
    })
}

fn is_end(c: char) -> bool {
    matches!(
        c,
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

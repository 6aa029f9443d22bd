//! Tables of meaning representations and texts.

use std::path::Path;

use super::lines::{Line, read_lines};
use crate::{
    Error, Result,
    tasks::table::{Fault, Quotes},
};

/// A row of a table.
#[derive(Debug)]
pub(super) struct Row {
    /// The line in which it starts, from 1.
    pub(super) number: usize,
    /// The meaning representation.
    pub(super) source: String,
    pub(super) text: String,
}

/// The names of the column with texts: the starts by which e2e-metrics knows it, and the name to show.
pub(super) struct TextColumn {
    starts: &'static [&'static str],
    shown: &'static str,
}

pub(super) const REFERENCES: TextColumn = TextColumn {
    starts: &["trg", "tgt", "target", "ref", "human"],
    shown: "ref",
};

pub(super) const OUTPUTS: TextColumn = TextColumn {
    starts: &["out", "ref", "sys"],
    shown: "output",
};

/// The starts of the names of the column with meaning representations.
const SOURCES: [&str; 12] = [
    "mr",
    "src",
    "source",
    "meaning",
    "da",
    "dial_act",
    "dial.act",
    "dial-act",
    "dial act",
    "dialogue_act",
    "dialogue.act",
    "dialogue-act",
];

/// Wrongly decoded characters that occur in published E2E files, and the right ones.
const MENDED: [(&str, &str); 4] = [("Ł", "£"), ("Â£", "£"), ("Ã©", "é"), ("ã©", "é")];

/// Reads the rows of a table. Columns are separated by tabs if the first line has one, or else by commas. Fields may be quoted. A table of
/// two columns needs no header.
///
/// # Errors
/// The file cannot be read, is not UTF-8, or has no row. There is not exactly one column of each kind. A row has another number of columns
/// than the first one. A quoted field takes other rows in.
pub(super) fn read_table(path: &Path, column: &TextColumn) -> Result<Vec<Row>> {
    let file = path.display().to_string();
    let wrong = |line: usize, expected: String, found: String| Error::Entry {
        file: file.clone(),
        place: format!("line {line}"),
        expected,
        found,
    };
    let records = records(&mended(read_lines(path)?), &file)?;
    let (first_line, first) = &records[0];
    let (places, has_header) = places(first, column).ok_or_else(|| {
        let expected = format!("one column mr and one column {}", column.shown);
        wrong(
            *first_line,
            expected,
            format!("columns {}", first.join(", ")),
        )
    })?;
    let rows = &records[usize::from(has_header)..];
    if rows.is_empty() {
        return Err(wrong(
            *first_line,
            "rows".to_owned(),
            "only a header".to_owned(),
        ));
    }
    let row = |(number, fields): &(usize, Vec<String>)| {
        if fields.len() != first.len() {
            let expected = format!("{} columns as in line {first_line}", first.len());
            return Err(wrong(*number, expected, fields.len().to_string()));
        }
        let [source, text] = places.map(|place| fields[place].clone());
        Ok(Row {
            number: *number,
            source,
            text,
        })
    };
    rows.iter().map(row).collect()
}

/// The lines that are not empty, with their characters mended.
fn mended(mut lines: Vec<Line>) -> Vec<Line> {
    if let Some(first) = lines.first_mut() {
        first.text = first.text.replace('\u{feff}', "");
    }
    for line in &mut lines {
        for (wrong, right) in MENDED {
            if line.text.contains(wrong) {
                line.text = line.text.replace(wrong, right);
            }
        }
    }
    lines.retain(|line| !line.text.is_empty());
    lines
}

/// The fields of each record, with the line in which it starts.
fn records(lines: &[Line], file: &str) -> Result<Vec<(usize, Vec<String>)>> {
    let has_tabs = lines.first().is_some_and(|line| line.text.contains('\t'));
    let texts: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
    let text = texts.join("\n");
    let delimiter = if has_tabs { b'\t' } else { b',' };
    let number = |at: u64| {
        let line = lines.get((at as usize).saturating_sub(1));
        line.map_or(at, |line| line.number as u64)
    };
    check_quotes(text.as_bytes(), delimiter, file, number)?;
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .from_reader(text.as_bytes());
    let mut records = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| Error::Entry {
            file: file.to_owned(),
            place: "a row".to_owned(),
            expected: "quoted fields".to_owned(),
            found: error.to_string(),
        })?;
        let at = record.position().map_or(1, csv::Position::line);
        // A quoted field goes on in the next line without anything between, as in the reference program.
        let fields = record.iter().map(|field| field.replace('\n', ""));
        records.push((number(at) as usize, fields.collect()));
    }
    if records.is_empty() {
        return Err(Error::EmptySplit {
            file: file.to_owned(),
        });
    }
    Ok(records)
}

/// Refuses a quoted field that the end of the file ends, and one of several lines that goes on after a quote. Both take other rows in.
/// Within one line the reference program takes text after a quote as part of the field.
fn check_quotes(text: &[u8], delimiter: u8, file: &str, line: impl Fn(u64) -> u64) -> Result<()> {
    let mut quotes = Quotes::new(delimiter);
    let mut faults = text.iter().filter_map(|byte| quotes.step(*byte));
    let fault = faults.find(Fault::has_lines).or_else(|| quotes.end());
    fault.map_or(Ok(()), |fault| Err(fault.error(file, line)))
}

/// The columns of meaning representations and texts, and whether the first record is a header.
fn places(first: &[String], column: &TextColumn) -> Option<([usize; 2], bool)> {
    let matching = |starts: &[&str]| -> Vec<usize> {
        let is_one = |name: &str| starts.iter().any(|start| name.starts_with(start));
        let names = first.iter().map(|name| name.to_lowercase()).enumerate();
        names
            .filter(|(_, name)| is_one(name))
            .map(|(at, _)| at)
            .collect()
    };
    match (&matching(&SOURCES)[..], &matching(column.starts)[..]) {
        (&[source], &[text]) => Some(([source, text], true)),
        ([], []) if first.len() == 2 => Some(([0, 1], false)),
        _ => None,
    }
}

//! The texts to predict, and their labels where a file has them.

use std::{borrow::Cow, path::Path};

use crate::{
    Result,
    tasks::{
        Columns, Label, Task,
        own::Reader,
        read_sentences, read_split_file,
        table::{Format, Table},
    },
};

/// Rows of texts in the order of their file.
#[derive(Debug, Default)]
pub struct Rows {
    texts: Vec<(String, Option<String>)>,
    /// The number of texts that are empty.
    pub empty: usize,
}

impl Rows {
    /// Reads the texts of a file in the form of a GLUE task, whose TSV has no quotes. Labels may be missing, as in a test split.
    ///
    /// # Errors
    /// The file cannot be read or lacks a column; a row has another number of fields. The error names file and row.
    pub fn of_glue(file: &Path, task: &Task) -> Result<Self> {
        let mut rows = Self::default();
        for (first, second) in read_sentences(stream(file), task)? {
            rows.add(first, second);
        }
        Ok(rows)
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Returns true if there are no rows.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The texts.
    pub fn texts(&self) -> Vec<super::Text<'_>> {
        let texts = self.texts.iter();
        texts
            .map(|(first, second)| (first.as_str(), second.as_deref()))
            .collect()
    }

    fn add_cells(&mut self, texts: Vec<Cow<'_, str>>) {
        let mut texts = texts.into_iter().map(Cow::into_owned);
        self.add(texts.next().unwrap_or_default(), texts.next());
    }

    fn add(&mut self, first: String, second: Option<String>) {
        let is_empty = |text: &String| text.trim().is_empty();
        self.empty += usize::from(is_empty(&first) || second.as_ref().is_some_and(is_empty));
        self.texts.push((first, second));
    }
}

/// A table by the extension of its file; standard input (`-`) in this format.
///
/// # Errors
/// The extension is unknown.
pub fn open(data: &Path, stdin: Format) -> Result<Table> {
    match data == Path::new(STDIN) {
        true => Ok(Table::with_format(Path::new(STREAM), stdin)),
        false => Table::open(data),
    }
}

/// The name of standard input on a command line, and in the file system.
const STDIN: &str = "-";
const STREAM: &str = "/dev/stdin";

/// The file, or standard input's name in the file system.
fn stream(file: &Path) -> &Path {
    match file == Path::new(STDIN) {
        true => Path::new(STREAM),
        false => file,
    }
}

/// Reads texts. A missing text is an empty one.
///
/// # Errors
/// The file cannot be read, or lacks a column; a text is a list or another value that is no text. The error names file and row.
pub fn read(table: &Table, text: &str, pair: Option<&str>) -> Result<Rows> {
    let columns: Vec<&str> = std::iter::once(text).chain(pair).collect();
    let mut rows = Rows::default();
    table.read(&columns, &mut |row| {
        let texts = row.cells.iter().map(|cell| table.text(row.place, cell));
        rows.add_cells(texts.collect::<Result<_>>()?);
        Ok(())
    })?;
    Ok(rows)
}

/// Reads texts and labels of a task with named columns.
///
/// # Errors
/// As [`read`]; a label is missing, or none of the task's.
pub fn read_labelled(table: &Table, task: &Task) -> Result<(Rows, Vec<Label>)> {
    let (columns, target) = task.named()?;
    let Columns {
        first,
        second,
        label,
    } = columns;
    let reader = Reader::new(target);
    let names = [first.as_str()].into_iter().chain(second.as_deref());
    let names: Vec<&str> = names.chain([label.as_str()]).collect();
    let (mut rows, mut labels) = (Rows::default(), Vec::new());
    table.read(&names, &mut |row| {
        let (texts, label) = reader.row(table, &row)?;
        labels.push(label);
        rows.add_cells(texts);
        Ok(())
    })?;
    Ok((rows, labels))
}

/// Reads a split in the form of a GLUE task, whose TSV has no quotes.
///
/// # Errors
/// As [`read_split_file`].
pub fn read_glue(file: &Path, task: &Task) -> Result<(Rows, Vec<Label>)> {
    let split = read_split_file(stream(file), task)?;
    let (mut rows, mut labels) = (Rows::default(), Vec::new());
    for example in split.examples {
        rows.add(example.a, example.b);
        labels.push(example.label);
    }
    Ok((rows, labels))
}

//! The labels that a training column has.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::label::{Labelling, class, is_null, number, set};
use crate::tasks::{
    Target, Written,
    table::{Cell, Place, Table},
};
use crate::{Error, Result};

/// The maximum number of classes. A column with more is text or numbers.
const MAX_CLASSES: usize = 1 << 14;

/// The maximum number of names in a message.
const SHOWN: usize = 20;

/// The most that rounding to single precision may change a number, as a share of the range of all numbers.
const MAX_ROUNDING: f64 = 1e-3;

/// The user's choices about labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The column.
    pub column: String,
    /// The columns of the texts, which must be there too.
    pub texts: Vec<String>,
    /// The kind of labels.
    pub labelling: Labelling,
    /// The classes in the order of their ids, if the user lists them.
    pub names: Option<Vec<String>>,
}

/// Reads the label column of the training files and makes the target of it.
///
/// Names are sorted by their characters, as Python sorts strings. If all of them are numbers, they are in numeric order.
///
/// # Errors
/// A file cannot be read or lacks the column. A row has no label, one that the user did not list, or one that differs from another by blanks
/// at its ends. All rows have the same label, or numbers that single precision does not tell apart.
pub fn scan(files: &[PathBuf], given: &Given) -> Result<Target> {
    let mut found = Found::default();
    let texts = given.texts.iter().map(String::as_str);
    let columns: Vec<&str> = std::iter::once(given.column.as_str())
        .chain(texts)
        .collect();
    for file in files {
        let table = Table::open(file)?;
        table.read(&columns, &mut |row| {
            found.rows += 1;
            let (place, cell) = (row.place, &row.cells[0]);
            match &given.labelling {
                Labelling::Class => {
                    let name = class(&table, place, cell)?;
                    found.compare_spelling(&table, place, cell, &name)?;
                    found.add(&table, place, name, given)
                }
                Labelling::Set { separator } => {
                    let names = set(&table, place, cell, separator.as_deref())?;
                    if let Cell::List(items) = cell {
                        let mut pairs = items.iter().zip(&names);
                        pairs.try_for_each(|(item, name)| {
                            found.compare_spelling(&table, place, item, name)
                        })?;
                    }
                    found.compare(&names);
                    let mut names = names.into_iter();
                    names.try_for_each(|name| found.add(&table, place, name, given))
                }
                Labelling::Number => {
                    found.measure(&table, place, number(&table, place, cell)?);
                    Ok(())
                }
            }
        })?;
    }
    match found.rows {
        0 => Err(Error::EmptySplit {
            file: files[0].display().to_string(),
        }),
        _ => found.target(&files[0], given),
    }
}

/// The target of any numbers.
const NUMBER: Target = Target::Number {
    lowest: f32::MIN,
    highest: f32::MAX,
};

/// The numbers of a column.
struct Range {
    lowest: f64,
    highest: f64,
    /// The most that rounding to single precision changes one of them, and the error that this may be.
    rounding: (f64, Option<Error>),
}

impl Range {
    /// The target of these numbers, which training has in single precision.
    fn target(self) -> Result<Target> {
        let (most, error) = self.rounding;
        let is_coarse = most > MAX_ROUNDING * (self.highest - self.lowest);
        match error.filter(|_| is_coarse) {
            Some(error) => Err(error),
            None => Ok(NUMBER),
        }
    }
}

/// The labels that were found in a column.
#[derive(Default)]
struct Found {
    rows: usize,
    /// The number of rows by class name.
    counts: BTreeMap<String, usize>,
    /// The text that stands for each class in the files, with the blanks at its ends.
    spellings: HashMap<String, String>,
    /// The first set of names, sorted, and whether every row has it.
    set: Option<(Vec<String>, bool)>,
    range: Option<Range>,
}

impl Found {
    /// The target of these labels, of which two differ.
    fn target(self, file: &Path, given: &Given) -> Result<Target> {
        let constant = |what: String| {
            let found = match self.rows {
                1 => format!("{what} in the only row"),
                rows => format!("{what} in all {rows} rows"),
            };
            Error::Entry {
                file: file.display().to_string(),
                place: format!("column {:?}", given.column),
                expected: "at least two different labels".into(),
                found,
            }
        };
        match &given.labelling {
            Labelling::Class => {
                if let [only] = &*self.sorted() {
                    return Err(constant(format!("{only:?}")));
                }
                Ok(Target::Classes {
                    names: self.names(given),
                    written: Written::Name,
                })
            }
            Labelling::Set { separator } => match &self.set {
                Some((set, true)) if set.is_empty() => Err(constant("no label".into())),
                Some((set, true)) => Err(constant(quoted(set))),
                Some((_, false)) | None => Ok(Target::Sets {
                    names: self.names(given),
                    separator: separator.clone(),
                }),
            },
            Labelling::Number => match self.range {
                Some(Range {
                    lowest, highest, ..
                }) if lowest == highest => Err(constant(lowest.to_string())),
                Some(range) => range.target(),
                None => Ok(NUMBER),
            },
        }
    }

    fn add(&mut self, table: &Table, place: Place, name: String, given: &Given) -> Result<()> {
        if let Some(count) = self.counts.get_mut(&name) {
            *count += 1;
            return Ok(());
        }
        if given
            .names
            .as_ref()
            .is_some_and(|names| !names.contains(&name))
        {
            let names = given.names.as_deref().unwrap_or_default();
            return Err(table.error(place, listed(names), format!("{name:?}")));
        }
        if given.names.is_none() && is_null(&name) {
            let expected = "a label, or --labels with one of this name";
            return Err(table.error(place, expected, format!("{name:?}")));
        }
        if self.counts.len() == MAX_CLASSES {
            let expected = format!("at most {MAX_CLASSES} labels; numbers need --regression");
            return Err(table.error(place, expected, format!("one more, {name:?}")));
        }
        self.counts.insert(name, 1);
        Ok(())
    }

    /// Refuses two texts for one class. Blanks at their ends are all that they can differ by.
    fn compare_spelling(
        &mut self,
        table: &Table,
        place: Place,
        cell: &Cell,
        name: &str,
    ) -> Result<()> {
        let text = cell.text().unwrap_or_default();
        match self.spellings.get(name) {
            Some(first) if *first == *text => Ok(()),
            Some(first) => {
                let expected = format!("one spelling of the label {name:?}");
                Err(table.error(place, expected, format!("{text:?} after {first:?}")))
            }
            None => {
                self.spellings.insert(name.to_owned(), text.into_owned());
                Ok(())
            }
        }
    }

    /// Notes whether every row has the same set of names. Nothing is left to compare after the first other one.
    fn compare(&mut self, names: &[String]) {
        if matches!(self.set, Some((_, false))) {
            return;
        }
        let mut names = names.to_vec();
        names.sort_unstable();
        names.dedup();
        match &mut self.set {
            None => self.set = Some((names, true)),
            Some((first, is_same)) => *is_same &= *first == names,
        }
    }

    fn measure(&mut self, table: &Table, place: Place, value: f64) {
        let range = self.range.get_or_insert(Range {
            lowest: value,
            highest: value,
            rounding: (0.0, None),
        });
        range.lowest = range.lowest.min(value);
        range.highest = range.highest.max(value);
        let rounded = value as f32;
        let change = (f64::from(rounded) - value).abs();
        if change > range.rounding.0 {
            let expected =
                "numbers that single precision tells apart (subtract their mean, or scale them)";
            let found = format!("{value}, which is {rounded} there");
            range.rounding = (change, Some(table.error(place, expected, found)));
        }
    }

    /// The classes in the order of their ids.
    fn names(&self, given: &Given) -> Vec<String> {
        given.names.clone().unwrap_or_else(|| self.sorted())
    }

    /// The names that occur: numbers in numeric order, other names by their characters.
    fn sorted(&self) -> Vec<String> {
        let mut names: Vec<String> = self.counts.keys().cloned().collect();
        let numbers = names.iter().map(|name| name.parse::<f64>().ok());
        let numbers: Option<Vec<f64>> = numbers.map(|n| n.filter(|n| n.is_finite())).collect();
        if let Some(numbers) = numbers {
            let mut pairs: Vec<(f64, String)> = numbers.into_iter().zip(names).collect();
            // Equal numbers in two spellings keep the order of their characters.
            pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
            names = pairs.into_iter().map(|(_, name)| name).collect();
        }
        names
    }
}

/// The known labels, for messages.
pub(super) fn listed(names: &[String]) -> String {
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" or {more} more"),
    };
    format!("a label of {}{more}", quoted(names))
}

/// The first names, each in quotes.
fn quoted(names: &[String]) -> String {
    let some = names.iter().take(SHOWN).map(|name| format!("{name:?}"));
    some.collect::<Vec<_>>().join(", ")
}

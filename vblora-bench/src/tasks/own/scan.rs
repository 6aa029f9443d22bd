//! The labels that a training column has.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::label::{Labelling, class, number, set};
use crate::tasks::{
    Target, Written,
    table::{Place, Table},
};
use crate::{Error, Result};

/// The maximum number of classes. A column with more is text or numbers.
const MAX_CLASSES: usize = 1 << 14;

/// The maximum number of names in a message.
const SHOWN: usize = 20;

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
/// A file cannot be read or lacks the column; a row has no label, or one that the user did not list; all rows have the same label.
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
                Labelling::Class => found.add(&table, place, class(&table, place, cell)?, given),
                Labelling::Set { separator } => {
                    let names = set(&table, place, cell, separator.as_deref())?;
                    let mut names = names.into_iter();
                    names.try_for_each(|name| found.add(&table, place, name, given))
                }
                Labelling::Number => found.measure(number(&table, place, cell)?),
            }
        })?;
    }
    let place = files[0].display().to_string();
    if found.rows == 0 {
        return Err(Error::EmptySplit { file: place });
    }
    let constant = |what: String| Error::Entry {
        file: place.clone(),
        place: format!("column {:?}", given.column),
        expected: "at least two different labels".into(),
        found: format!("{what} in all {} rows", found.rows),
    };
    match &given.labelling {
        Labelling::Class => {
            if let [only] = &*found.sorted() {
                return Err(constant(format!("{only:?}")));
            }
            Ok(Target::Classes {
                names: found.names(given),
                written: Written::Name,
            })
        }
        Labelling::Set { separator } => match found.counts.is_empty() {
            true => Err(constant("no label".into())),
            false => Ok(Target::Sets {
                names: found.names(given),
                separator: separator.clone(),
            }),
        },
        Labelling::Number => match found.range {
            Some((lowest, highest)) if lowest == highest => Err(constant(lowest.to_string())),
            Some(_) | None => Ok(Target::Number {
                lowest: f32::MIN,
                highest: f32::MAX,
            }),
        },
    }
}

/// The labels that were found in a column.
#[derive(Default)]
struct Found {
    rows: usize,
    /// The number of rows by class name.
    counts: BTreeMap<String, usize>,
    /// The lowest and highest number.
    range: Option<(f32, f32)>,
}

impl Found {
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
        if self.counts.len() == MAX_CLASSES {
            let expected = format!("at most {MAX_CLASSES} labels; numbers need --regression");
            return Err(table.error(place, expected, format!("one more, {name:?}")));
        }
        self.counts.insert(name, 1);
        Ok(())
    }

    fn measure(&mut self, value: f32) -> Result<()> {
        let (lowest, highest) = self.range.unwrap_or((value, value));
        self.range = Some((lowest.min(value), highest.max(value)));
        Ok(())
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
    let some: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let more = match names.len() - some.len() {
        0 => String::new(),
        more => format!(" or {more} more"),
    };
    format!("a label of {}{more}", some.join(", "))
}

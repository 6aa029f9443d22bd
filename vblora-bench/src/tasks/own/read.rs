//! Reads files into a store.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;

use super::{
    label::{class, number, set},
    notes::Oddities,
    scan::listed,
    store::{MAX_ROWS, Store},
};
use crate::tasks::{
    Columns, Label, Target, Written, sets,
    table::{Cell, Place, Row, Table},
};
use crate::{Error, Result, limits::MAX_DATA_BYTES};

/// Reads every row of the files. Texts are kept as they are; a missing text is an empty one.
pub(super) fn read(
    files: &[PathBuf],
    columns: &Columns<String>,
    target: &Target,
) -> Result<(Store, Vec<String>)> {
    let texts = std::iter::once(columns.first.as_str()).chain(columns.second.as_deref());
    let texts: Vec<&str> = texts.collect();
    let all: Vec<&str> = texts
        .iter()
        .copied()
        .chain([columns.label.as_str()])
        .collect();
    let tables: Vec<Table> = files
        .iter()
        .map(|file| Table::open(file))
        .collect::<Result<_>>()?;
    let sizes = tables.iter().map(|table| table.text_bytes(&texts));
    let bytes = sizes.sum::<Result<u64>>()?.min(MAX_DATA_BYTES);
    let mut store = Store::new(target, texts.len() > 1, usize::try_from(bytes).unwrap_or(0));
    let reader = Reader::new(target);
    let mut notes = Vec::new();
    for table in &tables {
        let mut odd = Oddities::default();
        table.read(&all, &mut |row| {
            reader.add(table, &row, &mut store, &mut odd)
        })?;
        notes.extend(odd.notes(&table.path().display().to_string()));
    }
    match store.len() {
        0 => Err(Error::EmptySplit {
            file: files[0].display().to_string(),
        }),
        _ => Ok((store, notes)),
    }
}

/// Reads the rows of a task's files as texts and labels.
#[derive(Debug)]
pub struct Reader<'a> {
    target: &'a Target,
    /// The id of each class, by its name and, if files have it so, by the id's digits.
    ids: HashMap<Cow<'a, str>, usize>,
}

impl<'a> Reader<'a> {
    /// A reader of labels of this kind.
    pub fn new(target: &'a Target) -> Self {
        let by_name = |(id, name): (usize, &'a String)| (Cow::Borrowed(name.as_str()), id);
        let mut ids: HashMap<_, _> = target.classes().iter().enumerate().map(by_name).collect();
        if let Target::Classes {
            names,
            written: Written::Id,
        } = target
        {
            ids.extend((0..names.len()).map(|id| (id.to_string().into(), id)));
        }
        Self { target, ids }
    }

    /// The texts of a row, and the label, which is its last cell. A missing text is an empty one.
    ///
    /// # Errors
    /// A text is a value of another kind; the label is missing, or none of the task's.
    pub fn row<'r>(&self, table: &Table, row: &'r Row) -> Result<(Vec<Cow<'r, str>>, Label)> {
        let Some((label, texts)) = row.cells.split_last() else {
            return Err(table.error(row.place, "a label", "nothing"));
        };
        let label = self.label(table, row.place, label)?;
        let texts = texts.iter().map(|cell| table.text(row.place, cell));
        Ok((texts.collect::<Result<_>>()?, label))
    }

    fn add(&self, table: &Table, row: &Row, store: &mut Store, odd: &mut Oddities) -> Result<()> {
        let (texts, label) = self.row(table, row)?;
        if texts.iter().any(|text| text.trim().is_empty()) {
            odd.add_empty(|| row.place.to_string());
        }
        odd.unlabelled += usize::from(label == Label::Classes(Vec::new()));
        if store.len() == MAX_ROWS {
            return Err(table.error(row.place, format!("at most {MAX_ROWS} rows"), "more"));
        }
        store.push(texts.iter().map(AsRef::as_ref), &label);
        Ok(())
    }

    fn label(&self, table: &Table, place: Place, cell: &Cell) -> Result<Label> {
        match self.target {
            Target::Classes { .. } => {
                let name = class(table, place, cell)?;
                Ok(Label::Class(self.id(table, place, &name)?))
            }
            Target::Sets { separator, .. } => {
                let names = set(table, place, cell, separator.as_deref())?;
                let ids = names.iter().map(|name| self.id(table, place, name));
                Ok(sets::set(ids.collect::<Result<_>>()?))
            }
            Target::Number { lowest, highest } => {
                let value = number(table, place, cell)? as f32;
                match (*lowest..=*highest).contains(&value) {
                    true => Ok(Label::Value(value)),
                    false => {
                        let expected = format!("a number in {lowest}..={highest}");
                        Err(table.error(place, expected, cell.shown()))
                    }
                }
            }
        }
    }

    fn id(&self, table: &Table, place: Place, name: &str) -> Result<usize> {
        let id = self.ids.get(name).copied();
        id.ok_or_else(|| {
            let known = listed(self.target.classes());
            table.error(place, known, format!("{name:?}"))
        })
    }
}

//! Grids and single runs as written in a sweep file: keys with their lines and values.

use serde::Deserialize;
use toml::{
    Spanned, Value,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{
    axis::{check_table_key, one_line},
    spec::line_of,
};
use crate::{Error, Result};

/// A key with the values that it takes one after another.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    /// The key, dotted.
    pub(super) key: String,
    /// The line of the key; 0 for a key from the command line.
    pub(super) line: usize,
    /// The values, at least one.
    pub(super) values: Vec<Value>,
    /// True if it was written as a list. Its value is then part of the runs' names.
    pub(super) is_list: bool,
}

impl Axis {
    pub(super) fn new(key: &str, line: usize, value: Value) -> Self {
        let key = key.into();
        let (values, is_list) = match value {
            Value::Array(values) => (values, true),
            value => (vec![value], false),
        };
        Self {
            key,
            line,
            values,
            is_list,
        }
    }
}

/// A `[[grid]]`, or a `[[run]]` as a grid of one.
#[derive(Debug, Clone)]
pub(super) struct Block {
    /// The line where the block starts.
    pub(super) line: usize,
    /// The start of its runs' names.
    pub(super) name: Option<String>,
    /// The table that its runs belong to.
    pub(super) table: Option<String>,
    /// The axes in the file's order. The first one varies slowest.
    pub(super) axes: Vec<Axis>,
}

/// The text to read.
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// Reads the settings that every run starts from, and the blocks in the file's order.
    ///
    /// # Errors
    /// A list stands in place of a single value; a list is empty; a run has no name; there is no block.
    pub(super) fn read(&self, document: &DeTable<'_>) -> Result<(Vec<Axis>, Vec<Block>)> {
        let mut base = Vec::new();
        if let Some(DeValue::Table(table)) = document.get("base").map(Spanned::get_ref) {
            self.axes(table, "", &mut base)?;
        }
        self.refuse_lists(&base, "[base]")?;
        let mut blocks = Vec::new();
        for kind in ["grid", "run"] {
            if let Some(DeValue::Array(found)) = document.get(kind).map(Spanned::get_ref) {
                for block in found.iter() {
                    blocks.push(self.block(kind, block)?);
                }
            }
        }
        blocks.sort_by_key(|block| block.line);
        if blocks.is_empty() {
            return Err(self.error(1, "no runs, expected at least one [[grid]] or [[run]]"));
        }
        Ok((base, blocks))
    }

    /// Refuses rows and columns of `[tables]` that are no key of any run.
    ///
    /// # Errors
    /// There is no such key; the message has the known names.
    pub(super) fn check_keys_of_tables(&self, document: &DeTable<'_>) -> Result<()> {
        let tables = document.get("tables").map(Spanned::get_ref);
        let tables = tables.and_then(DeValue::as_table).into_iter().flatten();
        for (name, table) in tables {
            for part in ["rows", "columns"] {
                let value = table.get_ref().get(part);
                let keys = match value.map(Spanned::get_ref) {
                    Some(DeValue::Array(keys)) => keys.iter().collect(),
                    _ => value.into_iter().collect::<Vec<_>>(),
                };
                for key in keys {
                    let DeValue::String(text) = key.get_ref() else {
                        continue;
                    };
                    check_table_key(text).map_err(|problem| {
                        let line = line_of(self.text, key.span().start);
                        let name = name.get_ref();
                        self.error(line, format!("[tables.{name}]: {part}: {problem}"))
                    })?;
                }
            }
        }
        Ok(())
    }

    fn block(&self, kind: &str, block: &Spanned<DeValue<'_>>) -> Result<Block> {
        let line = line_of(self.text, block.span().start);
        let table = block.get_ref().as_table();
        let table = table.ok_or_else(|| self.error(line, "expected a table"))?;
        let mut axes = Vec::new();
        self.axes(table, "", &mut axes)?;
        let name = self.take_text(&mut axes, "name")?;
        let table = self.take_text(&mut axes, "table")?;
        if kind == "run" {
            self.refuse_lists(&axes, "[[run]], which is one run; [[grid]] takes lists")?;
            if name.is_none() {
                return Err(self.error(line, "a [[run]] needs a name"));
            }
        }
        Ok(Block {
            line,
            name,
            table,
            axes,
        })
    }

    /// The dotted keys of a table and of its subtables, in the file's order.
    fn axes(&self, table: &DeTable<'_>, prefix: &str, axes: &mut Vec<Axis>) -> Result<()> {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name = format!("{prefix}{}", key.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) => self.axes(inner, &format!("{name}."), axes)?,
                _ => axes.push(self.axis(&name, key.span().start, value)?),
            }
        }
        Ok(())
    }

    fn axis(&self, key: &str, start: usize, value: &Spanned<DeValue<'_>>) -> Result<Axis> {
        let line = line_of(self.text, start);
        let read = ValueDeserializer::parse(&self.text[value.span()]).and_then(Value::deserialize);
        let value = read.map_err(|error| self.error(line, one_line(&error.message())))?;
        let axis = Axis::new(key, line, value);
        match axis.values.is_empty() {
            true => Err(self.error(line, format!("\"{key}\" has no values"))),
            false => Ok(axis),
        }
    }

    fn take_text(&self, axes: &mut Vec<Axis>, key: &str) -> Result<Option<String>> {
        let Some(place) = axes.iter().position(|axis| axis.key == key) else {
            return Ok(None);
        };
        let axis = axes.remove(place);
        match axis.values.as_slice() {
            [Value::String(text)] if !axis.is_list => Ok(Some(text.clone())),
            _ => Err(self.error(axis.line, format!("\"{key}\": expected text"))),
        }
    }

    fn refuse_lists(&self, axes: &[Axis], place: &str) -> Result<()> {
        match axes.iter().find(|axis| axis.is_list) {
            None => Ok(()),
            Some(axis) => {
                let message = format!("\"{}\": expected one value in {place}", axis.key);
                Err(self.error(axis.line, message))
            }
        }
    }

    fn error(&self, line: usize, message: impl Into<String>) -> Error {
        Error::Sweep {
            file: self.file.into(),
            line,
            message: message.into(),
        }
    }
}

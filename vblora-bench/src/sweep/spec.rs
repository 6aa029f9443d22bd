//! A sweep file: settings for every run, grids of axes, and single runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::{Deserialize, Serialize};
use toml::{Table, Value, de::DeTable};
use vblora::storage::read_text;

use super::{
    axis::{EVALUATE, one_line},
    block::{Axis, Block},
    shipped,
};
use crate::{Error, Result, limits::MAX_TEXT_BYTES};

/// The keys whose values name directories or files, beside those of benchmarks.
const PLACES: [&str; 3] = ["model", "data", "held_out"];

/// The layout of a table. Runs with equal `rows` and `columns` keys share a cell and may differ only in their seeds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// The heading.
    pub title: String,
    /// The keys whose values name a row.
    pub rows: Vec<String>,
    /// The key whose values are the columns.
    pub columns: String,
    /// The published table to compare with, by its name in `report/published.toml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paper: Option<String>,
}

/// Limits that end a sweep early.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Maximum number of runs to start.
    pub runs: Option<usize>,
    /// Hours after which no run is started.
    pub hours: Option<f64>,
}

impl Budget {
    /// Refuses limits that are no limits.
    ///
    /// # Errors
    /// The hours are negative or not a number.
    pub fn check(&self) -> Result<()> {
        match self.hours {
            Some(hours) if hours.is_nan() || hours < 0.0 => Err(Error::Setting {
                setting: "hours".into(),
                expected: "a number from 0".into(),
                found: hours.to_string(),
            }),
            _ => Ok(()),
        }
    }
}

/// The parts of a sweep file other than runs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Frame {
    about: String,
    #[serde(default)]
    tables: BTreeMap<String, Layout>,
    #[serde(default)]
    budget: Budget,
    /// [`Block`] reads these with their lines.
    #[serde(default, rename = "base")]
    _base: Table,
    #[serde(default, rename = "grid")]
    _grid: Vec<Table>,
    #[serde(default, rename = "run")]
    _run: Vec<Table>,
}

/// A sweep file, read but not yet expanded.
#[derive(Debug)]
pub struct Spec {
    /// The sweep's name: the file's name without its extension.
    pub name: String,
    /// The sweep's purpose.
    pub about: String,
    /// Its tables by name.
    pub tables: BTreeMap<String, Layout>,
    /// Its limits.
    pub budget: Budget,
    /// The file, for messages.
    pub(super) file: String,
    pub(super) base: Vec<Axis>,
    pub(super) blocks: Vec<Block>,
}

impl Spec {
    /// Finds a built-in sweep by its name, or reads a sweep file.
    ///
    /// # Errors
    /// There is no such sweep or file, with the known names; the file does not parse, with the line and the allowed keys.
    pub fn find(name_or_file: &str) -> Result<Self> {
        if let Some(text) = shipped::text(name_or_file) {
            return Self::parse(name_or_file, &format!("{name_or_file}.toml"), text);
        }
        let path = Path::new(name_or_file);
        if path.extension().is_none() && !path.exists() {
            return Err(Error::UnknownName {
                what: "sweep",
                name: name_or_file.into(),
                expected: format!("{}, or a file", shipped::names()),
            });
        }
        let text = read_text(path, MAX_TEXT_BYTES).map_err(|e| Error::read(path, e))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&name, name_or_file, &text)
    }

    pub(super) fn parse(name: &str, file: &str, text: &str) -> Result<Self> {
        let frame: Frame = toml::from_str(text).map_err(|error| located(file, text, &error))?;
        let document = DeTable::parse(text).map_err(|error| located(file, text, &error))?;
        let source = super::block::Source { file, text };
        source.check_keys_of_tables(document.get_ref())?;
        let (base, blocks) = source.read(document.get_ref())?;
        let spec = Self {
            name: name.into(),
            about: frame.about,
            tables: frame.tables,
            budget: frame.budget,
            file: file.into(),
            base,
            blocks,
        };
        spec.check_tables()?;
        Ok(spec)
    }

    fn check_tables(&self) -> Result<()> {
        for block in &self.blocks {
            let Some(table) = &block.table else { continue };
            if !self.tables.contains_key(table) {
                let names: Vec<_> = self.tables.keys().map(String::as_str).collect();
                let message = format!(
                    "no table \"{table}\", expected one of [tables]: {}",
                    names.join(", ")
                );
                return Err(self.error(block.line, message));
            }
        }
        Ok(())
    }

    /// Sets a key of every run and overrides the file, and returns the key. The form is `KEY=VALUE` with a TOML value; a list is an axis.
    ///
    /// # Errors
    /// The text has no `=`; the list is empty.
    pub fn set(&mut self, assignment: &str) -> Result<String> {
        let error = |expected: &str| Error::Setting {
            setting: "set".into(),
            expected: expected.into(),
            found: assignment.into(),
        };
        let (key, value) = assignment
            .split_once('=')
            .ok_or_else(|| error("KEY=VALUE"))?;
        let parsed = toml::from_str::<Table>(&format!("value = {value}")).ok();
        let value = parsed.and_then(|mut table| table.remove("value"));
        let value = value.unwrap_or_else(|| Value::String(assignment[key.len() + 1..].into()));
        let axis = Axis::new(key.trim(), 0, value);
        if axis.values.is_empty() {
            return Err(error("at least one value"));
        }
        self.base.retain(|known| known.key != axis.key);
        for block in &mut self.blocks {
            block.axes.retain(|known| known.key != axis.key);
        }
        self.base.push(axis);
        Ok(key.trim().to_owned())
    }

    /// The names of models and data that the sweep uses, in order.
    pub fn names(&self) -> BTreeSet<&str> {
        let axes = self
            .base
            .iter()
            .chain(self.blocks.iter().flat_map(|block| &block.axes));
        let is_place = |axis: &&Axis| {
            let is_questions = axis.key.starts_with(EVALUATE)
                && (axis.key.ends_with(".data") || axis.key.ends_with(".java_metrics"));
            is_questions || PLACES.contains(&axis.key.as_str())
        };
        axes.filter(is_place)
            .flat_map(|axis| &axis.values)
            .filter_map(Value::as_str)
            .flat_map(|name| [Some(name), folder(name)])
            .flatten()
            .collect()
    }

    pub(super) fn error(&self, line: usize, message: impl Into<String>) -> Error {
        Error::Sweep {
            file: self.file.clone(),
            line,
            message: message.into(),
        }
    }
}

/// The first part of a file's name, such as `e2e` of `e2e/testset.csv`, which may be placed too. A hub id has no such part.
fn folder(name: &str) -> Option<&str> {
    let (folder, rest) = name.split_once('/')?;
    let is_file = Path::new(rest).extension().is_some();
    let is_name = !folder.is_empty() && !folder.starts_with('.');
    (is_file && is_name).then_some(folder)
}

/// The line, from 1, of a byte of a text.
pub(super) fn line_of(text: &str, byte: usize) -> usize {
    let before = &text.as_bytes()[..byte.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

fn located(file: &str, text: &str, error: &toml::de::Error) -> Error {
    Error::Sweep {
        file: file.into(),
        line: error.span().map_or(1, |span| line_of(text, span.start)),
        message: one_line(&error.message()),
    }
}

//! The paper's values for a table's cells.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{Error, Result, recipes::Size, sweep::Layout};

/// A published table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Published {
    /// A description in one sentence.
    pub(super) about: String,
    /// The built-in recipe with its settings.
    recipe: String,
    rows: Vec<String>,
    columns: String,
    values: Vec<PublishedRow>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct PublishedRow {
    row: Vec<String>,
    stored: Option<String>,
    #[serde(flatten)]
    cells: BTreeMap<String, Vec<f64>>,
}

impl Published {
    /// Finds the published table that a layout names, if it names one.
    ///
    /// # Errors
    /// There is no such table, or it has other rows and columns.
    pub(super) fn find(layout: &Layout) -> Result<Option<Self>> {
        let Some(name) = &layout.paper else {
            return Ok(None);
        };
        let mut tables = all();
        tables.extend(answers());
        let names = tables.keys().cloned().collect::<Vec<_>>().join(", ");
        let table = tables.remove(name).ok_or_else(|| Error::UnknownName {
            what: "published table",
            name: name.clone(),
            expected: names,
        })?;
        if (&table.rows, &table.columns) == (&layout.rows, &layout.columns) {
            return Ok(Some(table));
        }
        Err(Error::Setting {
            setting: format!("paper = \"{name}\""),
            expected: format!("rows {:?} and columns {:?}", table.rows, table.columns),
            found: format!("{:?} and {:?}", layout.rows, layout.columns),
        })
    }

    /// A cell as the paper prints it: `63.3 ±0.7`.
    pub(super) fn cell(&self, row: &[String], column: &str) -> Option<String> {
        let row = self.values.iter().find(|known| known.row == row)?;
        match row.cells.get(column)?.as_slice() {
            [value, deviation] => Some(format!("{value:.1} ±{deviation:.1}")),
            [value] => Some(format!("{value:.1}")),
            _ => None,
        }
    }

    /// A row's stored size, as the paper prints it.
    pub(super) fn stored(&self, row: &[String]) -> Option<&str> {
        let row = self.values.iter().find(|known| known.row == row)?;
        row.stored.as_deref()
    }

    /// A score of generated answers, as the paper prints it.
    pub(super) fn score(&self, row: &[String], name: &str) -> Option<String> {
        let row = self.values.iter().find(|known| known.row == row)?;
        Some(row.cells.get(name)?.first()?.to_string())
    }

    /// The names of scores of generated answers. A name has a full stop, which no value of a column key here has.
    pub(super) fn scores(&self) -> impl Iterator<Item = String> {
        let names = self.values.iter().flat_map(|row| row.cells.keys());
        names.filter(|name| name.contains('.')).cloned()
    }

    /// The built-in recipe with the table's settings.
    pub(super) fn size(&self) -> Size {
        let is_it = |size: &Size| size.name().trim_end_matches(".toml") == self.recipe;
        Size::ALL.into_iter().find(is_it).unwrap_or(Size::Base)
    }
}

fn all() -> BTreeMap<String, Published> {
    toml::from_str(include_str!("published.toml")).expect("a test reads the bundled tables")
}

/// The tables of generated answers.
fn answers() -> BTreeMap<String, Published> {
    toml::from_str(include_str!("published_answers.toml")).expect("a test reads the bundled tables")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(paper: &str, rows: &[&str], columns: &str) -> Layout {
        Layout {
            title: "T".into(),
            rows: rows.iter().map(|row| (*row).to_owned()).collect(),
            columns: columns.into(),
            paper: Some(paper.into()),
        }
    }

    #[test]
    fn every_cell_is_a_score_and_averages_are_the_papers() {
        let tables = all();
        for table in tables.values() {
            for row in &table.values {
                assert_eq!(row.row.len(), table.rows.len());
                let all = row.cells.values();
                assert!(all.clone().all(|cell| (40.0..100.0).contains(&cell[0])));
                assert!(all.clone().all(|cell| cell.len() == 1 || cell[1] < 3.0));
            }
        }
        // The last column of Table 1. The paper does not round it consistently.
        for (name, averages) in [
            (
                "table1-base",
                &[85.2, 86.6, 85.2, 83.8, 85.4, 85.5, 84.5, 85.7][..],
            ),
            ("table1-large", &[87.8, 87.8, 85.9, 88.2, 88.1, 86.6, 88.5]),
        ] {
            for (row, printed) in tables[name].values.iter().zip(averages) {
                let sum: f64 = row.cells.values().map(|cell| cell[0]).sum();
                let average = sum / row.cells.len() as f64;
                assert!((average - printed).abs() < 0.06, "{row:?}: {average}");
            }
        }
    }

    #[test]
    fn tables_of_answers_have_the_papers_best_rows_and_their_recipes() {
        for (name, table) in answers() {
            assert!(table.scores().count() > 0, "{name}");
            let recipe = format!("{}.toml", table.recipe);
            assert!(Size::ALL.iter().any(|size| size.name() == recipe), "{name}");
            for row in &table.values {
                assert_eq!(row.row.len(), table.rows.len(), "{name}");
                assert!(row.cells.values().all(|cell| cell.len() == 1), "{name}");
            }
        }
        let gemma = &answers()["table4-gemma"];
        let row = ["vblora".to_owned()];
        assert_eq!(gemma.score(&row, "gsm8k.paper").as_deref(), Some("75.96"));
    }

    #[test]
    fn cells_are_found_by_the_keys_of_the_layout() {
        let rows = ["method", "targets"];
        let table = Published::find(&layout("table1-large", &rows, "task"));
        let table = table.unwrap().unwrap();
        let row = ["vblora", "all"].map(String::from);
        assert_eq!(table.cell(&row, "cola").as_deref(), Some("69.3 ±1.5"));
        assert_eq!(table.stored(&row), Some("0.033M"));
        assert_eq!(table.cell(&row, "demo"), None);
        let error = |layout| Published::find(&layout).unwrap_err().to_string();
        assert!(error(layout("table9", &rows, "task")).contains("table1-base, table1-large"));
        assert!(error(layout("table5", &rows, "task")).contains("[\"selection\"]"));
    }
}

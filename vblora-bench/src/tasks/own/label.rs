//! The label of a cell.

use crate::Result;
use crate::tasks::{
    sets,
    table::{Cell, Place, Table},
};

/// The kind of labels that a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Labelling {
    /// The name of one class.
    Class,
    /// The names of any number of classes: a list, or text with this separator.
    Set {
        /// The text between two names.
        separator: Option<String>,
    },
    /// A number.
    Number,
}

/// The name of the class in a cell. A name has no blanks at its ends.
pub(super) fn class(table: &Table, place: Place, cell: &Cell) -> Result<String> {
    let refuse = || table.error(place, "a label", cell.shown());
    match cell {
        Cell::Float(number) if !number.is_finite() => Err(refuse()),
        Cell::Text(_) | Cell::Integer(_) | Cell::Float(_) | Cell::Bool(_) => {
            let name = cell.text().unwrap_or_default().trim().to_owned();
            match name.is_empty() {
                true => Err(refuse()),
                false => Ok(name),
            }
        }
        Cell::List(_) => {
            let expected = "one label, or --multi-label for lists of labels";
            Err(table.error(place, expected, cell.shown()))
        }
        Cell::Missing | Cell::Rounded(_) | Cell::Other(_) => Err(refuse()),
    }
}

/// The names of the classes in a cell.
pub(super) fn set(
    table: &Table,
    place: Place,
    cell: &Cell,
    separator: Option<&str>,
) -> Result<Vec<String>> {
    match (cell, separator) {
        (Cell::Missing, _) => Ok(Vec::new()),
        (Cell::List(items), _) => items.iter().map(|item| class(table, place, item)).collect(),
        (Cell::Text(text), _) if text.trim().is_empty() => Ok(Vec::new()),
        (Cell::Text(_) | Cell::Integer(_) | Cell::Float(_) | Cell::Bool(_), Some(separator)) => {
            let text = cell.text().unwrap_or_default();
            Ok(sets::split(&text, Some(separator))
                .map(ToOwned::to_owned)
                .collect())
        }
        (Cell::Rounded(_), Some(_)) => Err(table.error(place, "a label", cell.shown())),
        (
            Cell::Text(_)
            | Cell::Integer(_)
            | Cell::Float(_)
            | Cell::Rounded(_)
            | Cell::Bool(_)
            | Cell::Other(_),
            _,
        ) => {
            let expected = "a list of labels, or text and --label-separator";
            Err(table.error(place, expected, cell.shown()))
        }
    }
}

/// Returns true for the names that programs write where there is no label.
pub(super) fn is_null(name: &str) -> bool {
    ["null", "NULL", "None"].contains(&name)
        || name.parse::<f64>().is_ok_and(|number| !number.is_finite())
}

/// The number in a cell. In single precision it is finite too.
pub(super) fn number(table: &Table, place: Place, cell: &Cell) -> Result<f64> {
    let expected = match cell.number() {
        Some(number) if (number as f32).is_finite() => return Ok(number),
        Some(number) if number.is_finite() => "a number within \u{b1}3.4e38",
        Some(_) | None => "a finite number",
    };
    Err(table.error(place, expected, cell.shown()))
}

//! Markdown tables whose columns also line up in a terminal.

use std::fmt;

use serde::Serialize;

use super::as_markdown;

/// The widest column, in characters. The formatter takes no wider one.
const WIDEST: usize = u16::MAX as usize;

/// The alignment of a cell in its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Align {
    /// For text.
    Left,
    /// For numbers.
    Right,
}

/// A Markdown table, padded to be readable as plain text. `Display` writes it, one line per row.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns and no rows. Names and cells are escaped, so they show unchanged.
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = (S, Align)>) -> Self {
        let columns = columns
            .into_iter()
            .map(|(name, align)| (as_markdown(&name.into()), align))
            .collect();
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row. Missing cells are empty, and cells beyond the last column are dropped.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.markdown_row(cells.into_iter().map(|cell| as_markdown(&cell.into())));
    }

    /// Adds a row of cells that are already Markdown, like [`row`](Self::row).
    pub(crate) fn markdown_row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// The width of each column in characters, at least three for the rule below the header. Longer cells than [`WIDEST`] stand out.
    fn widths(&self) -> Vec<usize> {
        let width = |(i, (name, _)): (usize, &(String, Align))| {
            let cells = self.rows.iter().map(|row| row[i].chars().count());
            let width = cells.chain([name.chars().count()]).max().unwrap_or(0);
            width.clamp(3, WIDEST)
        };
        self.columns.iter().enumerate().map(width).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        let line = |f: &mut fmt::Formatter<'_>, cells: &mut dyn Iterator<Item = &String>| {
            for ((cell, width), (_, align)) in cells.zip(&widths).zip(&self.columns) {
                match align {
                    Align::Left => write!(f, "| {cell:<width$} ")?,
                    Align::Right => write!(f, "| {cell:>width$} ")?,
                }
            }
            writeln!(f, "|")
        };
        line(f, &mut self.columns.iter().map(|(name, _)| name))?;
        for (width, (_, align)) in widths.iter().zip(&self.columns) {
            match align {
                Align::Left => write!(f, "| {} ", "-".repeat(*width))?,
                Align::Right => write!(f, "| {}: ", "-".repeat(width - 1))?,
            }
        }
        writeln!(f, "|")?;
        self.rows
            .iter()
            .try_for_each(|row| line(f, &mut row.iter()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_may_be_wider_than_any_column() {
        let mut table = Table::new([("class", Align::Left), ("n", Align::Right)]);
        let wide = "a".repeat(WIDEST + 9);
        table.row([&*wide, "7"]);
        assert!(table.to_string().ends_with(&format!("| {wide} |   7 |\n")));
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new([("method", Align::Left), ("n", Align::Right)]);
        table.row(["vblora", "12,345"]);
        table.row(["é ± ü", "7"]);
        let expected = "\
| method |      n |
| ------ | -----: |
| vblora | 12,345 |
| é ± ü  |      7 |
";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn cells_are_escaped_padded_and_cut_to_the_columns() {
        let mut table = Table::new([("a", Align::Left), ("b", Align::Left)]);
        table.row(["x|y\nz"]);
        table.row(["1", "2", "3"]);
        let text = table.to_string();
        assert_eq!(text.lines().count(), 4);
        assert!(text.contains("| x\\|y z |     |\n"), "{text}");
        assert!(!text.contains('3'), "{text}");
    }
}

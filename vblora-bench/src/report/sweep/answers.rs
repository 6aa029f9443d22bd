//! The scores of generated answers, beside a table's main metric.

use std::collections::BTreeSet;

use super::{
    cells::{Cell, Cells},
    page::{Entry, Sheet},
    published::Published,
};
use crate::results::Spread;

/// The scores that are not shares; they are printed as they are. All others are printed times 100.
const NO_SHARES: [&str; 3] = ["e2e.nist", "e2e.cider", "mtbench.first"];

/// A row for each cell and a column for each score; `None` if no run has any and none is published.
pub(super) fn sheet(cells: &Cells<'_>, published: Option<&Published>) -> Option<Sheet> {
    let own = cells.all().flat_map(|(_, _, cell)| &cell.records);
    let own = own.filter_map(|record| record.completed());
    let mut names: BTreeSet<String> = own.flat_map(|run| run.scores.keys().cloned()).collect();
    names.extend(published.into_iter().flat_map(Published::scores));
    if names.is_empty() {
        return None;
    }
    let layout = cells.layout;
    let words = layout.rows.iter().chain([&layout.columns]).cloned();
    let mut sheet = Sheet::new(layout.rows.len() + 1, words.chain(names.iter().cloned()));
    for (row, column, cell) in cells.all() {
        let words = cells.rows[row].iter().chain([&cells.columns[column]]);
        let entry = |name: &String| Entry {
            text: spread(cell, name).map_or("-".into(), |spread| printed(name, spread)),
            note: published.and_then(|table| table.score(&cells.rows[row], name)),
            ..Entry::default()
        };
        let entries = words
            .cloned()
            .map(Entry::from)
            .chain(names.iter().map(entry));
        sheet.row(entries);
    }
    Some(sheet)
}

fn spread(cell: &Cell<'_>, name: &str) -> Option<Spread> {
    let results = cell.records.iter().filter_map(|record| record.completed());
    Spread::of(results.filter_map(|result| result.scores.get(name).copied()))
}

fn printed(name: &str, spread: Spread) -> String {
    let scale = match NO_SHARES.contains(&name) {
        true => 1.0,
        false => 100.0,
    };
    let (median, sd) = (scale * spread.median, scale * spread.sd);
    match spread.count {
        1 => format!("{median:.2}"),
        _ => format!("{median:.2} ±{sd:.2}"),
    }
}

//! A sweep's table in the paper's layout, all its numbers, and the significance of its differences.

use super::{
    cells::{Cell, Cells},
    page::{Entry, Sheet},
    published::Published,
};
use crate::{
    metrics::Metric,
    report::{human_bytes, numbers::grouped},
    results::Spread,
    sweep::{PairedTest, duration},
    tasks::counted,
};

/// A difference with a smaller p value is called significant.
const LEVEL: f64 = 0.05;

/// A spread as the paper prints it: `63.3 ±0.7`. One seed has no deviation.
pub(super) fn printed(metric: Metric, spread: Spread) -> String {
    let (median, sd) = (scaled(metric, spread.median), scaled(metric, spread.sd));
    match spread.count {
        1 => median,
        _ => format!("{median} ±{sd}"),
    }
}

/// A score to a tenth of a hundredth, a loss to a thousandth.
fn scaled(metric: Metric, value: f64) -> String {
    let digits = if metric.is_loss() { 3 } else { 1 };
    format!("{:.digits$}", metric.scale() * value)
}

/// Rows with their stored size and scores, and with the average if the columns are tasks.
pub(super) fn main_table(cells: &Cells<'_>, published: Option<&Published>) -> Sheet {
    let layout = cells.layout;
    let has_average = layout.columns == "task" && cells.columns.len() > 1;
    let names = layout.rows.iter().cloned();
    let names = names.chain(["# stored".into()]).chain(columns(cells));
    let names = names.chain(has_average.then(|| "average".into()));
    let mut sheet = Sheet::new(layout.rows.len(), names);
    let sets = cells.comparable();
    let best: Vec<_> = sets.iter().filter_map(|set| cells.best(set)).collect();
    for (row, keys) in cells.rows.iter().enumerate() {
        let stored = Entry {
            note: published
                .and_then(|table| table.stored(keys))
                .map(String::from),
            ..stored(cells, row).into()
        };
        let words = keys.iter().cloned().map(Entry::from);
        let score = |column| Entry {
            is_bold: best.contains(&(row, column)),
            ..score(cells, row, column, published)
        };
        let scores = (0..cells.columns.len()).map(score);
        let average = has_average.then(|| average(cells, row).into());
        sheet.row(words.chain([stored]).chain(scores).chain(average));
    }
    sheet
}

/// The columns' headings: value and metric.
fn columns(cells: &Cells<'_>) -> Vec<String> {
    let name = |(place, value): (usize, &String)| {
        let mut metrics: Vec<_> = cells
            .column(place)
            .map(|cell| cell.metric().name())
            .collect();
        metrics.sort_unstable();
        metrics.dedup();
        let metrics = metrics.join(", ");
        match cells.layout.columns.as_str() {
            "task" => format!("{value} ({metrics})"),
            key => format!("{key} = {value} ({metrics})"),
        }
    };
    cells.columns.iter().enumerate().map(name).collect()
}

/// The stored size of a row's cells: one number, or the smallest and the largest.
fn stored(cells: &Cells<'_>, row: usize) -> String {
    let counts = || {
        cells
            .row(row)
            .map(|cell| cell.run.count.stored.round() as u64)
    };
    match (counts().min(), counts().max()) {
        (Some(least), Some(most)) if least < most => {
            format!("{} to {}", grouped(least), grouped(most))
        }
        (Some(count), _) => grouped(count),
        _ => String::new(),
    }
}

fn score(cells: &Cells<'_>, row: usize, column: usize, published: Option<&Published>) -> Entry {
    let paper = published.and_then(|table| table.cell(&cells.rows[row], &cells.columns[column]));
    let Some(cell) = cells.get(row, column) else {
        return Entry {
            note: paper,
            ..Entry::default()
        };
    };
    let missing = match (cell.records.len(), cell.planned) {
        (done, planned) if done < planned => format!(" ({done} of {planned})"),
        _ => String::new(),
    };
    let text = cell
        .best()
        .map_or("-".into(), |spread| printed(cell.metric(), spread));
    Entry {
        text: text + &missing,
        note: paper,
        ..Entry::default()
    }
}

/// The mean of a row's medians, if it has one in every column.
fn average(cells: &Cells<'_>, row: usize) -> String {
    let median = |column| Some(cells.get(row, column)?.best()?.median);
    let medians: Option<Vec<f64>> = (0..cells.columns.len()).map(median).collect();
    let metric = cells.row(row).next().map(|cell| cell.metric());
    medians
        .zip(metric)
        .map_or(String::new(), |(medians, metric)| {
            scaled(metric, medians.iter().sum::<f64>() / medians.len() as f64)
        })
}

/// One line per cell with all its numbers.
pub(super) fn details(cells: &Cells<'_>) -> Sheet {
    let names = cells
        .layout
        .rows
        .iter()
        .chain([&cells.layout.columns])
        .cloned();
    let numbers = [
        "seeds",
        "best epoch",
        "last epoch",
        "trained",
        "stored",
        "bytes",
        "head",
        "time",
        "s/step",
    ];
    let names = names.chain(numbers.map(String::from));
    let mut sheet = Sheet::new(cells.layout.rows.len() + 1, names);
    for (row, column, cell) in cells.all() {
        let words = cells.rows[row].iter().chain([&cells.columns[column]]);
        let entries = words.cloned().chain(numbers_of(cell));
        sheet.row(entries.map(Entry::from));
    }
    sheet
}

fn numbers_of(cell: &Cell<'_>) -> [String; 9] {
    let exact = |spread: Option<Spread>| {
        spread.map_or("-".into(), |s| format!("{:.4} ± {:.4}", s.median, s.sd))
    };
    let count = cell.run.count;
    let step = cell.median(|result| result.seconds / result.steps.max(1) as f64);
    [
        format!("{} of {}", cell.records.len(), cell.planned),
        exact(cell.best()),
        exact(cell.last()),
        grouped(count.trained as u64),
        grouped(count.stored.round() as u64),
        human_bytes(count.bytes as u64),
        grouped(cell.run.head as u64),
        cell.median(|result| result.seconds)
            .map_or("-".into(), duration),
        step.map_or("-".into(), |step| format!("{step:.4}")),
    ]
}

/// Tests of the best cell against each comparable cell, over the seeds that both have.
pub(super) fn significance(cells: &Cells<'_>) -> Sheet {
    let names = ["task", "best", "against", "pairs", "mean difference", "p"];
    let mut sheet = Sheet::new(3, names.map(String::from));
    for set in cells.comparable() {
        let Some(best) = cells.best(&set) else {
            continue;
        };
        for place in set.into_iter().filter(|place| *place != best) {
            let both = [best, place].map(|(row, column)| cells.get(row, column));
            let [Some(one), Some(other)] = both else {
                continue;
            };
            let Some(test) = paired(one, other) else {
                continue;
            };
            let verdict = if test.p <= LEVEL { " *" } else { "" };
            let entries = [
                one.run.config.value("task"),
                cells.label(best, &["task"]),
                cells.label(place, &["task"]),
                test.pairs.to_string(),
                difference(one.metric(), test.difference),
                format!("{:.3}{verdict}", test.p),
            ];
            sheet.row(entries.map(Entry::from));
        }
    }
    sheet
}

/// A signed difference with a digit more than scores have.
fn difference(metric: Metric, value: f64) -> String {
    let digits = if metric.is_loss() { 4 } else { 2 };
    format!("{:+.digits$}", metric.scale() * value)
}

fn paired(a: &Cell<'_>, b: &Cell<'_>) -> Option<PairedTest> {
    let other = |seed| b.scores().find(|(known, _)| *known == seed);
    let differences: Vec<f64> = a
        .scores()
        .filter_map(|(seed, (best, _))| Some(best - other(seed)?.1.0))
        .collect();
    PairedTest::of(&differences)
}

/// A statement on the smallest p value that the number of seeds allows.
pub(super) fn power(cells: &Cells<'_>) -> String {
    let seeds = cells.all().map(|(_, _, cell)| cell.records.len()).max();
    let seeds = seeds.unwrap_or(0);
    let least = PairedTest::smallest_p(seeds);
    let method = "Exact two-sided sign-flip permutation test on the differences of runs with one seed, of best epochs, in the table's units.";
    match least <= LEVEL {
        true => {
            format!("{method} * marks p <= {LEVEL}; no correction for the number of comparisons.")
        }
        false => format!(
            "{method} With {} p cannot be below {least}: no difference here can be called significant, however large (6 seeds could).",
            counted(seeds, "seed", "seeds")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_printed_as_it_is() {
        let spread = Spread {
            median: 1.2235,
            sd: 0.0104,
            count: 3,
        };
        assert_eq!(printed(Metric::Nll, spread), "1.224 ±0.010");
        assert_eq!(printed(Metric::Accuracy, spread), "122.4 ±1.0");
        assert_eq!(difference(Metric::Nll, -0.05346), "-0.0535");
        assert_eq!(difference(Metric::F1, 0.0535), "+5.35");
    }
}

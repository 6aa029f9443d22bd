//! The runs of a table, grouped into its cells.

use std::collections::BTreeMap;

use crate::{
    metrics::Metric,
    results::{RunResult, Spread},
    sweep::{Layout, Plan, PlannedRun, Record, RunConfig, Store},
};

/// Keys that scores must share to be comparable.
const COMPARED: [&str; 3] = ["task", "model", "data"];

/// The row and the column of a cell.
pub(super) type Place = (usize, usize);

/// A table of a sweep with the results of its runs.
#[derive(Debug)]
pub(super) struct Cells<'a> {
    pub(super) layout: &'a Layout,
    /// The values of the layout's row keys, in the plan's order.
    pub(super) rows: Vec<Vec<String>>,
    /// The values of the column key, with numbers sorted by size.
    pub(super) columns: Vec<String>,
    cells: BTreeMap<Place, Cell<'a>>,
}

/// The runs that differ only in their seed.
#[derive(Debug)]
pub(super) struct Cell<'a> {
    /// One of these runs.
    pub(super) run: &'a PlannedRun,
    /// The number of runs that the sweep asks for.
    pub(super) planned: usize,
    /// The records of completed runs.
    pub(super) records: Vec<&'a Record>,
}

impl<'a> Cells<'a> {
    /// Groups the runs of one table of a plan.
    ///
    /// # Errors
    /// Runs do not belong in one cell or one column. The error states why.
    pub(super) fn gather(
        plan: &'a Plan,
        name: &str,
        layout: &'a Layout,
        store: &'a Store,
    ) -> Result<Self, String> {
        let mut gathered = Self {
            layout,
            rows: Vec::new(),
            columns: Vec::new(),
            cells: BTreeMap::new(),
        };
        for run in plan
            .runs
            .iter()
            .filter(|run| run.table.as_deref() == Some(name))
        {
            gathered.add(run, store)?;
        }
        gathered.check_comparable()?;
        gathered.sort_columns();
        Ok(gathered)
    }

    fn add(&mut self, run: &'a PlannedRun, store: &'a Store) -> Result<(), String> {
        let row = self.layout.rows.iter().map(|key| run.config.value(key));
        let row = place(&mut self.rows, row.collect());
        let column = place(&mut self.columns, run.config.value(&self.layout.columns));
        let cell = self.cells.entry((row, column)).or_insert_with(|| Cell {
            run,
            planned: 0,
            records: Vec::new(),
        });
        if let Some(difference) = difference(&cell.run.config, &run.config) {
            return Err(format!(
                "\"{}\" and \"{}\" share a cell of \"{}\", but differ in {difference}",
                cell.run.name, run.name, self.layout.title
            ));
        }
        cell.planned += 1;
        cell.records.extend(
            store
                .get(&run.id)
                .filter(|record| record.completed().is_some()),
        );
        Ok(())
    }

    /// Refuses a table with scores of different tasks, models or data, unless that is one of its keys.
    fn check_comparable(&self) -> Result<(), String> {
        let keys = COMPARED.iter().filter(|key| !self.is_key(key));
        for key in keys {
            let mut cells = self.all().map(|(_, _, cell)| cell);
            let Some(first) = cells.next() else { continue };
            let value = |cell: &Cell<'_>| cell.run.config.value(key);
            if let Some(other) = cells.find(|cell| value(cell) != value(first)) {
                return Err(format!(
                    "\"{}\" mixes {key} {} (\"{}\") and {} (\"{}\"), but {key} is none of its keys",
                    self.layout.title,
                    value(first),
                    first.run.name,
                    value(other),
                    other.run.name
                ));
            }
        }
        Ok(())
    }

    fn is_key(&self, key: &str) -> bool {
        self.layout.columns == key || self.layout.rows.iter().any(|row| row == key)
    }

    /// Sorts numbers by size. Anything else stays in the plan's order.
    fn sort_columns(&mut self) {
        let numbers: Option<Vec<f64>> = self.columns.iter().map(|c| c.parse().ok()).collect();
        let Some(numbers) = numbers else { return };
        let mut order: Vec<usize> = (0..numbers.len()).collect();
        order.sort_by(|&a, &b| numbers[a].total_cmp(&numbers[b]));
        self.columns = order.iter().map(|&old| self.columns[old].clone()).collect();
        let cells = std::mem::take(&mut self.cells);
        let moved = |((row, old), cell)| {
            let new = order.iter().position(|&place| place == old).unwrap_or(old);
            ((row, new), cell)
        };
        self.cells = cells.into_iter().map(moved).collect();
    }

    pub(super) fn get(&self, row: usize, column: usize) -> Option<&Cell<'a>> {
        self.cells.get(&(row, column))
    }

    /// The cells of a column.
    pub(super) fn column(&self, column: usize) -> impl Iterator<Item = &Cell<'a>> {
        let of_it = self.all().filter(move |(_, place, _)| *place == column);
        of_it.map(|(_, _, cell)| cell)
    }

    /// The cells of a row.
    pub(super) fn row(&self, row: usize) -> impl Iterator<Item = &Cell<'a>> {
        let of_it = self.all().filter(move |(place, _, _)| *place == row);
        of_it.map(|(_, _, cell)| cell)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (usize, usize, &Cell<'a>)> {
        self.cells
            .iter()
            .map(|((row, column), cell)| (*row, *column, cell))
    }

    /// The positions of cells with comparable scores, in groups: those of one task, model and data.
    pub(super) fn comparable(&self) -> Vec<Vec<Place>> {
        let mut sets: Vec<([String; 3], Vec<Place>)> = Vec::new();
        for (row, column, cell) in self.all() {
            let key = COMPARED.map(|key| cell.run.config.value(key));
            match sets.iter_mut().find(|(known, _)| *known == key) {
                Some((_, places)) => places.push((row, column)),
                None => sets.push((key, vec![(row, column)])),
            }
        }
        sets.into_iter().map(|(_, places)| places).collect()
    }

    /// The position with the best median, if more than one has a score.
    pub(super) fn best(&self, places: &[Place]) -> Option<Place> {
        let merit = |&(row, column): &Place| {
            let cell = self.get(row, column)?;
            Some(((row, column), cell.metric().merit(cell.best()?.median)))
        };
        let scored: Vec<_> = places.iter().filter_map(merit).collect();
        let best = scored.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        best.filter(|_| scored.len() > 1).map(|(place, _)| *place)
    }

    /// A cell's description by all its keys except those in `without`.
    pub(super) fn label(&self, (row, column): Place, without: &[&str]) -> String {
        let layout = self.layout;
        let keys = layout.rows.iter().zip(&self.rows[row]);
        let keys = keys.chain([(&layout.columns, &self.columns[column])]);
        let keys = keys.filter(|(key, _)| !without.contains(&key.as_str()));
        let words = keys.map(|(key, value)| match value.parse::<f64>() {
            Ok(_) => format!("{key}={value}"),
            Err(_) => value.clone(),
        });
        words.collect::<Vec<_>>().join(" ")
    }
}

impl<'a> Cell<'a> {
    pub(super) fn metric(&self) -> Metric {
        self.run.config.recipe.task.primary_metric
    }

    /// The scores of the best epochs, over seeds.
    pub(super) fn best(&self) -> Option<Spread> {
        Spread::of(self.scores().map(|(_, (best, _))| best))
    }

    /// The scores of the last epochs.
    pub(super) fn last(&self) -> Option<Spread> {
        Spread::of(self.scores().map(|(_, (_, last))| last))
    }

    /// Each seed with the score at the best and at the last epoch.
    pub(super) fn scores(&self) -> impl Iterator<Item = (u64, (f64, f64))> {
        let of = |record: &&Record| Some((record.config.seed, record.scores()?));
        self.records.iter().filter_map(of)
    }

    /// The median over seeds of a number of each result.
    pub(super) fn median(&self, of: impl Fn(&RunResult) -> f64) -> Option<f64> {
        let results = self.records.iter().filter_map(|record| record.completed());
        Spread::of(results.map(of)).map(|spread| spread.median)
    }
}

/// The index of a value in a list. A new value is appended.
fn place<T: PartialEq>(list: &mut Vec<T>, value: T) -> usize {
    list.iter()
        .position(|known| *known == value)
        .unwrap_or_else(|| {
            list.push(value);
            list.len() - 1
        })
}

/// The first key, other than the seed, in which two runs differ.
fn difference(a: &RunConfig, b: &RunConfig) -> Option<String> {
    let keys = ["method", "model", "data"].map(|key| (key.to_owned(), a.value(key), b.value(key)));
    let [mut ours, theirs] = [a, b].map(RunConfig::keys);
    let mut all: Vec<_> = keys.into();
    for (key, value) in &theirs {
        let here = ours.remove(key).unwrap_or_else(|| "nothing".into());
        all.push((key.clone(), here, value.clone()));
    }
    all.extend(
        ours.into_iter()
            .map(|(key, value)| (key, value, "nothing".into())),
    );
    let found = all.into_iter().find(|(_, a, b)| a != b);
    found.map(|(key, a, b)| format!("{key}: {a} and {b}"))
}

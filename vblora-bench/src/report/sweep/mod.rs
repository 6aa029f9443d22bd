//! The page of a sweep's directory: tables in the paper's layout, their numbers in detail, and figures.

mod answers;
mod cells;
mod notes;
mod page;
mod plan;
mod published;
mod scores;
mod tables;
#[cfg(test)]
pub(crate) mod tests;

use std::{collections::BTreeMap, path::Path};

pub use page::{Figure, Page};
pub use plan::plan_table;

use self::{cells::Cells, page::Block, published::Published};
use crate::{
    Error, Result,
    sweep::{Layout, Plan, PlannedRun, Store},
};

/// Makes the page of a sweep's directory.
///
/// # Errors
/// The directory has no sweep, no table or no finished run. A cell mixes runs of different settings. A table mixes tasks, models or data
/// without a key for them.
pub fn sweep_report(dir: &Path) -> Result<Page> {
    let failed = |reason| Error::Report {
        dir: dir.to_owned(),
        reason,
    };
    let store = Store::open(dir)?;
    let plans = store.plans()?;
    if plans.is_empty() && dir.join("results.json").is_file() && dir.join("table.md").is_file() {
        return Err(failed(
            "it holds the session of vblora train, whose report is table.md and curves.svg".into(),
        ));
    }
    if plans.is_empty() {
        return Err(failed("it holds no sweep; vblora sweep makes one".into()));
    }
    let mut tables = Vec::new();
    for plan in &plans {
        for (name, layout) in in_order(plan) {
            let cells = Cells::gather(plan, name, layout, &store).map_err(failed)?;
            tables.push((plan, layout, cells));
        }
    }
    let finished = |cells: &Cells<'_>| cells.all().any(|(_, _, cell)| !cell.records.is_empty());
    tables.retain(|(_, _, cells)| finished(cells));
    if tables.is_empty() {
        return Err(failed("no run of a table is finished".into()));
    }
    let mut page = Page {
        title: format!("VB-LoRA: {}", names(&plans)),
        blocks: vec![Block::Text(INTRODUCTION.into())],
    };
    for (plan, layout, cells) in &tables {
        page.blocks.extend(section(plan, layout, cells)?);
    }
    let all = tables.iter().map(|(_, _, cells)| cells);
    page.add_figures("Scores against stored parameters", scores::figures(all)?);
    page.blocks.extend(problems(&plans, &store));
    Ok(page)
}

/// Refuses tables that compare with a published one that is not there or has other rows and columns.
///
/// # Errors
/// The first such table, with the known names or keys.
pub fn check_published(tables: &BTreeMap<String, Layout>) -> Result<()> {
    let mut tables = tables.values();
    tables.try_for_each(|layout| Published::find(layout).map(drop))
}

const INTRODUCTION: &str = "Scores on dev, shares and correlations times 100 and losses as they are: the median over seeds of each run's best epoch ± the sample standard deviation; the best of \
all that can be compared is bold. Stored parameters are in float32 equivalents and without the task head, which is trained and stored beside every method. (2 of 3) marks cells of which seeds are missing.";

const ANSWERS: &str = "Scores of answers that the adapters of the best epochs generate: medians over seeds ± the sample standard deviation, shares \
times 100. A dash marks what was not computed.";

/// A plan's tables in the order of their first runs.
fn in_order(plan: &Plan) -> Vec<(&String, &Layout)> {
    let mut tables: Vec<_> = plan.tables.iter().collect();
    tables.sort_by_key(|(name, _)| {
        let is_in = |run: &PlannedRun| run.table.as_ref() == Some(name);
        plan.runs.iter().position(is_in)
    });
    tables
}

fn names(plans: &[Plan]) -> String {
    let names: Vec<_> = plans.iter().map(|plan| plan.sweep.as_str()).collect();
    names.join(", ")
}

fn section(plan: &Plan, layout: &Layout, cells: &Cells<'_>) -> Result<Vec<Block>> {
    let published = Published::find(layout)?;
    let published = published.as_ref();
    let mut blocks = vec![
        Block::Heading(2, layout.title.clone()),
        Block::Text(format!("Sweep {}: {}.", plan.sweep, plan.about)),
        Block::Sheet(tables::main_table(cells, published)),
        Block::List(notes::of_table(cells, published)),
    ];
    if let Some(sheet) = answers::sheet(cells, published) {
        blocks.push(Block::Heading(3, "Generated answers".into()));
        blocks.push(Block::Text(ANSWERS.into()));
        blocks.push(Block::Sheet(sheet));
    }
    let significance = tables::significance(cells);
    if !significance.is_empty() {
        blocks.push(Block::Heading(3, "More than chance?".into()));
        blocks.push(Block::Text(tables::power(cells)));
        blocks.push(Block::Sheet(significance));
    }
    blocks.push(Block::Heading(3, "Every cell".into()));
    blocks.push(Block::Sheet(tables::details(cells)));
    Ok(blocks)
}

/// Failed runs, results that no sweep asks for, and lines that could not be read.
fn problems(plans: &[Plan], store: &Store) -> Vec<Block> {
    let runs = || plans.iter().flat_map(|plan| &plan.runs);
    let failed = runs().filter_map(|run| {
        let error = store.get(&run.id)?.error.as_ref()?;
        Some(format!("{}: {error}", run.name))
    });
    let mut problems: Vec<String> = failed.collect();
    problems.sort();
    problems.dedup();
    let is_wanted = |id: &str| runs().any(|run| run.id == id);
    let orphans = store
        .records()
        .filter(|record| !is_wanted(&record.id))
        .count();
    if orphans > 0 {
        problems.push(format!(
            "{orphans} results belong to no sweep as it is now, and are left out"
        ));
    }
    let damaged = store.damaged();
    if !damaged.is_empty() {
        problems.push(format!(
            "{} damaged lines were skipped: {}",
            damaged.len(),
            damaged.join("; ")
        ));
    }
    match problems.is_empty() {
        true => Vec::new(),
        false => vec![
            Block::Heading(2, "What went wrong".into()),
            Block::List(problems),
        ],
    }
}

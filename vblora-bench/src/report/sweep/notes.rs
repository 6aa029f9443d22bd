//! Notes under a table: how the runs were made, and where that differs from the paper.

use std::collections::BTreeMap;

use super::{cells::Cells, published::Published};
use crate::{
    recipes::{Recipe, Size},
    sweep::{Record, RunConfig},
    tasks::Task,
};

/// The notes under a table.
pub(super) fn of_table(cells: &Cells<'_>, published: Option<&Published>) -> Vec<String> {
    let configs: Vec<&RunConfig> = cells.all().map(|(_, _, cell)| &cell.run.config).collect();
    let records: Vec<&Record> = cells
        .all()
        .flat_map(|(_, _, cell)| cell.records.clone())
        .collect();
    let mut notes = vec![
        format!(
            "Model: {}. Data: {}.",
            values(&configs, "model"),
            values(&configs, "data")
        ),
        made(&records),
    ];
    notes.extend(published.map(|table| format!("In brackets: {}.", table.about)));
    let size = published.map_or(Size::Base, Published::size);
    let is_text = configs.iter().any(|config| config.text.is_some());
    // Without a published table there is no recipe of the paper to compare texts with.
    if published.is_some() || !is_text {
        notes.extend(differences(cells, &configs, size));
    }
    notes.extend(sources(&configs));
    notes
}

/// The values of a key over runs.
fn values(configs: &[&RunConfig], key: &str) -> String {
    list(configs.iter().map(|config| config.value(key)))
}

/// Each text once, in order, separated by commas.
fn list(values: impl IntoIterator<Item = String>) -> String {
    let mut all: Vec<String> = Vec::new();
    for value in values {
        if !all.contains(&value) {
            all.push(value);
        }
    }
    all.join(", ")
}

fn made(records: &[&Record]) -> String {
    let of = |value: fn(&Record) -> String| list(records.iter().map(|record| value(record)));
    let mut seeds: Vec<u64> = records.iter().map(|record| record.config.seed).collect();
    seeds.sort_unstable();
    format!(
        "Seeds: {}. Device: {} ({}). Made {} with version {}.",
        list(seeds.iter().map(u64::to_string)),
        of(|record| record.made.device.clone()),
        of(|record| record.made.backend.clone()),
        of(|record| record.made.date.clone()),
        of(|record| {
            let made = &record.made;
            let commit = made.commit.as_ref();
            made.version.clone() + &commit.map_or(String::new(), |commit| format!(" ({commit})"))
        }),
    )
}

/// The differences from the paper's recipe, one line per key.
fn differences(cells: &Cells<'_>, configs: &[&RunConfig], size: Size) -> Vec<String> {
    let mut differing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut beside: Vec<String> = Vec::new();
    for config in configs {
        let (task, paper) = paper(size, &config.recipe.task);
        if task != config.recipe.task {
            beside.push(format!(
                "{}, which stands beside the paper's {task}",
                config.recipe.task
            ));
        }
        let paper = RunConfig {
            recipe: paper,
            ..(*config).clone()
        };
        let varied = cells.layout.rows.iter().chain([&cells.layout.columns]);
        let varied: Vec<String> = varied.map(|key| config.recipe_key(key)).collect();
        let theirs = paper.keys();
        for (key, ours) in config.keys() {
            let theirs = theirs.get(&key).map_or("not set", String::as_str);
            if key != "task" && !varied.contains(&key) && ours != theirs {
                differing
                    .entry(key)
                    .or_default()
                    .push(format!("{ours} (paper's recipe: {theirs})"));
            }
        }
    }
    let model = match size {
        Size::Large => "RoBERTa-large".to_owned(),
        Size::Base => "RoBERTa-base".to_owned(),
        other => Recipe::builtin(other, &configs[0].recipe.task)
            .map_or_else(|_| other.name().to_owned(), |recipe| recipe.model),
    };
    let tasks = (!beside.is_empty()).then(|| format!("Task: {}.", list(beside)));
    let keys = differing
        .into_iter()
        .map(|(key, all)| format!("{key}: {}", list(all)));
    let keys: Vec<String> = keys.collect();
    let settings = match keys.is_empty() {
        true => format!("Settings: those of the paper's recipe for {model}."),
        false => format!(
            "Not as in the paper's recipe for {model}: {}.",
            keys.join("; ")
        ),
    };
    tasks.into_iter().chain([settings]).collect()
}

/// The paper's recipe of a task, or CoLA's for a task that the paper does not have.
fn paper(size: Size, task: &Task) -> (Task, Recipe) {
    let own = Recipe::builtin(size, task).map(|recipe| (task.clone(), recipe));
    own.unwrap_or_else(|_| {
        let recipe = Recipe::builtin(size, &Task::cola());
        (
            Task::cola(),
            recipe.expect("a test reads the built-in recipes"),
        )
    })
}

/// The recipes' notes on settings whose sources differ, for the settings that the runs depend on.
fn sources(configs: &[&RunConfig]) -> Option<String> {
    let notes = list(configs.iter().flat_map(|config| {
        let keys = config.keys();
        let own = |key: &str| {
            let table = format!("{key}.");
            key == "seeds" || keys.keys().any(|k| k == key || k.starts_with(&table))
        };
        let differs = config.recipe.differs.iter();
        let notes = differs.filter(|(key, _)| own(key));
        notes
            .map(|(key, note)| format!("{key} ({note})"))
            .collect::<Vec<_>>()
    }));
    (!notes.is_empty())
        .then(|| format!("Settings whose sources differ, or leave them out: {notes}."))
}

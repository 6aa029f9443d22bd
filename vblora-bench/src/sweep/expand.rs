//! Expands a sweep file into its runs.

use std::{collections::BTreeMap, path::Path};

use toml::{Table, Value};

use super::{
    axis::{self, EVALUATE, RUN_KEYS},
    block::{Axis, Block},
    config::{BUNDLED, RunConfig},
    spec::Spec,
    text::{BUNDLED_FORMAT, TextRun},
};
use crate::{
    Error, Result,
    evaluate::{Benchmark, Evaluation},
    limits::MAX_SWEEP_RUNS,
    recipes::{Recipe, Size},
    tasks::{Task, causal::Form},
    train::Method,
};

/// A run that a sweep asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) table: Option<String>,
    /// The line in the file.
    pub(super) line: usize,
    pub(super) config: RunConfig,
}

/// One value of an axis.
#[derive(Clone, Copy)]
struct Setting<'a> {
    axis: &'a Axis,
    value: &'a Value,
}

/// One combination of a block.
struct Combination<'a> {
    spec: &'a Spec,
    block: &'a Block,
    settings: Vec<Setting<'a>>,
}

impl Spec {
    /// Expands the sweep into its runs. Seeds are the outer loop: a sweep that stops early has compared everything with the seeds done so
    /// far. `places` maps names of models and data to directories.
    pub(super) fn expand(&self, places: &BTreeMap<String, String>) -> Result<Vec<Wanted>> {
        self.check_size()?;
        let mut wanted = Vec::new();
        for block in &self.blocks {
            for combination in self.combinations(block) {
                wanted.push((combination.round(), combination.wanted(places)?));
            }
        }
        wanted.sort_by_key(|(round, _)| *round);
        Ok(wanted.into_iter().map(|(_, wanted)| wanted).collect())
    }

    /// Refuses too many runs before they are created.
    fn check_size(&self) -> Result<()> {
        let mut all = 0_usize;
        for block in &self.blocks {
            let axes = self.base.iter().chain(&block.axes);
            let runs = axes.fold(1_usize, |runs, axis| runs.saturating_mul(axis.values.len()));
            all = all.saturating_add(runs);
            if all > MAX_SWEEP_RUNS {
                let message = format!(
                    "the axes up to here make {all} runs, over the limit of {MAX_SWEEP_RUNS}"
                );
                return Err(self.error(block.line, message));
            }
        }
        Ok(())
    }

    /// Every combination of one value per axis. The last axis varies fastest.
    fn combinations<'a>(&'a self, block: &'a Block) -> Vec<Combination<'a>> {
        let mut all: Vec<Vec<Setting<'a>>> = vec![Vec::new()];
        for axis in self.base.iter().chain(&block.axes) {
            let mut longer = Vec::new();
            for settings in &all {
                for value in &axis.values {
                    let mut settings = settings.clone();
                    settings.push(Setting { axis, value });
                    longer.push(settings);
                }
            }
            all = longer;
        }
        let combination = |settings| Combination {
            spec: self,
            block,
            settings,
        };
        all.into_iter().map(combination).collect()
    }

    /// An error about a setting.
    fn at(&self, axis: &Axis, message: impl ToString) -> Error {
        match axis.line {
            0 => Error::Sweep {
                file: format!("--set {}", axis.key),
                line: 1,
                message: message.to_string(),
            },
            line => self.error(line, message.to_string()),
        }
    }
}

impl Combination<'_> {
    /// The last setting of a key.
    fn find(&self, key: &str) -> Option<&Setting<'_>> {
        self.settings.iter().rev().find(|s| s.axis.key == key)
    }

    fn need(&self, key: &str) -> Result<&Setting<'_>> {
        self.find(key).ok_or_else(|| {
            let message = format!("no \"{key}\" here and none in [base]");
            self.spec.error(self.block.line, message)
        })
    }

    fn text(&self, key: &str) -> Result<&str> {
        let setting = self.need(key)?;
        let wrong = || {
            self.spec
                .at(setting.axis, format!("\"{key}\": expected text"))
        };
        setting.value.as_str().ok_or_else(wrong)
    }

    /// Adds the line of a key to the error, if reading its value failed.
    fn located<T>(&self, key: &str, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| match self.find(key) {
            Some(setting) => self.spec.at(setting.axis, error),
            None => self.spec.error(self.block.line, error.to_string()),
        })
    }

    fn wanted(&self, places: &BTreeMap<String, String>) -> Result<Wanted> {
        let method = self.located("method", axis::method(self.text("method")?))?;
        let seed = self.seed()?;
        let mut recipe = self.with_keys(self.start()?, method)?;
        recipe.seeds = vec![seed];
        self.validate(&recipe, method)?;
        let place = |key| {
            let named = self.find(key).map_or(Ok(BUNDLED), |_| self.text(key))?;
            Ok::<_, Error>(located_at(places, named))
        };
        let text = self.text_run(&recipe, places)?;
        Ok(Wanted {
            name: self.name(),
            table: self.block.table.clone(),
            line: self.block.line,
            config: RunConfig {
                model: place("model")?,
                data: place("data")?,
                text,
                method: method.name().into(),
                seed,
                recipe,
            },
        })
    }

    fn seed(&self) -> Result<u64> {
        self.whole(self.need("seed")?)
    }

    fn whole<N: TryFrom<i64>>(&self, setting: &Setting<'_>) -> Result<N> {
        let number = setting.value.as_integer();
        let number = number.and_then(|number| N::try_from(number).ok());
        number.ok_or_else(|| {
            let (key, value) = (&setting.axis.key, setting.value);
            let message = format!("\"{key}\": expected a whole number, found {value}");
            self.spec.at(setting.axis, message)
        })
    }

    /// The texts and the benchmarks of a run on texts. Another task has none of their keys.
    fn text_run(
        &self,
        recipe: &Recipe,
        places: &BTreeMap<String, String>,
    ) -> Result<Option<TextRun>> {
        if !recipe.task.is_text() {
            let mut keys = self.settings.iter();
            return match keys.find(|setting| axis::is_text_key(&setting.axis.key)) {
                None => Ok(None),
                Some(setting) => {
                    let message = format!(
                        "only task text takes \"{}\", found task {}",
                        setting.axis.key, recipe.task
                    );
                    Err(self.spec.at(setting.axis, message))
                }
            };
        }
        let is_bundled = self.find("data").is_none();
        let format = match self.find("format") {
            None if is_bundled => BUNDLED_FORMAT,
            _ => self.text("format")?,
        };
        self.located("format", format.parse::<Form>())?;
        let number = |key| {
            self.find(key)
                .map(|setting| self.whole(setting))
                .transpose()
        };
        let held_out = self.find("held_out").map(|_| self.text("held_out"));
        Ok(Some(TextRun {
            format: format.into(),
            held_out: held_out.transpose()?.map(|named| located_at(places, named)),
            rows: number("rows")?,
            held_out_rows: number("held_out_rows")?,
            evaluate: self.evaluations(places)?,
        }))
    }

    /// The benchmarks, from keys such as `evaluate.gsm8k.limit`.
    fn evaluations(
        &self,
        places: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<Benchmark, Evaluation>> {
        let mut tables: BTreeMap<Benchmark, (&Axis, Table)> = BTreeMap::new();
        for Setting { axis, value } in &self.settings {
            let Some(key) = axis.key.strip_prefix(EVALUATE) else {
                continue;
            };
            let (name, key) = key.split_once('.').unwrap_or((key, ""));
            let benchmark = self.located(&axis.key, name.parse::<Benchmark>())?;
            let value = match (key, value) {
                ("data" | "java_metrics", Value::String(named)) => located_at(places, named).into(),
                (_, value) => (*value).clone(),
            };
            let (_, table) = tables
                .entry(benchmark)
                .or_insert_with(|| (axis, Table::new()));
            table.insert(key.into(), value);
        }
        let read = |(benchmark, (axis, table)): (Benchmark, (&Axis, Table))| {
            let settings: std::result::Result<Evaluation, _> = Value::Table(table).try_into();
            let settings = settings.map_err(|error| {
                let message = format!("evaluate.{benchmark}: {}", axis::one_line(&error));
                self.spec.at(axis, message)
            })?;
            let checked = settings.check(benchmark);
            checked.map_err(|error| self.spec.at(axis, error))?;
            Ok((benchmark, settings))
        };
        tables.into_iter().map(read).collect()
    }

    /// The built-in recipe of the task, or a file's recipe with its task replaced.
    fn start(&self) -> Result<Recipe> {
        let name = self.text("recipe")?;
        let built_in = |size: &Size| size.name().trim_end_matches(".toml") == name;
        if let Some(size) = Size::ALL.into_iter().find(built_in) {
            let task = self.located("task", self.text("task")?.parse::<Task>())?;
            return self.located("task", Recipe::builtin(size, &task));
        }
        let mut recipe = self.located("recipe", Recipe::from_toml_file(Path::new(name)))?;
        if self.find("task").is_some() {
            recipe.task = self.located("task", self.text("task")?.parse::<Task>())?;
        }
        Ok(recipe)
    }

    /// The recipe with every key set. A key of `[base]` may be meaningless for some methods; a key of an axis may not.
    fn with_keys(&self, mut recipe: Recipe, method: Method) -> Result<Recipe> {
        for setting in &self.settings {
            let key = setting.axis.key.as_str();
            if RUN_KEYS.contains(&key) || axis::is_text_key(key) {
                continue;
            }
            let is_own = self.block.axes.iter().any(|axis| axis.key == key);
            if is_own && !axis::can_have(method, key) {
                let message = axis::not_taken(method, key);
                return Err(self.spec.at(setting.axis, message));
            }
            let long = axis::recipe_key(method, key);
            // `r` in [base] is the rank of every method that has one.
            if !axis::can_have(method, key) && key == "r" {
                continue;
            }
            let set = axis::set(&recipe, &long, setting.value);
            recipe = set.map_err(|message| self.spec.at(setting.axis, message))?;
        }
        Ok(recipe)
    }

    fn validate(&self, recipe: &Recipe, method: Method) -> Result<()> {
        recipe.validate().map_err(|error| {
            let Error::Setting { setting: name, .. } = &error else {
                return error;
            };
            let is_it = |s: &&Setting<'_>| axis::recipe_key(method, &s.axis.key) == *name;
            match self.settings.iter().rev().find(is_it) {
                Some(setting) => self.spec.at(setting.axis, &error),
                None => self.spec.error(self.block.line, error.to_string()),
            }
        })
    }

    /// The position of the seed in its list.
    fn round(&self) -> usize {
        let seed = self.find("seed");
        let place = |s: &Setting<'_>| s.axis.values.iter().position(|value| value == s.value);
        seed.and_then(place).unwrap_or(0)
    }

    /// The block's name and the value of each of its lists.
    fn name(&self) -> String {
        let varied = self.settings.iter().filter(|setting| setting.axis.is_list);
        let values = varied.map(|setting| described(&setting.axis.key, setting.value));
        let name = self.block.name.clone().into_iter();
        name.chain(values).collect::<Vec<_>>().join(" ")
    }
}

/// The place of a named model or data set: the name's own directory, or a path under the directory of its first part.
fn located_at(places: &BTreeMap<String, String>, named: &str) -> String {
    if let Some(place) = places.get(named) {
        return place.clone();
    }
    let under = named.split_once('/').and_then(|(name, path)| {
        let place = places.get(name)?;
        Some(Path::new(place).join(path).display().to_string())
    });
    under.unwrap_or_else(|| named.into())
}

/// A value as part of a run's name. A word stays alone, and a path is shortened to its end.
fn described(key: &str, value: &Value) -> String {
    match (key, value) {
        ("model" | "data" | "recipe", Value::String(place)) => {
            let end = Path::new(place).file_name();
            end.map_or(place.clone(), |end| end.to_string_lossy().into_owned())
        }
        (_, Value::String(word)) => word.clone(),
        (key, value) => format!("{key}={value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = r#"about = "a test"

[base]
recipe = "demo"
task = "demo"
epochs = 1
r = 4

[tables.t]
title = "T"
rows = ["method"]
columns = "k"

[[grid]]
method = ["head", "lora"]
seed = [1, 2]

[[grid]]
name = "bank"
table = "t"
method = "vblora"
k = [1, 2]
lr.bank = [1e-3, 2e-3]
seed = [1, 2]

[[run]]
name = "alone"
method = "vblora"
vblora.bank = 12
targets = "query,value"
seed = 9
"#;

    fn expand(text: &str) -> Result<Vec<Wanted>> {
        Spec::parse("x", "x.toml", text)?.expand(&BTreeMap::new())
    }

    #[test]
    fn grids_and_runs_are_expanded_seed_by_seed() {
        let wanted = expand(SPEC).unwrap();
        let names: Vec<_> = wanted.iter().map(|w| w.name.as_str()).collect();
        let expected = [
            "head seed=1",
            "lora seed=1",
            "bank k=1 lr.bank=0.001 seed=1",
            "bank k=1 lr.bank=0.002 seed=1",
            "bank k=2 lr.bank=0.001 seed=1",
            "bank k=2 lr.bank=0.002 seed=1",
            "alone",
            "head seed=2",
        ];
        assert_eq!(names[..8], expected);
        assert_eq!(names.len(), 13);
        let recipe = &wanted[5].config.recipe;
        assert_eq!((recipe.vblora.topk, recipe.lr.bank), (2, 2e-3));
        assert_eq!((recipe.vblora.rank, recipe.lora.rank), (4, 8));
        assert_eq!((recipe.epochs, &recipe.seeds), (1, &vec![1]));
        assert_eq!(wanted[1].config.recipe.lora.rank, 4);
        assert_eq!(wanted[5].table.as_deref(), Some("t"));
        let alone = &wanted[6].config;
        assert_eq!((alone.seed, alone.recipe.vblora.bank), (9, 12));
        assert_eq!(alone.recipe.targets, "query,value");
    }

    #[test]
    fn what_is_set_from_outside_replaces_an_axis_or_makes_one() {
        let mut spec = Spec::parse("x", "x.toml", SPEC).unwrap();
        for assignment in ["seed=[5]", "epochs=3", "targets=qv", "k=[3]"] {
            spec.set(assignment).unwrap();
        }
        let wanted = spec.expand(&BTreeMap::new()).unwrap();
        assert_eq!(wanted.len(), 5);
        for wanted in &wanted {
            let recipe = &wanted.config.recipe;
            assert_eq!((wanted.config.seed, recipe.epochs), (5, 3));
            assert_eq!((recipe.targets.as_str(), recipe.vblora.topk), ("qv", 3));
        }
        assert!(spec.set("epochs").is_err());
        spec.set("epochs=many").unwrap();
        let error = spec.expand(&BTreeMap::new()).unwrap_err().to_string();
        assert!(
            error.contains("--set epochs") && error.contains("many"),
            "{error}"
        );
    }

    #[test]
    fn names_stand_for_places() {
        let text = SPEC.replace("epochs = 1", "epochs = 1\nmodel = \"m\"\ndata = \"d\"");
        let places = [("m".to_owned(), "/models/m".to_owned())].into();
        let spec = Spec::parse("x", "x.toml", &text).unwrap();
        let config = &spec.expand(&places).unwrap()[0].config;
        assert_eq!(
            (config.model.as_str(), config.data.as_str()),
            ("/models/m", "d")
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_file_and_line() {
        for (from, to, line, words) in [
            ("k = [1, 2]", "kk = [1, 2]", 22, "`kk`"),
            ("k = [1, 2]", "k = [1, 2.5]", 22, "vblora.topk"),
            ("k = [1, 2]", "k = [1, 99]", 22, "vblora.topk"),
            ("k = [1, 2]", "k = []", 22, "no values"),
            ("k = [1, 2]", "k = [1, 2", 23, "array elements"),
            (
                "[\"head\", \"lora\"]",
                "[\"head\", \"lra\"]",
                15,
                "vblora, lora",
            ),
            (
                "method = \"vblora\"\nk",
                "method = \"lora\"\nk",
                22,
                "only: vblora",
            ),
            ("task = \"demo\"", "task = \"mrpc\"", 5, "which has demo"),
            ("recipe = \"demo\"", "recipe = \"nowhere\"", 4, "nowhere"),
            ("recipe = \"demo\"", "", 14, "no \"recipe\""),
            ("epochs = 1", "epochs = [1]", 6, "[base]"),
            ("seed = 9", "seed = [9]", 31, "[[grid]] takes lists"),
            ("seed = 9", "seed = -9", 31, "whole number"),
            ("name = \"alone\"", "", 26, "needs a name"),
            ("table = \"t\"", "table = \"u\"", 18, "[tables]: t"),
            ("columns = \"k\"", "column = \"k\"", 12, "`columns`"),
            (
                "columns = \"k\"",
                "columns = \"kk\"",
                12,
                "[tables.t]: columns: \"kk\"",
            ),
            (
                "rows = [\"method\"]",
                "rows = [\"seed\", \"metod\"]",
                11,
                "method, seed, k, h",
            ),
            (
                "about = \"a test\"",
                "about = \"a test\"\nx = 1",
                2,
                "`budget`",
            ),
        ] {
            let text = SPEC.replacen(from, to, 1);
            assert_ne!(text, SPEC, "{from}");
            let error = expand(&text).unwrap_err().to_string();
            let place = format!("x.toml, line {line}: ");
            assert!(
                error.starts_with(&place) && error.contains(words),
                "{from} -> {to}: {error}"
            );
        }
        // A few lines of axes that would give far too many runs.
        let values: Vec<String> = (1..=64).map(|n| n.to_string()).collect();
        let axes = [
            "epochs",
            "batch",
            "max_length",
            "accumulation",
            "b",
            "r",
            "h",
        ]
        .map(|key| format!("{key} = [{}]\n", values.join(", ")));
        let text = SPEC.replacen("k = [1, 2]\n", &axes.concat(), 1);
        let error = expand(&text).unwrap_err().to_string();
        assert!(
            error.starts_with("x.toml, line 18: ") && error.contains("over the limit of 65536"),
            "{error}"
        );
        let error = expand("about = \"nothing\"").unwrap_err().to_string();
        assert!(error.contains("at least one"), "{error}");
    }
}

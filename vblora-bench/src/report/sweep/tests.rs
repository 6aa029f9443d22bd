//! Pages of made-up results.

use std::collections::BTreeMap;

use tempfile::TempDir;
use vblora::count::Count;

use super::*;
use crate::{
    recipes::{Recipe, Size},
    sweep::{
        PlannedRun, Record,
        record_tests::{made, record},
    },
    tasks::Task,
};

/// A directory with the results of a sweep of LoRA and VB-LoRA: dev accuracy by method and seed.
struct Sweep {
    dir: TempDir,
    plan: Plan,
    store: Store,
}

impl Sweep {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let layout = Layout {
            title: "Table 1 & <co>".into(),
            rows: vec!["method".into(), "targets".into()],
            columns: "task".into(),
            paper: Some("table1-base".into()),
        };
        let plan = Plan {
            sweep: "s".into(),
            about: "a test".into(),
            tables: BTreeMap::from([("t".into(), layout)]),
            runs: Vec::new(),
        };
        Self { dir, plan, store }
    }

    /// Three seeds of each method, all finished.
    fn whole() -> Self {
        let mut sweep = Self::new();
        for (seed, lora, vblora) in [(1, 0.79, 0.80), (2, 0.80, 0.82), (3, 0.78, 0.81)] {
            sweep.done("lora", seed, lora);
            sweep.done("vblora", seed, vblora);
        }
        sweep
    }

    fn done(&mut self, method: &str, seed: u64, accuracy: f64) {
        let record = record(
            &format!("{method}{seed}"),
            method,
            seed,
            &[0.5, accuracy, 0.6],
        );
        self.planned(&record);
        self.store.add(record).unwrap();
    }

    fn planned(&mut self, record: &Record) {
        self.plan.runs.push(PlannedRun {
            name: record.name.clone(),
            table: Some("t".into()),
            id: record.id.clone(),
            count: Count {
                trained: 10,
                stored: 26_928.0,
                bytes: 107_712,
            },
            head: 592_130,
            steps: 230,
            rows: [3668, 408],
            config: record.config.clone(),
        });
    }

    fn report(&self) -> Result<Page> {
        self.store.save_plan(&self.plan).unwrap();
        sweep_report(self.dir.path())
    }

    fn error(&self) -> String {
        self.report().unwrap_err().to_string()
    }
}

/// A page of two methods with three seeds each.
pub(crate) fn page() -> Page {
    Sweep::whole().report().unwrap()
}

#[test]
fn a_table_has_ours_beside_the_papers_and_the_best_in_bold() {
    let mut sweep = Sweep::whole();
    let failed = record("lora4", "lora", 4, &[]);
    sweep.planned(&failed);
    let key = ("lora4", "s", "lora seed=4");
    let failed = Record::new(key, &failed.config, Err("no memory".into()), made());
    sweep.store.add(failed).unwrap();
    let text = sweep.report().unwrap().markdown();
    for part in [
        "| method | targets | # stored | mrpc (accuracy) ",
        "| lora   | all     |            26,928 |",
        "79.0 ±1.0 (3 of 4) |",
        "| 26,928 [0.027M] | **81.0 ±1.0** [89.7 ±0.2] |",
        "0.8100 ± 0.0100 | 0.6000 ± 0.0000",
        "Seeds: 1, 2, 3. Device: flex (flex). Made 2026-01-01 with version 0.",
        "- lora seed=4: no memory",
        "![Task mrpc, model bundled](scores-1.svg)",
    ] {
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeezed(&text).contains(&squeezed(part)), "{part}\n{text}");
    }
    let html = sweep.report().unwrap().html();
    assert!(html.contains("<h2>Table 1 &amp; &lt;co&gt;</h2>"), "{html}");
    assert!(html.contains("<b>81.0 ±1.0</b><br><small>[89.7 ±0.2]</small>"));
}

#[test]
fn tasks_are_averaged_where_a_row_has_them_all() {
    let mut sweep = Sweep::whole();
    let mut other = record("x", "vblora", 1, &[0.9]);
    other.config.recipe.task = Task::sst2();
    other.config.recipe.epochs = 30;
    sweep.planned(&other);
    sweep.store.add(other).unwrap();
    let text = sweep.report().unwrap().markdown();
    assert!(
        text.contains("mrpc (accuracy) |  sst2 (accuracy) | average |"),
        "{text}"
    );
    assert!(
        text.contains("[89.7 ±0.2] | 90.0 [95.0 ±0.2] |    85.5 |"),
        "{text}"
    );
}

#[test]
fn pairs_of_seeds_are_tested_and_three_are_said_to_be_too_few() {
    let mut sweep = Sweep::whole();
    let text = sweep.report().unwrap().markdown();
    assert!(
        text.contains("With 3 seeds p cannot be below 0.25"),
        "{text}"
    );
    assert!(
        text.contains("| vblora all | lora all |     3 |           +2.00 | 0.250 |"),
        "{text}"
    );
    for seed in 4..=6 {
        sweep.done("lora", seed, 0.7);
        sweep.done("vblora", seed, 0.75);
    }
    let text = sweep.report().unwrap().markdown();
    assert!(
        text.contains("| 0.031 * |") && text.contains("* marks p <= 0.05"),
        "{text}"
    );
}

#[test]
fn where_columns_are_one_task_the_best_of_all_is_bold_and_every_size_is_in_the_figure() {
    let mut sweep = Sweep::new();
    let layout = sweep.plan.tables.get_mut("t").unwrap();
    (layout.rows, layout.columns) = (vec!["targets".into()], "k".into());
    layout.paper = None;
    for (k, seed, accuracy) in [(10, 1, 0.75), (2, 1, 0.8), (2, 2, 0.82), (10, 2, 0.75)] {
        let mut record = record(&format!("{k}-{seed}"), "vblora", seed, &[accuracy]);
        record.config.recipe.vblora.topk = k;
        sweep.planned(&record);
        sweep.store.add(record).unwrap();
    }
    sweep.plan.runs[0].count.stored = 40_000.0;
    sweep.plan.runs[3].count.stored = 40_000.0;
    let page = sweep.report().unwrap();
    let text = page.markdown();
    assert!(
        text.contains("k = 2 (accuracy) | k = 10 (accuracy) |"),
        "{text}"
    );
    assert!(
        text.contains("26,928 to 40,000 |    **81.0 ±1.4** |         75.0 ±0.0 |"),
        "{text}"
    );
    assert!(
        text.contains("| mrpc | all k=2 | all k=10 |     2 |           +6.00 | 0.500 |"),
        "{text}"
    );
    let figure = page.figures().next().unwrap();
    assert!(
        figure.svg.contains("all k=2") && figure.svg.contains("all k=10"),
        "{}",
        figure.svg
    );
}

#[test]
fn what_is_not_the_papers_setting_is_said() {
    let text = Sweep::whole().report().unwrap().markdown();
    assert!(
        text.contains("Settings: those of the paper's recipe for RoBERTa-base."),
        "{text}"
    );
    let mut sweep = Sweep::new();
    let mut demo = record("d", "vblora", 1, &[0.5]);
    demo.config.recipe = Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
    sweep.planned(&demo);
    sweep.store.add(demo).unwrap();
    let text = sweep.report().unwrap().markdown();
    for part in [
        "Task: demo, which stands beside the paper's cola.",
        "epochs: 2 (paper's recipe: 80)",
        "vblora.bank: 48 (paper's recipe: 90)",
        "base_dtype",
    ] {
        assert_eq!(text.contains(part), part != "base_dtype", "{part}\n{text}");
    }
    assert!(!text.contains("lora.alpha: 16"), "{text}");
}

#[test]
fn runs_that_do_not_go_together_are_refused_by_name() {
    let mut sweep = Sweep::whole();
    let mut other = record("x", "lora", 4, &[0.5]);
    other.config.recipe.lr.adapter = 0.5;
    sweep.planned(&other);
    let error = sweep.error();
    assert!(
        error.contains("\"lora seed=1\" and \"lora seed=4\" share a cell"),
        "{error}"
    );
    assert!(error.contains("lr.adapter: 0.0005 and 0.5"), "{error}");

    let mut sweep = Sweep::whole();
    sweep.plan.tables.get_mut("t").unwrap().columns = "seed".into();
    sweep.plan.tables.get_mut("t").unwrap().paper = None;
    let mut other = record("y", "vblora", 1, &[0.5]);
    other.config.recipe.task = Task::rte();
    other.config.recipe.targets = "qv".into();
    sweep.planned(&other);
    let error = sweep.error();
    assert!(
        error.contains("mixes task mrpc (") && error.contains("and rte ("),
        "{error}"
    );
}

#[test]
fn nothing_to_report_says_what_is_missing() {
    let empty = tempfile::tempdir().unwrap();
    let error = sweep_report(empty.path()).unwrap_err().to_string();
    assert!(error.contains("it holds no sweep"), "{error}");
    let mut sweep = Sweep::new();
    sweep.planned(&record("a", "lora", 1, &[0.5]));
    assert!(sweep.error().contains("no run of a table is finished"));
}

#[test]
fn results_of_no_sweep_and_damaged_lines_are_counted() {
    let mut sweep = Sweep::whole();
    sweep.store.add(record("z", "head", 1, &[0.5])).unwrap();
    let path = sweep.dir.path().join("results.jsonl");
    let lines = std::fs::read_to_string(&path).unwrap() + "half a li";
    std::fs::write(&path, lines).unwrap();
    let text = sweep.report().unwrap().markdown();
    assert!(text.contains("1 results belong to no sweep"), "{text}");
    assert!(
        text.contains("1 damaged lines were skipped") && text.contains("line 8"),
        "{text}"
    );
}

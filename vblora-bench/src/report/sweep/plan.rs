//! A plan as a table, shown before anything is run.

use std::collections::BTreeMap;

use vblora::count::thousands;

use crate::{
    report::{Align, Table, human_bytes},
    sweep::{Plan, Store, duration},
};

/// The runs of a plan, one row each, with their state in `store`. `seconds` maps the id of each remaining run to its estimated time.
pub fn plan_table(plan: &Plan, store: &Store, seconds: &BTreeMap<String, f64>) -> String {
    let right = |name| (name, Align::Right);
    let mut table = Table::new([
        ("run", Align::Left),
        ("id", Align::Left),
        right("trained"),
        right("stored"),
        right("bytes"),
        right("steps"),
        ("state", Align::Left),
        right("estimate"),
    ]);
    for run in &plan.runs {
        let estimate = seconds.get(&run.id).map_or(String::new(), |s| duration(*s));
        table.row([
            run.name.clone(),
            run.id.clone(),
            thousands(run.count.trained),
            thousands(run.count.stored.round() as usize),
            human_bytes(run.count.bytes as u64),
            thousands(run.steps as usize),
            state(&run.id, store).into(),
            estimate,
        ]);
    }
    table.to_string()
}

fn state(id: &str, store: &Store) -> &'static str {
    match store.get(id) {
        Some(_) if store.is_done(id) => "done",
        Some(_) => "failed, once more",
        None if store.run_dir(id).exists() => "goes on",
        None => "to do",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        results::test_run,
        sweep::{Record, Spec, record_tests::made},
    };

    #[test]
    fn a_plan_tells_what_is_done_what_failed_and_how_long_the_rest_takes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.toml");
        let text = "about = \"a test\"\n[base]\nrecipe = \"demo\"\ntask = \"demo\"\n[[grid]]\nmethod = [\"head\", \"vblora\"]\nseed = [1]\n";
        std::fs::write(&file, text).unwrap();
        let spec = Spec::find(file.to_str().unwrap()).unwrap();
        let plan = Plan::new(&spec, &BTreeMap::new()).unwrap();
        let mut store = Store::open(&dir.path().join("out")).unwrap();
        let run = &plan.runs[1];
        let key = (run.id.as_str(), "x", run.name.as_str());
        let record = |outcome| Record::new(key, &run.config, outcome, made());
        store.add(record(Err("no memory".into()))).unwrap();
        assert!(plan_table(&plan, &store, &BTreeMap::new()).contains("failed, once more"));
        let result = test_run("vblora", "all", 1, &[0.5]);
        store.add(record(Ok(result))).unwrap();
        let seconds = [(plan.runs[0].id.clone(), 75.4)].into();
        let table = plan_table(&plan, &store, &seconds);
        assert!(
            table.contains("done") && table.contains("1 min 15 s"),
            "{table}"
        );
    }
}

//! The figures of a sweep's directory: the bank vectors that its VB-LoRA runs selected.

use std::{collections::BTreeMap, path::Path};

use super::{Figure, figures, footprints};
use crate::{
    Result,
    recordings::{FOLDER, Recording},
    sweep::{Plan, PlannedRun, Record, Store},
};

/// The maximum number of runs in a picture of footprints.
const PANELS: usize = 12;

/// A finished run that was recorded.
struct Recorded<'a> {
    run: &'a PlannedRun,
    record: &'a Record,
    recording: Recording,
}

/// The figures for each model, data and task. Figure 3 has a panel for each recorded run of the lowest seed. Figures 4 to 9 show the best
/// of these runs. Without recordings there are no figures.
///
/// # Errors
/// The directory is not that of a sweep; a recording cannot be read; a picture cannot be drawn.
pub fn sweep_figures(dir: &Path) -> Result<Vec<Figure>> {
    let store = Store::open(dir)?;
    let plans = store.plans()?;
    let mut made = Vec::new();
    for (number, group) in recorded(&plans, &store)?.values().enumerate() {
        let shown = group.iter().map(|one| &one.recording).take(PANELS);
        let mut of_group = vec![footprints(&shown.collect::<Vec<_>>())?];
        let best = group.iter().max_by(|a, b| score(a).total_cmp(&score(b)));
        if let Some(best) = best {
            let all = figures(&best.recording, best.record.completed())?;
            of_group.extend(all.into_iter().skip(1));
        }
        made.extend(of_group.into_iter().map(|figure| Figure {
            name: format!("selections-{}-{}", number + 1, figure.name),
            ..figure
        }));
    }
    Ok(made)
}

/// The recorded runs of the lowest seed by model, data and task.
fn recorded<'a>(
    plans: &'a [Plan],
    store: &'a Store,
) -> Result<BTreeMap<[String; 3], Vec<Recorded<'a>>>> {
    let mut groups: BTreeMap<_, Vec<Recorded<'a>>> = BTreeMap::new();
    for run in plans.iter().flat_map(|plan| &plan.runs) {
        let dir = store.run_dir(&run.id);
        let record = store.get(&run.id).filter(|r| r.completed().is_some());
        let Some(record) = record.filter(|_| dir.join(FOLDER).is_dir()) else {
            continue;
        };
        let key = ["model", "data", "task"].map(|key| run.config.value(key));
        let group = groups.entry(key).or_default();
        let seed = run.config.seed;
        if group
            .first()
            .is_some_and(|first| first.run.config.seed > seed)
        {
            group.clear();
        }
        let is_wanted = group
            .iter()
            .all(|known| known.run.config.seed == seed && known.run.id != run.id);
        if is_wanted {
            for path in Recording::find(&dir)? {
                let recording = Recording::read(&path)?;
                group.push(Recorded {
                    run,
                    record,
                    recording,
                });
            }
        }
    }
    Ok(groups)
}

fn score(one: &Recorded<'_>) -> f64 {
    one.record
        .scores()
        .map_or(f64::NEG_INFINITY, |(best, _)| best)
}

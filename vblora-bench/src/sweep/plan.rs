//! The plan of a sweep, made before any run.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use serde::{Deserialize, Serialize};
use vblora::count::Count;
use vblora_models::ModelFiles;

use super::{
    config::{AnySession, RunConfig},
    expand::Wanted,
    identity::DataIdentity,
    spec::{Layout, Spec},
    store::Store,
};
use crate::{
    Error, Result,
    train::{check_steps, model_hash},
};

/// The runs of a sweep, resolved, counted and identified by a hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The sweep's name.
    pub sweep: String,
    /// The sweep's purpose.
    pub about: String,
    /// Its tables by name.
    pub tables: BTreeMap<String, Layout>,
    /// The runs in the order in which they are started.
    pub runs: Vec<PlannedRun>,
}

/// One run of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedRun {
    /// The run's name, unique in the sweep.
    pub name: String,
    /// The table that it belongs to.
    pub table: Option<String>,
    /// The run's hash. The same run in two tables is made once.
    pub id: String,
    /// Trained and stored parameters and bytes, without the head.
    pub count: Count,
    /// Parameters of the head.
    pub head: usize,
    /// Optimizer steps.
    pub steps: u64,
    /// Rows of the training split and of the development split.
    pub rows: [usize; 2],
    /// The configuration.
    pub config: RunConfig,
}

impl Plan {
    /// Resolves every run of a sweep. `places` maps names of models and data to directories.
    ///
    /// # Errors
    /// A setting does not fit its method, model or data. A model or data does not exist. Two runs have the same name, or a table has the
    /// same configuration twice. Errors give the line of the sweep file, except for missing files.
    pub fn new(spec: &Spec, places: &BTreeMap<String, String>) -> Result<Self> {
        let wanted = spec.expand(places)?;
        let mut cache = Cache::default();
        let mut runs: Vec<PlannedRun> = Vec::new();
        let (mut names, mut ids) = (HashMap::new(), HashMap::new());
        for (i, wanted_run) in wanted.iter().enumerate() {
            let run = cache.planned(wanted_run).map_err(|error| {
                let hint = hint(spec, &error);
                spec.error(
                    wanted_run.line,
                    format!("{}: {error}{hint}", wanted_run.name),
                )
            })?;
            let of_name = names.insert(run.name.clone(), i);
            let of_id = ids.insert((run.id.clone(), run.table.clone()), i);
            let refused = match (of_name, of_id) {
                (Some(other), _) => Some((
                    other,
                    format!(
                        "two runs are named \"{}\"; give their blocks names",
                        run.name
                    ),
                )),
                (None, Some(other)) => {
                    let name = &wanted[other].name;
                    let message = format!("\"{}\" is the same run as \"{name}\"", run.name);
                    Some((other, message))
                }
                (None, None) => None,
            };
            if let Some((other, message)) = refused {
                let message = format!("{message} (line {})", wanted[other].line);
                return Err(spec.error(wanted_run.line, message));
            }
            runs.push(run);
        }
        Ok(Self {
            sweep: spec.name.clone(),
            about: spec.about.clone(),
            tables: spec.tables.clone(),
            runs,
        })
    }

    /// The runs of the store's share, or all. A run that stands in several tables comes once.
    pub fn share<'a>(&'a self, store: &Store) -> Vec<&'a PlannedRun> {
        let shard = store.shard();
        let own = shard.map(|shard| shard.of(self.runs.iter().map(|run| run.id.as_str())));
        let is_ours = |id: &str| own.as_ref().is_none_or(|own| own.contains(id));
        let mut seen = HashSet::new();
        let runs = self.runs.iter();
        runs.filter(|run| is_ours(&run.id) && seen.insert(&run.id))
            .collect()
    }

    /// The runs of the store's share that remain.
    pub fn left<'a>(&'a self, store: &Store) -> Vec<&'a PlannedRun> {
        let is_left = |run: &&PlannedRun| !store.is_done(&run.id);
        self.share(store).into_iter().filter(is_left).collect()
    }
}

/// What to do about a model or data under a name that has no place.
fn hint(spec: &Spec, error: &Error) -> String {
    let first = |path: &Path| {
        let first = path.components().next().filter(|_| !path.exists());
        first.map(|part| part.as_os_str().to_string_lossy().into_owned())
    };
    let name = match error {
        Error::Model(vblora_models::Error::Hub { model, .. })
        | Error::Model(vblora_models::Error::NoHubFeature { model }) => Some(model.clone()),
        Error::Io { path, .. } | Error::NoSplit { dir: path, .. } => first(path),
        _ => None,
    };
    let name = name.filter(|name| spec.names().contains(name.as_str()));
    name.map_or(String::new(), |name| {
        format!("; give its directory with --place {name}=DIR")
    })
}

/// Seconds formatted for people.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// Models and data that many runs share.
#[derive(Default)]
struct Cache {
    models: BTreeMap<String, (ModelFiles, String)>,
    /// Data by place, task, model and texts.
    data: BTreeMap<[String; 4], DataIdentity>,
}

impl Cache {
    fn planned(&mut self, wanted: &Wanted) -> Result<PlannedRun> {
        let config = &wanted.config;
        let (files, model) = self.model(config)?;
        let session = config.session_on(files.clone(), None, "a plan")?;
        let data = self.data(config, &files, &session)?;
        let summary = session.summary()?;
        let count = config.method()?.count(&config.recipe, &summary)?;
        let recipe = &config.recipe;
        let batches = data.train.div_ceil(recipe.batch);
        let steps_per_epoch = batches.div_ceil(recipe.accumulation);
        check_steps(recipe, steps_per_epoch)?;
        let steps = recipe.steps(steps_per_epoch);
        Ok(PlannedRun {
            name: wanted.name.clone(),
            table: wanted.table.clone(),
            id: config.id([&model, &data.hash, &config.bank_hash()?]),
            count,
            head: summary.head,
            steps: steps as u64,
            rows: [data.train, data.dev],
            config: config.clone(),
        })
    }

    fn model(&mut self, config: &RunConfig) -> Result<(ModelFiles, String)> {
        if let Some(known) = self.models.get(&config.model) {
            return Ok(known.clone());
        }
        let files = config.files()?;
        let hash = model_hash(&files)?;
        let entry = self.models.entry(config.model.clone());
        Ok(entry.or_insert((files, hash)).clone())
    }

    fn data(
        &mut self,
        config: &RunConfig,
        files: &ModelFiles,
        session: &AnySession,
    ) -> Result<DataIdentity> {
        let text = serde_json::to_string(&config.text).unwrap_or_default();
        let key = [
            &config.data,
            config.recipe.task.name(),
            &config.model,
            &text,
        ]
        .map(str::to_owned);
        if let Some(known) = self.data.get(&key) {
            return Ok(known.clone());
        }
        let identity = match session {
            AnySession::Labels(session) => DataIdentity::of(&session.data, &config.recipe)?,
            AnySession::Texts(session, text) => DataIdentity::of_texts(&session.data, text, files)?,
        };
        Ok(self.data.entry(key).or_insert(identity).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::Record;

    const SPEC: &str = r#"about = "a test"
[base]
recipe = "demo"
task = "demo"
[tables.t]
title = "T"
rows = ["method"]
columns = "k"
[[grid]]
table = "t"
method = ["head", "vblora"]
seed = [1, 2]
[[run]]
name = "again"
method = "vblora"
seed = 1
"#;

    fn plan(text: &str) -> Result<Plan> {
        Plan::new(&Spec::parse("x", "x.toml", text)?, &BTreeMap::new())
    }

    #[test]
    fn a_plan_counts_before_anything_is_trained() {
        let plan = plan(SPEC).unwrap();
        let names: Vec<_> = plan.runs.iter().map(|run| run.name.as_str()).collect();
        let expected = [
            "head seed=1",
            "vblora seed=1",
            "again",
            "head seed=2",
            "vblora seed=2",
        ];
        assert_eq!(names, expected);
        let [head, vblora, again] = [0, 1, 2].map(|i| &plan.runs[i]);
        // The README shows these numbers of the default run.
        assert_eq!((head.count.trained, vblora.count.trained), (0, 101_376));
        assert_eq!(vblora.count.bytes, 24_576);
        // 6,700 rows in batches of 16, for two epochs.
        assert_eq!((vblora.rows, vblora.steps), ([6700, 1206], 838));
        assert_eq!(vblora.id, again.id);
        assert_ne!(head.id, vblora.id);
    }

    #[test]
    fn the_same_run_in_two_tables_is_made_once_and_a_failed_one_again() {
        let plan = plan(SPEC).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let left = |store: &Store| plan.left(store).len();
        assert_eq!(left(&store), 4);
        let run = &plan.runs[1];
        let key = (run.id.as_str(), "x", run.name.as_str());
        let record = |outcome| {
            Record::new(
                key,
                &run.config,
                outcome,
                crate::sweep::record::tests::made(),
            )
        };
        store.add(record(Err("no memory".into()))).unwrap();
        assert_eq!(left(&store), 4);
        let result = crate::results::test_run("vblora", "all", 1, &[0.5]);
        store.add(record(Ok(result))).unwrap();
        assert_eq!(left(&store), 3);
    }

    #[test]
    fn two_runs_of_one_name_and_one_run_twice_in_a_table_are_refused() {
        let message = |text: &str| plan(text).unwrap_err().to_string();
        let grid = "[[grid]]\ntable = \"t\"\nmethod = [\"head\"]\nseed = [1]\n";
        let error = message(&format!("{SPEC}{grid}"));
        assert!(
            error.starts_with("x.toml, line 17: two runs are named \"head seed=1\""),
            "{error}"
        );
        let error = message(&format!(
            "{SPEC}{}",
            grid.replace("method", "name = \"n\"\nmethod")
        ));
        assert!(
            error.contains("\"n head seed=1\" is the same run as \"head seed=1\" (line 9)"),
            "{error}"
        );
    }

    #[test]
    fn a_name_without_a_place_says_how_to_give_it() {
        let spec = SPEC.replacen("task = \"demo\"", "task = \"sst2\"", 1);
        let spec = spec.replacen("recipe = \"demo\"", "recipe = \"roberta_base\"", 1);
        let text = spec.replacen("[base]", "[base]\ndata = \"glue\"", 1);
        let error = plan(&text).unwrap_err().to_string();
        assert!(
            error.ends_with("; give its directory with --place glue=DIR"),
            "{error}"
        );
    }

    #[test]
    fn what_does_not_fit_the_model_is_found_before_the_first_run() {
        let error = plan(&SPEC.replace("[[run]]", "[[run]]\nb = 7")).unwrap_err();
        let error = error.to_string();
        assert!(
            error.starts_with("x.toml, line 13: again: ") && error.contains('7'),
            "{error}"
        );
    }
}

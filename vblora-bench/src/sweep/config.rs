//! The configuration of one run of a sweep, and the id that follows from it.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use vblora::{backend::VbLoraBackend, storage::sha256_hex};
use vblora_models::{BaseDtype, ModelFiles, resolve};

use super::{
    axis::{self, NOT_TAKEN},
    text::TextRun,
};
use crate::{
    Error, Result, demo,
    recipes::Recipe,
    tasks::Task,
    train::{
        CheckpointSettings, DataSource, Method, ModelSummary, Output, RunDir, Session, Source,
        causal::TextSource,
    },
};

/// The name of the bundled model or data.
pub const BUNDLED: &str = "bundled";

/// Steps between recorded selections, for figures and viewer.
const RECORD_EVERY: usize = 10;

/// Hexadecimal digits of a run's id, which names its directory.
const ID_DIGITS: usize = 16;

/// Everything that a run's result depends on, except for its device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// A directory, a hub id, or [`BUNDLED`].
    pub model: String,
    /// A directory in GLUE's layout, a file of texts, or [`BUNDLED`].
    pub data: String,
    /// The texts and the benchmarks of a causal model; absent for a task with labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextRun>,
    /// The method's name.
    pub method: String,
    /// The seed.
    pub seed: u64,
    /// Every hyperparameter, with defaults and overrides applied.
    pub recipe: Recipe,
}

/// A run as a session, by the kind of its data.
#[derive(Debug)]
pub enum AnySession {
    /// Examples with labels, for an encoder.
    Labels(Session),
    /// Texts, for a causal model, with the benchmarks after training.
    Texts(Session<TextSource>, TextRun),
}

impl AnySession {
    /// [`Session::summary`].
    ///
    /// # Errors
    /// As there.
    pub fn summary(&self) -> Result<ModelSummary> {
        match self {
            Self::Labels(session) => session.summary(),
            Self::Texts(session, _) => session.summary(),
        }
    }

    /// [`Session::step_seconds`].
    ///
    /// # Errors
    /// As there.
    pub fn step_seconds<B: VbLoraBackend>(&self, device: &B::Device) -> Result<f64> {
        match self {
            Self::Labels(session) => session.step_seconds::<B>(device),
            Self::Texts(session, _) => session.step_seconds::<B>(device),
        }
    }
}

impl RunConfig {
    /// The method.
    ///
    /// # Errors
    /// The name is unknown.
    pub fn method(&self) -> Result<Method> {
        axis::method(&self.method)
    }

    /// The model's files.
    ///
    /// # Errors
    /// The files do not exist.
    pub fn files(&self) -> Result<ModelFiles> {
        match self.model.as_str() {
            BUNDLED if self.recipe.task.is_text() => Ok(demo::decoder_files()),
            BUNDLED => Ok(demo::model_files()),
            place => Ok(resolve(place, None)?),
        }
    }

    /// The data.
    pub fn source(&self) -> DataSource {
        match self.data.as_str() {
            BUNDLED => DataSource::Demo,
            dir => DataSource::Directory(dir.into()),
        }
    }

    /// The value of a sweep file's key as text; `-` if the method does not take it.
    pub fn value(&self, key: &str) -> String {
        let Ok(method) = self.method() else {
            return NOT_TAKEN.into();
        };
        match key {
            "method" => self.method.clone(),
            "model" => self.model.clone(),
            "data" => self.data.clone(),
            "seed" => self.seed.to_string(),
            // k has no meaning if all vectors are mixed.
            "k" if self.recipe_value(method, "selection") == "select-all" => "all".into(),
            key if axis::is_text_key(key) => {
                let value = self.text.as_ref().and_then(|text| text.value(key));
                value.unwrap_or_else(|| NOT_TAKEN.into())
            }
            key => self.recipe_value(method, key),
        }
    }

    /// The recipe's key for a key of a sweep file.
    pub(crate) fn recipe_key(&self, key: &str) -> String {
        let method = self.method();
        method.map_or_else(|_| key.into(), |method| axis::recipe_key(method, key))
    }

    fn recipe_value(&self, method: Method, key: &str) -> String {
        let mut leaves = axis::effective(&self.recipe, method);
        let found = leaves.remove(&axis::recipe_key(method, key));
        found.unwrap_or_else(|| NOT_TAKEN.into())
    }

    /// Every dotted key that the run depends on, with its value: those of the recipe, and those of texts and benchmarks.
    pub fn keys(&self) -> BTreeMap<String, String> {
        let method = self.method();
        let mut keys = method.map_or_else(
            |_| BTreeMap::new(),
            |method| axis::effective(&self.recipe, method),
        );
        keys.extend(self.text.iter().flat_map(TextRun::keys));
        keys
    }

    /// The hash of the shared bank that the run starts from, if it has one.
    ///
    /// # Errors
    /// The bank's file cannot be read.
    pub(super) fn bank_hash(&self) -> Result<String> {
        let shared = self.recipe.bank.as_ref();
        match shared.filter(|_| self.method == Method::VbLora.name()) {
            Some(shared) => Ok(shared.load()?.sha256()),
            None => Ok(String::new()),
        }
    }

    /// The run's id: the first digits of SHA-256 over a canonical form (sorted keys) of everything that its result depends on. Files count
    /// by their content: `model`, `data` and `bank` are hashes.
    pub(super) fn id(&self, [model, data, bank]: [&str; 3]) -> String {
        let seed = self.seed.to_string();
        let run = [
            ("model", model),
            ("data", data),
            ("bank", bank),
            ("method", &self.method),
            ("seed", &seed),
        ];
        let mut keys = self.keys();
        keys.remove("bank.file");
        // A recipe has no table "run".
        keys.extend(run.map(|(key, value)| (format!("run.{key}"), value.to_owned())));
        let lines = keys
            .iter()
            .map(|(key, value)| format!("{key:?}={value:?}\n"));
        let mut id = sha256_hex(lines);
        id.truncate(ID_DIGITS);
        id
    }

    /// The run as a session. It continues a directory with a part of the same run, and replaces one with another run.
    ///
    /// # Errors
    /// There is no such method, model or text; the task is not one of the data.
    pub fn session(&self, out: Option<Output>, command: &str) -> Result<AnySession> {
        self.session_on(self.files()?, out, command)
    }

    /// [`session`](Self::session) with the model's files.
    pub(super) fn session_on(
        &self,
        files: ModelFiles,
        out: Option<Output>,
        command: &str,
    ) -> Result<AnySession> {
        self.check_task()?;
        Ok(match &self.text {
            None => AnySession::Labels(self.session_with(self.source(), files, out, command)?),
            Some(text) => {
                let source = text.source(&self.data)?;
                let session = self.session_with(source, files, out, command)?;
                AnySession::Texts(session, text.clone())
            }
        })
    }

    fn session_with<S: Source>(
        &self,
        data: S,
        files: ModelFiles,
        out: Option<Output>,
        command: &str,
    ) -> Result<Session<S>> {
        let dir = out.as_ref().map(|out| &out.dir);
        let resume = match dir.filter(|dir| RunDir::holds_session(dir)) {
            Some(dir) => self.is_in(dir, data.summary(&self.recipe, &files)?.base_dtype),
            None => false,
        };
        Ok(Session {
            recipe: self.recipe.clone(),
            methods: vec![self.method()?],
            files,
            data,
            out,
            overwrite: !resume,
            resume,
            checkpoints: CheckpointSettings::default(),
            record_every: Some(RECORD_EVERY),
            quiet: true,
            command: command.into(),
        })
    }

    /// Returns true if a session's directory is of this run, whose base is held in this form.
    fn is_in(&self, dir: &Path, held: BaseDtype) -> bool {
        let recipe = RunDir::recipe(dir);
        recipe.is_ok_and(|there| there.settled(held) == self.recipe.settled(held))
    }

    fn check_task(&self) -> Result<()> {
        let task = &self.recipe.task;
        let expected = match self.data.as_str() {
            _ if task.is_text() && self.text.is_none() => "a task with labels",
            _ if !task.is_text() && self.text.is_some() => "text, since the run has texts",
            BUNDLED if task.is_text() => return Ok(()),
            BUNDLED if *task != Task::demo() => {
                "demo with the bundled data, which has no other task"
            }
            _ => return Ok(()),
        };
        Err(Error::Setting {
            setting: "task".into(),
            expected: expected.into(),
            found: task.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use vblora::{
        Site, Targets, VbLoraConfig,
        storage::{HostAdapter, HostVbLora, peft::PeftAdapter},
    };

    use super::*;
    use crate::recipes::{SharedBank, Size};

    fn config() -> RunConfig {
        RunConfig {
            model: BUNDLED.into(),
            data: BUNDLED.into(),
            text: None,
            method: "lora".into(),
            seed: 3,
            recipe: Recipe::builtin(Size::Demo, &Task::demo()).unwrap(),
        }
    }

    #[test]
    fn an_id_depends_on_all_that_matters_and_on_nothing_else() {
        let id = |config: &RunConfig| config.id(["m", "d", ""]);
        let first = config();
        assert_eq!(id(&first).len(), ID_DIGITS);
        for other in [["n", "d", ""], ["m", "e", ""], ["m", "d", "b"]] {
            assert_ne!(first.id(other), id(&first));
        }
        // The model's location and other methods' settings change nothing.
        let mut same = config();
        same.model = "elsewhere".into();
        same.recipe.vblora.bank = 7;
        same.recipe.seeds = vec![1, 2];
        assert_eq!(id(&same), id(&first));
        let changes: [fn(&mut RunConfig); 4] = [
            |c| c.seed = 4,
            |c| c.method = "vblora".into(),
            |c| c.recipe.lora.rank = 3,
            |c| c.recipe.lr.adapter = 2e-3,
        ];
        for change in changes {
            let mut other = config();
            change(&mut other);
            assert_ne!(id(&other), id(&first));
        }
    }

    #[test]
    fn a_shared_bank_counts_by_what_is_in_it() {
        let on = |file: &str, frozen| {
            let file = file.into();
            let mut config = config();
            config.method = "vblora".into();
            config.recipe.bank = Some(SharedBank { file, frozen });
            config.id(["m", "d", "b"])
        };
        assert_eq!(on("here", false), on("there", false));
        assert_ne!(on("here", false), on("here", true));
    }

    #[test]
    fn a_shared_bank_may_lie_in_a_compact_file_or_a_peft_directory() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Targets::all_linear().select(&[Site::new("q", 8, 8)]);
        let settings = VbLoraConfig {
            vector_length: 4,
            ..Default::default()
        };
        let settings = settings.check(&plan.unwrap()).unwrap();
        let (h, b) = (settings.config().bank, settings.config().vector_length);
        let bank: Vec<f32> = (0..h * b).map(|i| i as f32).collect();
        let adapter = HostVbLora::new(settings.clone(), bank, settings.initial_logits(1)).unwrap();
        let [file, folder] = ["bank.safetensors", "peft"].map(|name| dir.path().join(name));
        adapter.store().save(&file).unwrap();
        let peft = PeftAdapter::new(HostAdapter::VbLora(adapter));
        peft.write(&folder).unwrap();
        let [in_file, in_folder] = [file, folder].map(|file| {
            let mut config = config();
            config.method = "vblora".into();
            let frozen = false;
            config.recipe.bank = Some(SharedBank { file, frozen });
            config.bank_hash().unwrap()
        });
        assert_eq!(in_file, in_folder);
        assert!(!in_file.is_empty());
    }

    #[test]
    fn a_config_goes_round_as_json() {
        let mut config = config();
        (config.seed, config.recipe.lr.head) = (u64::MAX, 0.1 + 0.2);
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<RunConfig>(&text).unwrap(), config);
    }

    #[test]
    fn values_are_the_runs_own() {
        let config = config();
        let value = |key| config.value(key);
        assert_eq!([value("r"), value("k"), value("lr.bank")], ["8", "-", "-"]);
        let vblora = RunConfig {
            method: "vblora".into(),
            ..config.clone()
        };
        assert_eq!(
            ["k", "selection"].map(|key| vblora.value(key)),
            ["2", "topk"]
        );
        assert_eq!(value("selection"), "-");
        assert_eq!(
            [value("task"), value("seed"), value("targets")],
            ["demo", "3", "all"]
        );
    }

    #[test]
    fn bundled_data_is_of_one_task() {
        let mut config = config();
        config.recipe.task = Task::mrpc();
        let error = config.session(None, "test").unwrap_err().to_string();
        assert!(error.contains("demo") && error.contains("mrpc"), "{error}");
    }
}

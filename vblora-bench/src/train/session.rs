//! Many runs on one model and one task: methods times seeds.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use vblora::{backend::VbLoraBackend, storage::Bank};
use vblora_models::{EncoderConfig, ModelFiles, Roberta, TextTokenizer};

use super::{
    checkpoint::CheckpointSettings,
    data::EncodedSplit,
    identity::Identity,
    log::StepLog,
    method::Method,
    run::{Prepared, Run, head_parameters},
    run_dir::RunDir,
};
use crate::{
    Error, Result, demo,
    recipes::Recipe,
    report::{Results, RunResult},
    tasks::{Split, SplitName, read_split},
};

/// Where the examples come from.
#[derive(Debug, Clone)]
pub enum DataSource {
    /// The bundled demonstration set.
    Demo,
    /// A directory in GLUE's layout.
    Directory(PathBuf),
}

impl DataSource {
    fn read(&self, recipe: &Recipe, name: SplitName) -> Result<Split> {
        match self {
            Self::Demo => demo::split(name),
            Self::Directory(dir) => read_split(dir, recipe.task, name),
        }
    }
}

/// What a user asks for.
#[derive(Debug)]
pub struct Session {
    /// Every hyperparameter.
    pub recipe: Recipe,
    /// The methods to compare.
    pub methods: Vec<Method>,
    /// The model.
    pub files: ModelFiles,
    /// The data.
    pub data: DataSource,
    /// Where the outcome goes; nowhere without it.
    pub out: Option<PathBuf>,
    /// Whether `out` may hold a run already.
    pub overwrite: bool,
    /// Whether the session in `out` goes on where it was interrupted or killed; without one there it starts.
    pub resume: bool,
    /// When checkpoints are written to `out`, and how many stay.
    pub checkpoints: CheckpointSettings,
    /// No progress.
    pub quiet: bool,
    /// The command, for the record.
    pub command: String,
}

impl Session {
    /// The dry run, from the model's configuration alone: per method the sites, what would be trained and what stored.
    ///
    /// # Errors
    /// A setting that does not fit the model.
    pub fn plan(&self) -> Result<String> {
        let model = self.config()?;
        let head = vblora::count::dense(head_parameters(&model, self.recipe.task));
        let methods = self
            .methods
            .iter()
            .map(|method| method.describe(&self.recipe, &model))
            .collect::<Result<Vec<_>>>()?;
        Ok(format!(
            "{}: {} layers of width {}\n{}head, trained beside each\n  {head}\n",
            self.files.place(),
            model.num_layers,
            model.hidden_size,
            methods.concat()
        ))
    }

    /// The model's configuration with the recipe's dropout, if it has one.
    fn config(&self) -> Result<EncoderConfig> {
        let mut config = EncoderConfig::from_files(&self.files)?;
        if let Some(p) = self.recipe.base_dropout {
            (config.hidden_dropout, config.attention_dropout) = (p, p);
        }
        config.base_dtype = self.recipe.base_dtype;
        Ok(config)
    }

    /// Runs every method with every seed; after each run the outcome so far is saved.
    ///
    /// # Errors
    /// Anything wrong with settings, model or data is found before the first step. A run that goes wrong on its own (a loss that is not
    /// finite) is part of the outcome, not an error.
    pub fn run<B: VbLoraBackend>(
        &self,
        device: &B::Device,
        interrupted: &AtomicBool,
    ) -> Result<Results> {
        if self.methods.is_empty() {
            return Err(Error::Setting {
                setting: "method".into(),
                expected: "at least one".into(),
                found: "none".into(),
            });
        }
        self.recipe.validate()?;
        self.checkpoints.validate()?;
        self.plan()?;
        let prepared = self.prepare::<B>(device)?;
        let backend = B::name(device);
        let dir = self
            .out
            .as_ref()
            .map(|dir| self.take(dir, &backend))
            .transpose()?;
        let ended = dir.as_ref().map_or(Ok(Vec::new()), RunDir::ended_runs)?;
        self.check_methods(&ended)?;
        let mut log = StepLog::new(dir.as_ref().map(RunDir::log).as_deref(), self.quiet)?;
        let mut runs = Vec::new();
        for (method, seed) in self
            .methods
            .iter()
            .flat_map(|&m| self.recipe.seeds.iter().map(move |&s| (m, s)))
        {
            let is_this = |run: &&RunResult| run.method == method.name() && run.seed == seed;
            if let Some(run) = ended.iter().find(is_this) {
                runs.push(run.clone());
                continue;
            }
            if interrupted.load(Ordering::Relaxed) {
                break;
            }
            runs.push(Run { method, seed }.train(
                &prepared,
                &mut log,
                dir.as_ref(),
                interrupted,
            )?);
            if let Some(dir) = &dir {
                dir.save_results(&Results::new(&self.command, &backend, runs.clone()))?;
            }
        }
        Ok(Results::new(&self.command, &backend, runs))
    }

    /// Refuses to go on with fewer methods: what the others reached would be lost from the results.
    fn check_methods(&self, ended: &[RunResult]) -> Result<()> {
        let names: Vec<_> = self.methods.iter().map(|method| method.name()).collect();
        match ended.iter().find(|run| !names.contains(&&*run.method)) {
            None => Ok(()),
            Some(run) => Err(Error::OtherRun {
                place: self.out.clone().unwrap_or_default(),
                part: "list of methods",
                expected: format!("one with {}", run.method),
                found: names.join(", "),
            }),
        }
    }

    /// The directory for the outcome, as a new one or with what it holds.
    fn take(&self, dir: &Path, backend: &str) -> Result<RunDir> {
        if self.resume && RunDir::holds_session(dir) {
            return RunDir::reopen(dir, &self.recipe, self.checkpoints);
        }
        let taken = RunDir::create(dir, self.overwrite, self.checkpoints)?;
        taken.save_config(&self.command, &self.files.place(), backend, &self.recipe)?;
        Ok(taken)
    }

    /// The shared bank, if the recipe has one, checked against the recipe's settings.
    fn bank(&self, model: &EncoderConfig) -> Result<Option<Bank>> {
        let Some(shared) = &self.recipe.bank else {
            return Ok(None);
        };
        let bank = Bank::load(&shared.file)?;
        let plan = Method::sites(&self.recipe, model)?;
        let fits = self.recipe.vblora.check(&plan)?.check_bank(&bank);
        fits.map_err(|error| vblora::Error::Format {
            path: shared.file.clone(),
            reason: error.to_string(),
        })?;
        Ok(Some(bank))
    }

    fn prepare<B: VbLoraBackend>(&self, device: &B::Device) -> Result<Prepared<B>> {
        let config = self.config()?;
        let bank = self.bank(&config)?;
        let tokenizer = TextTokenizer::from_files(&self.files)?;
        tokenizer.check_fits(config.vocab_size)?;
        // A sentence longer than the position table is cut to it; how many were is part of the results.
        let max_length = self.recipe.max_length.min(config.usable_positions());
        let encode =
            |name| EncodedSplit::new(&self.data.read(&self.recipe, name)?, &tokenizer, max_length);
        let (train, dev) = (encode(SplitName::Train)?, encode(SplitName::Dev)?);
        if train.truncated() + dev.truncated() > 0 && !self.quiet {
            tracing::warn!(
                "{} train and {} dev inputs were cut to {max_length} tokens",
                train.truncated(),
                dev.truncated()
            );
        }
        let (base, _) = Roberta::load_with(config, &self.files, device)?;
        let splits = [&train, &dev];
        let identity = Identity::new(&base, splits, &self.recipe, bank.as_ref(), device)?;
        Ok(Prepared {
            base,
            identity,
            bank,
            train,
            dev,
            recipe: self.recipe.clone(),
            device: device.clone(),
        })
    }
}

//! Many runs on one model and one task: methods times seeds.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use vblora::{backend::VbLoraBackend, storage::Bank};
use vblora_models::ModelFiles;

use super::{
    checkpoint::CheckpointSettings,
    identity::Identity,
    log::StepLog,
    method::Method,
    objective::Objective,
    run::{Prepared, Run},
    run_dir::RunDir,
    source::{DataSource, Loaded, Shape, Source},
};
use crate::{
    Error, Result,
    recipes::Recipe,
    report::{Results, RunResult},
};

/// What a user asks for.
#[derive(Debug)]
pub struct Session<S = DataSource> {
    /// Every hyperparameter.
    pub recipe: Recipe,
    /// The methods to compare.
    pub methods: Vec<Method>,
    /// The model.
    pub files: ModelFiles,
    /// The data.
    pub data: S,
    /// Where the outcome goes; nowhere without it.
    pub out: Option<PathBuf>,
    /// Whether `out` may hold a run already.
    pub overwrite: bool,
    /// Whether the session in `out` goes on where it was interrupted or killed; without one there it starts.
    pub resume: bool,
    /// When checkpoints are written to `out`, and how many stay.
    pub checkpoints: CheckpointSettings,
    /// What VB-LoRA selects is recorded in `out` every so many optimizer steps; not at all without it.
    pub record_every: Option<usize>,
    /// No progress.
    pub quiet: bool,
    /// The command, for the record.
    pub command: String,
}

impl<S: Source> Session<S> {
    /// The dry run, from the model's configuration alone: per method the sites, what would be trained and what stored.
    ///
    /// # Errors
    /// A setting that does not fit the model.
    pub fn plan(&self) -> Result<String> {
        let model = self.shape()?;
        let methods = self
            .methods
            .iter()
            .map(|method| method.describe(&self.recipe, &model))
            .collect::<Result<Vec<_>>>()?;
        let head = match model.head {
            0 => String::new(),
            head => format!(
                "head, trained beside each\n  {}\n",
                vblora::count::dense(head)
            ),
        };
        Ok(format!(
            "{}: {} layers of width {}\n{}{head}",
            self.files.name(),
            model.layers,
            model.width,
            methods.concat()
        ))
    }

    /// What a dry run knows of the model.
    ///
    /// # Errors
    /// A configuration that cannot be used.
    pub fn shape(&self) -> Result<Shape> {
        self.data.shape(&self.recipe, &self.files)
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
        self.run_counted::<B>(device, interrupted, Arc::default())
    }

    /// [`run`](Self::run), with the optimizer steps that the current run has taken in `steps`, for whoever watches from another thread.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_counted<B: VbLoraBackend>(
        &self,
        device: &B::Device,
        interrupted: &AtomicBool,
        steps: Arc<AtomicU64>,
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
        if self.record_every == Some(0) {
            return Err(Error::Setting {
                setting: "record-every".into(),
                expected: "at least 1".into(),
                found: "0".into(),
            });
        }
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
        let log = StepLog::new(dir.as_ref().map(RunDir::log).as_deref(), self.quiet)?;
        let mut log = log.counting(steps);
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
            let dir = RunDir::reopen(dir, &self.recipe, self.checkpoints)?;
            return Ok(dir.with_recording(self.record_every));
        }
        let taken = RunDir::create(dir, self.overwrite, self.checkpoints)?
            .with_recording(self.record_every);
        taken.save_config(&self.command, &self.files.name(), backend, &self.recipe)?;
        Ok(taken)
    }

    /// The shared bank, if the recipe has one, checked against the recipe's settings.
    fn bank(&self, model: &Shape) -> Result<Option<Bank>> {
        let Some(shared) = &self.recipe.bank else {
            return Ok(None);
        };
        let bank = shared.load()?;
        let plan = model.plan()?;
        let fits = self.recipe.vblora.check(&plan)?.check_bank(&bank);
        fits.map_err(|error| vblora::Error::Format {
            path: shared.file.clone(),
            reason: error.to_string(),
        })?;
        Ok(Some(bank))
    }

    pub(super) fn prepare<B: VbLoraBackend>(
        &self,
        device: &B::Device,
    ) -> Result<Prepared<B, S::Objective<B>>> {
        let recipe = &self.recipe;
        let shape = self.shape()?;
        let bank = self.bank(&shape)?;
        let Loaded {
            base,
            train,
            dev,
            notes,
        } = self.data.load::<B>(recipe, &self.files, device)?;
        for note in notes.iter().filter(|_| !self.quiet) {
            tracing::warn!("{note}");
        }
        let hash = <S::Objective<B> as Objective<B>>::sha256;
        let splits = [hash(&train), hash(&dev)];
        let identity = Identity::new(&base, splits, recipe, bank.as_ref(), device)?;
        let before = <S::Objective<B> as Objective<B>>::before(&base, &dev, recipe, device)?;
        Ok(Prepared {
            base,
            files: self.files.clone(),
            shape,
            identity,
            bank,
            train,
            dev,
            before,
            recipe: recipe.clone(),
            device: device.clone(),
        })
    }
}

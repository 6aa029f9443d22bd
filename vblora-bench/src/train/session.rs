//! Many runs on one model and one task: methods times seeds.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use vblora::{backend::VbLoraBackend, storage::Bank};
use vblora_models::ModelFiles;

use super::{
    checkpoint::CheckpointSettings,
    identity::Identity,
    log::StepLog,
    method::Method,
    objective::Objective,
    output::Output,
    run::{Prepared, Run},
    run_dir::{Claim, Permissions, RunDir, SessionIdentity},
    source::{DataSource, Loaded, Shape, Source},
};
use crate::{
    Error, Result,
    directory::DirLock,
    recipes::Recipe,
    results::{Results, RunResult, Stop},
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
    pub out: Option<Output>,
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

/// What a session leaves when it has ended.
#[derive(Debug)]
pub struct Ended<M> {
    /// What its runs reached.
    pub results: Results,
    /// The pretrained model, as it was before.
    pub base: M,
    /// The lock of its directory, if it has one.
    pub lock: Option<DirLock>,
}

/// A session that has ended on a backend.
type EndedOn<B, S> = Ended<<<S as Source>::Objective<B> as Objective<B>>::Model>;

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
    /// Anything wrong with settings, model, data or directory is found before the first step. A run that goes wrong on its own (a loss that is not
    /// finite) is part of the outcome, not an error.
    pub fn run<B: VbLoraBackend>(
        &self,
        device: &B::Device,
        interrupted: &AtomicBool,
    ) -> Result<Results> {
        self.run_counted::<B>(device, interrupted, Arc::default())
    }

    /// [`run`](Self::run), with the model and the lock of the directory `out`, for whoever goes on with them.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_locked<B: VbLoraBackend>(
        &self,
        device: &B::Device,
        interrupted: &AtomicBool,
    ) -> Result<EndedOn<B, S>> {
        self.run_all::<B>(device, interrupted, Arc::default())
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
        Ok(self.run_all::<B>(device, interrupted, steps)?.results)
    }

    fn run_all<B: VbLoraBackend>(
        &self,
        device: &B::Device,
        interrupted: &AtomicBool,
        steps: Arc<AtomicU64>,
    ) -> Result<EndedOn<B, S>> {
        self.validate()?;
        self.plan()?;
        // What is wrong with the directory is known before anything is loaded.
        let claim = self.out.as_ref().map(|out| self.claim(out)).transpose()?;
        let prepared = self.prepare::<B>(device)?;
        let backend = B::name(device);
        let enter = |claim| self.enter(claim, &prepared.identity, &backend);
        let dir = claim.map(enter).transpose()?;
        let past = dir.as_ref().map_or(Ok(Vec::new()), RunDir::past_runs)?;
        self.check_past(&past)?;
        let log = StepLog::new(dir.as_ref().map(RunDir::log).as_deref(), self.quiet)?;
        let mut log = log.counting(steps);
        // In the order of methods and seeds, whichever of them have ended before.
        let runs: Vec<Run> = self.runs().collect();
        let past_of = |run: &Run| past.iter().find(|past| run.is_of(past)).cloned();
        let mut reached: Vec<Option<RunResult>> = runs.iter().map(past_of).collect();
        let results = |reached: &[Option<RunResult>]| {
            let runs = reached.iter().flatten().cloned().collect();
            Results::new(&self.command, &backend, runs)
        };
        for (i, run) in runs.iter().enumerate() {
            let has_ended = |run: &RunResult| run.stop != Stop::Interrupted;
            if reached[i].as_ref().is_some_and(has_ended) {
                continue;
            }
            if interrupted.load(Ordering::Relaxed) {
                break;
            }
            reached[i] = Some(run.train(&prepared, &mut log, dir.as_ref(), interrupted)?);
            if let Some(dir) = &dir {
                dir.save_results(&results(&reached))?;
            }
        }
        Ok(Ended {
            results: results(&reached),
            base: prepared.base,
            lock: dir.map(RunDir::into_lock),
        })
    }

    fn validate(&self) -> Result<()> {
        let setting = |setting: &str, expected: &str, found: &str| {
            Err(Error::Setting {
                setting: setting.into(),
                expected: expected.into(),
                found: found.into(),
            })
        };
        if self.methods.is_empty() {
            return setting("method", "at least one", "none");
        }
        let twice = |&(i, method): &(usize, &Method)| self.methods[..i].contains(method);
        if let Some((_, method)) = self.methods.iter().enumerate().find(twice) {
            let found = format!("{} twice", method.name());
            return setting("method", "no two equal", &found);
        }
        if self.record_every == Some(0) {
            return setting("record-every", "at least 1", "0");
        }
        self.recipe.validate()?;
        self.checkpoints.validate()
    }

    /// Every method with every seed.
    fn runs(&self) -> impl Iterator<Item = Run> {
        let seeds = &self.recipe.seeds;
        let of = move |&method| seeds.iter().map(move |&seed| Run { method, seed });
        self.methods.iter().flat_map(of)
    }

    /// Refuses to go on with fewer runs: what the others reached would be lost from the results.
    fn check_past(&self, past: &[RunResult]) -> Result<()> {
        let other = |(part, expected, found)| {
            Err(Error::OtherRun {
                place: self
                    .out
                    .as_ref()
                    .map(|out| out.dir.clone())
                    .unwrap_or_default(),
                part,
                expected,
                found,
            })
        };
        let is_ours = |past: &&RunResult| self.runs().any(|run| run.is_of(past));
        if let Some(run) = past.iter().find(|past| !is_ours(past)) {
            let methods: Vec<_> = self.methods.iter().map(|method| method.name()).collect();
            return other(match methods.contains(&&*run.method) {
                false => (
                    "list of methods",
                    format!("one with {}", run.method),
                    methods.join(", "),
                ),
                true => (
                    "list of seeds",
                    format!("one with {}", run.seed),
                    format!("{:?}", self.recipe.seeds),
                ),
            });
        }
        for run in self.runs() {
            let times = past.iter().filter(|past| run.is_of(past)).count();
            if times > 1 {
                let there = format!("one with {} {times} times", run.label());
                let here = "one with every run once".into();
                return other(("list of results", there, here));
            }
        }
        Ok(())
    }

    /// The directory for the outcome, which is looked through and locked.
    fn claim<'a>(&'a self, out: &'a Output) -> Result<Claim<'a>> {
        let permissions = Permissions {
            overwrite: self.overwrite,
            resume: self.resume,
        };
        Claim::new(out, &self.recipe, permissions)
    }

    /// The directory for the outcome, as a new one or with what it holds.
    fn enter(&self, claim: Claim<'_>, identity: &Identity, backend: &str) -> Result<RunDir> {
        let identity = SessionIdentity::new(&self.files, identity.clone())?;
        let write_config = |dir: &RunDir| {
            dir.save_config(&self.command, &self.files.name(), backend, &self.recipe)
        };
        let dir = claim.enter(&identity, self.checkpoints, write_config)?;
        Ok(dir.with_recording(self.record_every))
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

//! Many runs on one model and one task: methods times seeds.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use vblora::{backend::VbLoraBackend, storage::Bank};
use vblora_models::{BaseDtype, ModelFiles};

use super::{
    checkpoint::CheckpointSettings,
    identity::{Identity, has_fixed_sums},
    length::Length,
    log::StepLog,
    made::Made,
    method::Method,
    model_hash::model_hash,
    objective::Objective,
    output::Output,
    ranks::{Leader, Ranks, Terms, agree, instructions, open, serve},
    run::{Prepared, Run},
    run_dir::{Claim, Permissions, RunDir, SessionIdentity},
    source::{DataSource, Loaded, ModelSummary, Source, Survey},
};
use crate::{
    Error, Result,
    directory::DirLock,
    group::program_hash,
    program::complain,
    recipes::Recipe,
    results::{Results, RunResult, Stop},
    tasks::counted,
};

/// The settings of a session.
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
    /// The output directory; `None` writes nothing.
    pub out: Option<Output>,
    /// True if `out` may hold an earlier run.
    pub overwrite: bool,
    /// True if an interrupted or killed session in `out` continues. Without one, a new session starts.
    pub resume: bool,
    /// The settings for checkpoints in `out`.
    pub checkpoints: CheckpointSettings,
    /// Optimizer steps between recorded VB-LoRA selections in `out`; `None` records nothing.
    pub record_every: Option<usize>,
    /// True if no progress is shown.
    pub quiet: bool,
    /// The command, for the record.
    pub command: String,
}

/// The outcome of a session.
#[derive(Debug)]
pub struct Ended<M> {
    /// The results of its runs.
    pub results: Results,
    /// The pretrained model, unchanged.
    pub base: M,
    /// The lock of its directory, if it has one.
    pub lock: Option<DirLock>,
}

/// A session that has ended on a backend.
type EndedOn<B, S> = Ended<<<S as Source>::Objective<B> as Objective<B>>::Model>;

impl<S: Source> Session<S> {
    /// The dry run, from the model's configuration alone. It lists the sites, trained parameters and stored bytes of each method.
    ///
    /// # Errors
    /// A setting does not fit the model.
    pub fn plan(&self) -> Result<String> {
        let model = self.summary()?;
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

    /// The rest of the dry run: reads the data, and checks everything that can be checked without the model's weights. Returns the outline
    /// of what would run.
    ///
    /// # Errors
    /// Settings, data or the output directory are wrong, as in [`run`](Self::run).
    pub fn rehearse(&self) -> Result<String> {
        self.validate()?;
        self.out.as_ref().map(|out| self.claim(out)).transpose()?;
        self.bank(&self.summary()?)?;
        let Survey {
            rows,
            batches,
            notes,
        } = self.data.survey(&self.recipe, &self.files)?;
        for note in notes.iter().filter(|_| !self.quiet) {
            tracing::warn!("{note}");
        }
        let length = Length::new(&self.recipe, batches.div_ceil(self.recipe.accumulation))?;
        Ok(self.outline(rows, length))
    }

    /// What runs, in a line. `rows` are the examples of the training and the development split.
    fn outline(&self, rows: [usize; 2], length: Length) -> String {
        let Recipe { epochs, seeds, .. } = &self.recipe;
        let of_epoch = length.steps_per_epoch;
        let unit = self.data.named(&self.recipe).unit;
        let steps = match length.steps < epochs.saturating_mul(of_epoch) {
            true => format!(
                "{} ({of_epoch} are an epoch)",
                counted(length.steps, "step", "steps")
            ),
            false => format!(
                "{} × {}",
                counted(*epochs, "epoch", "epochs"),
                counted(of_epoch, "step", "steps")
            ),
        };
        format!(
            "{} × {} × {steps}; {} to train on, {} to evaluate on",
            counted(self.methods.len(), "method", "methods"),
            counted(seeds.len(), "seed", "seeds"),
            counted(rows[0], unit, &format!("{unit}s")),
            rows[1],
        )
    }

    /// The model's summary for a dry run.
    ///
    /// # Errors
    /// The model's configuration cannot be used.
    pub fn summary(&self) -> Result<ModelSummary> {
        self.data.summary(&self.recipe, &self.files)
    }

    /// Runs every method with every seed. The results are saved after each run.
    ///
    /// # Errors
    /// Settings, model, data or directory are wrong; this is detected before the first step. A run that fails by itself (a loss that is not
    /// finite) is part of the results, not an error.
    pub fn run<B: VbLoraBackend>(
        &self,
        device: &B::Device,
        interrupted: &AtomicBool,
    ) -> Result<Results> {
        self.run_counted::<B>(device, interrupted, Arc::default())
    }

    /// [`run`](Self::run), but also returns the model and the lock of the directory `out`, for further work.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_locked<B: VbLoraBackend>(
        &self,
        device: &B::Device,
        interrupted: &AtomicBool,
    ) -> Result<EndedOn<B, S>> {
        self.run_with::<B>(device, interrupted, Arc::default(), Ranks::alone())
    }

    /// [`run_locked`](Self::run_locked) as one of several ranks, with the count of [`run_counted`](Self::run_counted). The results, the lock
    /// and the count are those of rank 0; other ranks have none.
    ///
    /// # Errors
    /// As [`run`](Self::run); a method trains the base; a rank differs from rank 0 or does not answer.
    pub fn run_with<B: VbLoraBackend>(
        &self,
        device: &B::Device,
        interrupted: &AtomicBool,
        steps: Arc<AtomicU64>,
        ranks: Ranks<'_>,
    ) -> Result<EndedOn<B, S>> {
        match ranks.leads() {
            true => self.run_all::<B>(device, interrupted, steps, ranks),
            false => self.serve::<B>(device, interrupted, ranks),
        }
    }

    /// [`run`](Self::run), but also counts the current run's optimizer steps in `steps`, for a watcher on another thread.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_counted<B: VbLoraBackend>(
        &self,
        device: &B::Device,
        interrupted: &AtomicBool,
        steps: Arc<AtomicU64>,
    ) -> Result<Results> {
        let ended = self.run_with::<B>(device, interrupted, steps, Ranks::alone())?;
        Ok(ended.results)
    }

    /// The work of rank 0.
    fn run_all<B: VbLoraBackend>(
        &self,
        device: &B::Device,
        interrupted: &AtomicBool,
        steps: Arc<AtomicU64>,
        ranks: Ranks<'_>,
    ) -> Result<EndedOn<B, S>> {
        self.validate()?;
        self.check_ranks(ranks)?;
        self.plan()?;
        // Errors of the directory are found before anything is loaded.
        let claim = self.out.as_ref().map(|out| self.claim(out)).transpose()?;
        let prepared = self.load::<B>(device)?;
        if ranks.size() > 1 {
            agree(ranks, &self.terms::<B>(&prepared)?)?;
        }
        let prepared = self.score_base::<B>(prepared)?;
        if !self.quiet {
            let rows =
                [&prepared.train, &prepared.dev].map(<S::Objective<B> as Objective<B>>::rows);
            complain(self.outline(rows, prepared.length));
            if let Some(line) = ranks.line(&self.recipe) {
                complain(line);
            }
        }
        let backend = B::name(device);
        let enter = |claim| self.enter(claim, &prepared, &backend);
        let dir = claim.map(enter).transpose()?;
        let past = dir.as_ref().map_or(Ok(Vec::new()), RunDir::past_runs)?;
        self.check_past(&past)?;
        let log = StepLog::new(dir.as_ref().map(RunDir::log).as_deref(), self.quiet)?;
        let events = dir.as_ref().and_then(RunDir::tensorboard);
        let mut log = log.counting(steps).with_events(events);
        // The order is that of methods and seeds, even if some runs ended earlier.
        let ranks = dealt::<B>(ranks, device);
        let exchange = open::<B>(ranks, device)?;
        let runs: Vec<Run> = self.runs().collect();
        let past_of = |run: &Run| past.iter().find(|past| run.is_of(past)).cloned();
        let mut reached: Vec<Option<RunResult>> = runs.iter().map(past_of).collect();
        let results = |reached: &[Option<RunResult>]| {
            let runs = reached.iter().flatten().cloned().collect();
            Results::new(&self.command, &backend, runs)
        };
        for (i, run) in runs.iter().enumerate() {
            let has_ended = |run: &RunResult| run.stop != Stop::Interrupted;
            if let Some(past) = reached[i].as_ref().filter(|run| has_ended(run)) {
                if let Some(dir) = &dir {
                    dir.warn_of_loss(run, past)?;
                }
                continue;
            }
            if interrupted.load(Ordering::Relaxed) {
                break;
            }
            let exchange = exchange.as_deref();
            let start = || Leader::start(ranks, exchange, i, interrupted);
            let leader = (ranks.size() > 1).then(start);
            let leader = leader.transpose()?;
            let dir = dir.as_ref();
            let result = run.train_with(&prepared, &mut log, dir, leader, interrupted)?;
            // A signal to another rank is not seen here.
            let is_interrupted = result.stop == Stop::Interrupted;
            reached[i] = Some(result);
            if let Some(dir) = dir {
                dir.save_results(&results(&reached))?;
            }
            if is_interrupted {
                break;
            }
        }
        ranks.end()?;
        Ok(Ended {
            results: results(&reached),
            base: prepared.base,
            lock: dir.map(RunDir::into_lock),
        })
    }

    /// The work of a rank other than 0.
    fn serve<B: VbLoraBackend>(
        &self,
        device: &B::Device,
        interrupted: &AtomicBool,
        ranks: Ranks<'_>,
    ) -> Result<EndedOn<B, S>> {
        self.validate()?;
        self.check_ranks(ranks)?;
        let prepared = self.load::<B>(device)?;
        agree(ranks, &self.terms::<B>(&prepared)?)?;
        let runs: Vec<Run> = self.runs().collect();
        let ranks = dealt::<B>(ranks, device);
        let exchange = open::<B>(ranks, device)?;
        serve(&prepared, &runs, ranks, exchange.as_deref(), interrupted)?;
        Ok(Ended {
            results: Results::new(&self.command, B::name(device), Vec::new()),
            base: prepared.base,
            lock: None,
        })
    }

    /// What the ranks of this session must have in common.
    fn terms<B: VbLoraBackend>(&self, prepared: &Prepared<B, S::Objective<B>>) -> Result<Terms> {
        let Made {
            version,
            threads,
            matmul_threads,
            ..
        } = Made::here(Vec::new());
        // GPUs do not compute on these threads.
        let is_cpu = has_fixed_sums(&prepared.identity.backend);
        let threads = match matmul_threads {
            Some(products) => format!("{threads}, and MATMUL_NUM_THREADS={products}"),
            None => threads.to_string(),
        };
        let methods = self.methods.iter().map(|method| method.name().to_owned());
        Ok(Terms {
            version,
            program: program_hash()?,
            model: model_hash(&self.files)?,
            identity: prepared.identity.clone(),
            train: prepared.splits[0].clone(),
            recipe: prepared.recipe.to_toml()?,
            methods: methods.collect(),
            threads: is_cpu.then_some(threads),
            instructions: is_cpu.then(instructions),
        })
    }

    /// Refuses a method whose parameters do not travel between ranks.
    ///
    /// # Errors
    /// There are several ranks, and a method trains the base.
    pub fn check_ranks(&self, ranks: Ranks<'_>) -> Result<()> {
        match ranks.size() > 1 && self.methods.contains(&Method::Full) {
            false => Ok(()),
            true => Err(Error::Setting {
                setting: "method".into(),
                expected: format!(
                    "an adapter or {}, which several ranks can train",
                    Method::Head.name()
                ),
                found: format!("{} with {} ranks", Method::Full.name(), ranks.size()),
            }),
        }
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
            return setting("method", "all different", &found);
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

    /// Refuses to continue with fewer runs, because the results of the others would be lost.
    fn check_past(&self, past: &[RunResult]) -> Result<()> {
        let other = |(part, expected, found): (&str, String, String)| {
            Err(Error::OtherRun {
                place: self
                    .out
                    .as_ref()
                    .map(|out| out.dir.clone())
                    .unwrap_or_default(),
                part: part.to_owned(),
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
                let here = "a list with every run once".into();
                return other(("list of results", there, here));
            }
        }
        Ok(())
    }

    /// Searches and locks the output directory.
    fn claim<'a>(&'a self, out: &'a Output) -> Result<Claim<'a>> {
        let permissions = Permissions {
            overwrite: self.overwrite,
            resume: self.resume,
        };
        Claim::new(out, &self.recipe, self.summary()?.base_dtype, permissions)
    }

    /// Opens the output directory, new or with its existing files.
    fn enter<B: VbLoraBackend>(
        &self,
        claim: Claim<'_>,
        prepared: &Prepared<B, S::Objective<B>>,
        backend: &str,
    ) -> Result<RunDir> {
        let held = prepared.summary.base_dtype;
        let made = Made::here(claim.arguments().to_vec());
        let identity = SessionIdentity::new(&self.files, prepared.identity.clone(), made)?;
        if let Some(repeated) = self.out.as_ref().and_then(|out| out.repeats.as_ref()) {
            identity.check_repeats(repeated, (&self.recipe, held), &prepared.splits)?;
        }
        let write_config = |dir: &RunDir| {
            let recipe = self.recipe.settled(held);
            dir.save_config(&self.command, &self.files.name(), backend, &recipe)
        };
        let dir = claim.enter(&identity, self.checkpoints, write_config)?;
        Ok(dir.with_recording(self.record_every))
    }

    /// The shared bank, if the recipe has one, checked against the recipe's settings.
    fn bank(&self, model: &ModelSummary) -> Result<Option<Bank>> {
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
        self.score_base::<B>(self.load::<B>(device)?)
    }

    /// Adds the scores of the untrained base.
    fn score_base<B: VbLoraBackend>(
        &self,
        prepared: Prepared<B, S::Objective<B>>,
    ) -> Result<Prepared<B, S::Objective<B>>> {
        let (base, dev, device) = (&prepared.base, &prepared.dev, &prepared.device);
        let before = <S::Objective<B> as Objective<B>>::before(base, dev, &self.recipe, device)?;
        Ok(Prepared { before, ..prepared })
    }

    /// Loads the model and the data.
    fn load<B: VbLoraBackend>(&self, device: &B::Device) -> Result<Prepared<B, S::Objective<B>>> {
        let recipe = &self.recipe;
        let summary = self.summary()?;
        let held = summary.base_dtype;
        let bank = self.bank(&summary)?;
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
        let identity = Identity::new(&base, splits.clone(), recipe, bank.as_ref(), device)?;
        // On files in 4 bits, "f32" and "nf4" ask for the same base.
        let identity = match (summary.base_dtype, recipe.base_dtype) {
            (BaseDtype::Stored4Bit(_), BaseDtype::Nf4(_)) => {
                let base_dtype = BaseDtype::F32;
                identity.or_of(&Recipe {
                    base_dtype,
                    ..recipe.clone()
                })?
            }
            (held @ BaseDtype::Stored4Bit(_), _) => identity.or_of(&recipe.settled(held))?,
            _ => identity,
        };
        let seed = recipe.seeds.first().copied().unwrap_or_default();
        let batches = <S::Objective<B> as Objective<B>>::epoch(&train, recipe, seed, 1).len();
        let length = Length::new(recipe, batches.div_ceil(recipe.accumulation))?;
        Ok(Prepared {
            base,
            files: self.files.clone(),
            summary,
            identity,
            bank,
            train,
            dev,
            before: None,
            recipe: recipe.settled(held),
            device: device.clone(),
            data: self.data.named(recipe),
            length,
            splits,
        })
    }
}

/// The ranks of a run on this device. They add early where nothing is lost by it.
fn dealt<'a, B: VbLoraBackend>(ranks: Ranks<'a>, device: &B::Device) -> Ranks<'a> {
    match has_fixed_sums(&B::name(device)) {
        true => ranks,
        false => ranks.adding_early(),
    }
}

//! One run: a method with a seed, from fresh parameters to its last epoch.

use std::sync::atomic::AtomicBool;

use vblora::{AdapterConfig, AnyAdapter, backend::VbLoraBackend, storage::Bank};
use vblora_models::{ClassificationHead, EncoderConfig, HeadInit, Roberta};

use super::{
    data::EncodedSplit,
    identity::Identity,
    learner::{Learner, Trained},
    log::StepLog,
    method::Method,
    run_dir::RunDir,
    training::Training,
};
use crate::{
    Result,
    recipes::{self, Recipe},
    report::{RunResult, Stop},
    tasks::Task,
};

/// What the runs of a session share.
#[derive(Debug)]
pub struct Prepared<B: VbLoraBackend> {
    /// The pretrained encoder.
    pub base: Roberta<B>,
    /// The training split.
    pub train: EncodedSplit,
    /// The development split.
    pub dev: EncodedSplit,
    /// Every hyperparameter.
    pub recipe: Recipe,
    /// Where the model runs.
    pub device: B::Device,
    /// The bank that adapters start from.
    pub bank: Option<Bank>,
    /// What checkpoints are bound to.
    pub identity: Identity,
}

impl<B: VbLoraBackend> Prepared<B> {
    /// The shared bank, if it stays as it is.
    pub(super) fn frozen_bank(&self) -> Option<&Bank> {
        let shared = self.recipe.bank.as_ref();
        self.bank
            .as_ref()
            .filter(|_| shared.is_some_and(|shared| shared.frozen))
    }
}

/// A method and a seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Run {
    /// The method.
    pub method: Method,
    /// Seeds the adapter, the head, the data's order and dropout.
    pub seed: u64,
}

impl Run {
    /// The name in logs: `vblora seed 1`.
    pub fn label(&self) -> String {
        format!("{} seed {}", self.method.name(), self.seed)
    }

    /// The name in files: `vblora-seed1`.
    pub(super) fn file_name(&self) -> String {
        format!("{}-seed{}", self.method.name(), self.seed)
    }

    /// Trains and evaluates after each epoch, until the last one, an interruption, or a loss that is not a number. In a directory that is
    /// resumed it goes on from the run's latest sound checkpoint.
    ///
    /// # Errors
    /// The adapter's settings do not fit the model; a file cannot be written; a checkpoint is of another base, recipe or data.
    pub fn train<B: VbLoraBackend>(
        &self,
        prepared: &Prepared<B>,
        log: &mut StepLog,
        dir: Option<&RunDir>,
        interrupted: &AtomicBool,
    ) -> Result<RunResult> {
        let learner = self.learner(prepared)?;
        let fresh = self.empty_result(prepared)?;
        Training::start(*self, prepared, learner, fresh, log, dir)?.run(interrupted)
    }

    fn learner<B: VbLoraBackend>(&self, prepared: &Prepared<B>) -> Result<Learner<B>> {
        let Prepared {
            base,
            recipe,
            device,
            bank,
            ..
        } = prepared;
        let trained = match self.method.adapter(recipe) {
            Some(adapter) => {
                let plan = Method::sites(recipe, base.config())?;
                let adapter = match (&adapter, bank) {
                    (AdapterConfig::VbLora(config), Some(bank)) => {
                        let adapter = config.check(&plan)?.init_on(bank, self.seed, device)?;
                        AnyAdapter::VbLora(match prepared.frozen_bank() {
                            Some(_) => adapter.with_frozen_bank(),
                            None => adapter,
                        })
                    }
                    _ => adapter.init(&plan, self.seed, device)?,
                };
                Trained::Adapter(Box::new(adapter))
            }
            None if self.method == Method::Full => Trained::Everything,
            None => Trained::HeadOnly,
        };
        let init = match recipe.head.init {
            recipes::HeadInit::Roberta => HeadInit::Normal(base.config().initializer_range),
            recipes::HeadInit::Torch => HeadInit::Torch,
        };
        let d = base.config().hidden_size;
        let head = ClassificationHead::init(
            d,
            recipe.task.labels(),
            recipe.head.dropout,
            init,
            self.seed,
            device,
        );
        Ok(Learner::new(base, trained, head, recipe, self.seed, device))
    }

    fn empty_result<B: VbLoraBackend>(&self, prepared: &Prepared<B>) -> Result<RunResult> {
        let Prepared {
            base,
            recipe,
            train,
            dev,
            ..
        } = prepared;
        let count = self.method.count(recipe, base.config())?;
        let head = head_parameters(base.config(), recipe.task);
        Ok(RunResult {
            method: self.method.name().into(),
            targets: self
                .method
                .adapter(recipe)
                .map_or("-".into(), |_| recipe.targets.clone()),
            task: recipe.task,
            seed: self.seed,
            epochs: Vec::new(),
            best: None,
            last: None,
            trained_parameters: count.trained as u64,
            stored_parameters: count.stored,
            stored_bytes: count.bytes as u64,
            head_parameters: head as u64,
            head_bytes: 4 * head as u64,
            steps: 0,
            seconds: 0.0,
            truncated: train.truncated() + dev.truncated(),
            stop: Stop::Completed,
        })
    }

    /// The learning rates of the groups that this method trains.
    pub(super) fn rates(&self, recipe: &Recipe, factor: f64) -> Vec<(&'static str, f64)> {
        let lr = &recipe.lr;
        let own: &[(&str, f64)] = match self.method {
            Method::VbLora => &[("bank", lr.bank), ("logits", lr.logits)],
            Method::Lora => &[("adapter", lr.adapter)],
            Method::Full => &[("base", lr.base)],
            Method::Head => &[],
        };
        own.iter()
            .copied()
            .chain([("head", lr.head)])
            .map(|(group, lr)| (group, lr * factor))
            .collect()
    }
}

/// The number of parameters of the task head.
pub(super) fn head_parameters(model: &EncoderConfig, task: Task) -> usize {
    vblora_models::head_parameters(model.hidden_size, task.labels())
}

//! One run: a method with a seed, from initial parameters to its last epoch.

use std::{collections::BTreeMap, sync::atomic::AtomicBool};

use vblora::{AdapterConfig, AnyAdapter, backend::VbLoraBackend, storage::Bank};
use vblora_models::ModelFiles;

use super::{
    classification::Classification,
    identity::Identity,
    learner::{Learner, Trained},
    length::Length,
    log::StepLog,
    method::Method,
    objective::Objective,
    ranks::Leader,
    run_dir::RunDir,
    source::{DataName, ModelSummary},
    training::Training,
};
use crate::{
    Result,
    metrics::Scores,
    recipes::{LearningRates, Recipe},
    results::{RunResult, Stop},
};

/// Data that the runs of a session share.
#[derive(Debug)]
pub struct Prepared<B: VbLoraBackend, O: Objective<B> = Classification> {
    /// The pretrained model.
    pub base: O::Model,
    /// Its files.
    pub files: ModelFiles,
    /// The model's summary, as in a dry run.
    pub summary: ModelSummary,
    /// The training split.
    pub train: O::Split,
    /// The development split.
    pub dev: O::Split,
    /// The scores on dev before any training, if the base has any.
    pub before: Option<Scores>,
    /// Every hyperparameter.
    pub recipe: Recipe,
    /// The device of the model.
    pub device: B::Device,
    /// The bank that adapters start from.
    pub bank: Option<Bank>,
    /// The identity that checkpoints are bound to.
    pub identity: Identity,
    /// The name of the data.
    pub(super) data: DataName,
    /// The length of every run.
    pub(super) length: Length,
    /// The hashes of the encoded training and development split.
    pub(super) splits: [String; 2],
}

impl<B: VbLoraBackend, O: Objective<B>> Prepared<B, O> {
    /// The shared bank, if it is frozen.
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
    /// Seed for the adapter, the head, the data's order and dropout.
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

    /// Returns true if the result belongs to this run.
    pub(super) fn is_of(&self, result: &RunResult) -> bool {
        result.method == self.method.name() && result.seed == self.seed
    }

    /// Trains and evaluates until the last step, an early stop, an interruption, or a loss that is not finite. In a resumed directory it
    /// continues from the run's latest sound checkpoint.
    ///
    /// # Errors
    /// The adapter's settings do not fit the model; a file cannot be written; a checkpoint belongs to another run, base, recipe or data.
    pub fn train<B: VbLoraBackend, O: Objective<B>>(
        &self,
        prepared: &Prepared<B, O>,
        log: &mut StepLog,
        dir: Option<&RunDir>,
        interrupted: &AtomicBool,
    ) -> Result<RunResult> {
        self.train_with(prepared, log, dir, None, interrupted)
    }

    /// [`train`](Self::train) with other ranks.
    pub(super) fn train_with<B: VbLoraBackend, O: Objective<B>>(
        &self,
        prepared: &Prepared<B, O>,
        log: &mut StepLog,
        dir: Option<&RunDir>,
        leader: Option<Leader<'_, B>>,
        interrupted: &AtomicBool,
    ) -> Result<RunResult> {
        let learner = self.learner(prepared)?;
        let fresh = self.empty_result(prepared)?;
        let training = Training::start(*self, prepared, learner, fresh, log, dir)?;
        training.with(leader).run(interrupted)
    }

    pub(super) fn learner<B: VbLoraBackend, O: Objective<B>>(
        &self,
        prepared: &Prepared<B, O>,
    ) -> Result<Learner<B, O>> {
        let Prepared {
            base,
            recipe,
            device,
            bank,
            ..
        } = prepared;
        let trained = match self.method.adapter(recipe) {
            Some(adapter) => {
                let plan = prepared.summary.plan()?;
                let adapter = match (&adapter, bank) {
                    (AdapterConfig::VbLora(config), Some(bank)) => {
                        let adapter = config.check(&plan)?.init_on(bank, self.seed, device)?;
                        AnyAdapter::VbLora(match prepared.frozen_bank() {
                            Some(_) => adapter.with_frozen_bank(),
                            None => adapter,
                        })
                    }
                    _ => adapter.init_on(base, &plan, self.seed, device)?,
                };
                Trained::Adapter(Box::new(adapter))
            }
            None if self.method == Method::Full => Trained::Everything,
            None => Trained::HeadOnly,
        };
        let head = O::head(base, recipe, self.seed, device);
        Ok(Learner::new(base, trained, head, recipe, self.seed, device))
    }

    fn empty_result<B: VbLoraBackend, O: Objective<B>>(
        &self,
        prepared: &Prepared<B, O>,
    ) -> Result<RunResult> {
        let Prepared {
            summary,
            recipe,
            train,
            dev,
            ..
        } = prepared;
        let count = self.method.count(recipe, summary)?;
        Ok(RunResult {
            method: self.method.name().into(),
            targets: self
                .method
                .adapter(recipe)
                .map_or("-".into(), |_| recipe.targets.clone()),
            task: recipe.task.clone(),
            seed: self.seed,
            epochs: Vec::new(),
            best: None,
            last: None,
            by_class: None,
            trained_parameters: count.trained as u64,
            stored_parameters: count.stored,
            stored_bytes: count.bytes as u64,
            head_parameters: summary.head as u64,
            head_bytes: 4 * summary.head as u64,
            steps: 0,
            seconds: 0.0,
            truncated: O::truncated(train) + O::truncated(dev),
            before: prepared.before.clone(),
            speed: None,
            scores: BTreeMap::new(),
            stop: Stop::Completed,
        })
    }

    /// The learning rates of the groups that this method trains. `has_head` is true if there is a head.
    pub(super) fn rates(
        &self,
        recipe: &Recipe,
        has_head: bool,
        factor: f64,
    ) -> Vec<(&'static str, f64)> {
        let mut lr = recipe.lr;
        let mut rates = Vec::new();
        if let Some(adapter) = self.method.adapter(recipe) {
            lr.adapter = lr.of_adapter(adapter.name());
            let groups = adapter.groups().iter();
            rates.extend(groups.map(|&group| (LearningRates::key(group), lr.of(group))));
        }
        if self.method == Method::Full {
            rates.push(("base", lr.base));
        }
        if has_head {
            rates.push(("head", lr.head));
        }
        let scaled = rates.into_iter().map(|(key, rate)| (key, rate * factor));
        scaled.collect()
    }
}

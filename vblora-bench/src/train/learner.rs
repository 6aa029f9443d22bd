//! A model in training: base, trained parameters, optimizer, and evaluation.

use std::collections::BTreeMap;

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module},
    tensor::Tensor,
};
use vblora::{
    Adapter, AnyAdapter, Factors, ParameterGroup, VbLora, backend::VbLoraBackend, leaf_factors,
};

use super::{
    adamw::AdamW,
    classification::Classification,
    objective::{BatchOutputs, Evaluated, Objective, Turns},
    parameters::RequireGrad,
};
use crate::{
    Result,
    metrics::Scores,
    recipes::{LearningRates, Recipe, WeightDecay},
    tasks::Evaluation,
};

/// With this many logits or more, moments are stored only for selected logits. Moments of all logits then take 32 MiB. Finding the selected
/// ones takes 52 launches per step on a GPU.
const MANY_LOGITS: usize = 1 << 22;

/// The part that is trained in addition to the head.
#[derive(Debug, Clone)]
pub enum Trained<B: VbLoraBackend> {
    /// An adapter on the frozen base.
    Adapter(Box<AnyAdapter<Autodiff<B>>>),
    /// Nothing. The base stays frozen.
    HeadOnly,
    /// The base itself.
    Everything,
}

/// Base, adapter, head and optimizer of one run. [`step`](Self::step) trains them.
#[derive(Debug)]
pub struct Learner<B: VbLoraBackend, O: Objective<B> = Classification> {
    pub(super) base: O::Base,
    pub(super) trained: Trained<B>,
    pub(super) head: O::Head,
    objective: O,
    pub(super) optimizer: AdamW<B>,
    /// The group of each of the adapter's parameters, by path.
    pub(super) groups: BTreeMap<String, ParameterGroup>,
    pub(super) lr: LearningRates,
    pub(super) decay: WeightDecay,
    pub(super) clip_norm: f64,
    pub(super) many_logits: usize,
    pub(super) seed: u64,
    pub(super) device: B::Device,
}

impl<B: VbLoraBackend, O: Objective<B>> Learner<B, O> {
    /// Creates a run's state before its first step. The base requires gradients only if it is trained.
    pub fn new(
        base: &O::Model,
        trained: Trained<B>,
        head: O::Head,
        recipe: &Recipe,
        seed: u64,
        device: &B::Device,
    ) -> Self {
        let base = O::Base::from_inner(base.clone());
        let base = base.map(&mut RequireGrad(matches!(trained, Trained::Everything)));
        let (mut lr, mut groups) = (recipe.lr, BTreeMap::new());
        if let Trained::Adapter(adapter) = &trained {
            lr.adapter = lr.of_adapter(adapter.name());
            let found = adapter.groups().into_iter();
            groups.extend(found.map(|(path, group)| (format!("adapter.{path}"), group)));
        }
        Self {
            base,
            trained,
            head,
            objective: O::new(recipe),
            optimizer: AdamW::new(recipe.adam),
            groups,
            lr,
            decay: recipe.weight_decay,
            clip_norm: recipe.clip_norm,
            many_logits: MANY_LOGITS,
            seed,
            device: device.clone(),
        }
    }

    /// Sets the number of logits from which on moments are stored only for selected logits. The updates are the same.
    #[must_use]
    pub fn moments_of_selected_from(self, many_logits: usize) -> Self {
        Self {
            many_logits,
            ..self
        }
    }

    /// Scores a split without dropout and without a graph.
    ///
    /// # Errors
    /// As [`Objective::evaluate`].
    pub fn evaluate(&self, split: &O::Split, recipe: &Recipe) -> Result<Scores> {
        Ok(self.examine(split, recipe)?.scores)
    }

    /// [`evaluate`](Self::evaluate) with the scores of each class, if the task has classes.
    ///
    /// # Errors
    /// As [`Objective::evaluate`].
    pub fn examine(&self, split: &O::Split, recipe: &Recipe) -> Result<Evaluation> {
        self.examine_with(&self.factors(), split, recipe)
    }

    /// [`examine`](Self::examine) with these factors instead of the adapter's own.
    ///
    /// # Errors
    /// As [`Objective::evaluate`].
    pub fn examine_with(
        &self,
        factors: &Factors<B>,
        split: &O::Split,
        recipe: &Recipe,
    ) -> Result<Evaluation> {
        O::score(
            split,
            recipe,
            self.outputs(factors, split, recipe, Turns::ALL)?,
        )
    }

    /// The outputs for these batches of a split, which [`Objective::score`] takes.
    ///
    /// # Errors
    /// As [`Objective::outputs`].
    pub(super) fn outputs(
        &self,
        factors: &Factors<B>,
        split: &O::Split,
        recipe: &Recipe,
        turns: Turns,
    ) -> Result<Vec<BatchOutputs>> {
        let trained = Evaluated {
            base: &self.base.valid(),
            head: &self.head.valid(),
            factors,
            device: &self.device,
        };
        O::outputs(trained, split, recipe, turns)
    }

    /// The adapter's factors for evaluation.
    pub fn factors(&self) -> Factors<B> {
        match &self.trained {
            Trained::Adapter(adapter) => adapter.valid().factors(),
            _ => Factors::none(),
        }
    }

    /// The factors of slabs that another machine has composed for the same adapter, each as a leaf tensor; empty without an adapter.
    pub(super) fn factors_of(&self, slabs: &[Tensor<B, 2>]) -> Factors<Autodiff<B>> {
        match &self.trained {
            Trained::Adapter(adapter) => leaf_factors(&**adapter, slabs),
            Trained::HeadOnly | Trained::Everything => Factors::none(),
        }
    }

    /// The base model.
    pub fn base(&self) -> &O::Base {
        &self.base
    }

    /// The base model without its graph.
    pub fn plain_base(&self) -> O::Model {
        self.base.valid()
    }

    /// The part that is trained in addition to the head.
    pub fn trained(&self) -> &Trained<B> {
        &self.trained
    }

    /// The adapter, if it is VB-LoRA.
    pub fn vblora(&self) -> Option<&VbLora<Autodiff<B>>> {
        match &self.trained {
            Trained::Adapter(adapter) => match &**adapter {
                AnyAdapter::VbLora(adapter) => Some(adapter),
                _ => None,
            },
            Trained::HeadOnly | Trained::Everything => None,
        }
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &AdamW<B> {
        &self.optimizer
    }

    /// The head.
    pub fn head(&self) -> &O::Head {
        &self.head
    }

    /// The training objective.
    pub fn objective(&self) -> &O {
        &self.objective
    }
}

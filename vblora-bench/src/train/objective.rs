//! The training objective. It is the interface between the training code (steps, epochs, checkpoints, sessions) and its two kinds of tasks.

use std::{fmt::Debug, path::Path};

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module},
    tensor::{Tensor, backend::AutodiffBackend},
};
use vblora::{BaseWeights, Factors, backend::VbLoraBackend, storage::peft::PeftAdapter};
use vblora_models::ModelFiles;

use super::learner::Learner;
use crate::{Result, metrics::Scores, recipes::Recipe, tasks::Evaluation};

/// The gradients of a graph after the backward pass.
pub type Graph<B> = <Autodiff<B> as AutodiffBackend>::Gradients;

/// The head of an objective without its graph.
pub type PlainHead<B, O> = <<O as Objective<B>>::Head as AutodiffModule<Autodiff<B>>>::InnerModule;

/// The target of saving, and additional data for the files.
#[derive(Debug)]
pub struct Saving<'a> {
    /// The folder to write to.
    pub dir: &'a Path,
    /// The form of the adapter to store, if there is an adapter.
    pub adapter: Option<PeftAdapter>,
    /// The base's files.
    pub files: &'a ModelFiles,
    /// The recipe of the training.
    pub recipe: &'a Recipe,
}

/// What a model says to a batch of an evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchOutputs {
    /// What the values belong to: the rows of a classification, or the numbers of tokens that means are over.
    pub indices: Vec<usize>,
    /// The same number of values for each index.
    pub values: Vec<f32>,
}

/// The batches of an evaluation that one of several processes computes: every `size`-th.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turns {
    /// The number of the process, from 0.
    pub rank: usize,
    /// The number of processes.
    pub size: usize,
}

impl Turns {
    /// All batches.
    pub const ALL: Self = Self { rank: 0, size: 1 };

    /// Returns true if batch `number`, from 0, is one of these.
    pub fn has(self, number: usize) -> bool {
        number % self.size == self.rank
    }
}

/// A trained model in an evaluation.
#[derive(Debug)]
pub struct Evaluated<'a, B: VbLoraBackend, O: Objective<B>> {
    /// The base.
    pub base: &'a O::Model,
    /// The head.
    pub head: &'a PlainHead<B, O>,
    /// The adapter's factors.
    pub factors: &'a Factors<B>,
    /// Where they are.
    pub device: &'a B::Device,
}

/// Defines the data, the batches, the loss and the scores of a kind of task.
pub trait Objective<B: VbLoraBackend>: Debug + Sized {
    /// The pretrained model.
    type Model: Module<B> + BaseWeights;
    /// The same model under autodiff.
    type Base: AutodiffModule<Autodiff<B>, InnerModule = Self::Model>;
    /// The part that is always trained; may be empty.
    type Head: AutodiffModule<Autodiff<B>>;
    /// Encoded examples.
    type Split: Debug;
    /// The selection of a split's examples for one batch.
    type Rows;
    /// A batch on the host.
    type Batch: Debug;

    /// Creates the objective with the recipe's settings.
    fn new(recipe: &Recipe) -> Self;

    /// Initializes a new head.
    fn head(base: &Self::Model, recipe: &Recipe, seed: u64, device: &B::Device) -> Self::Head;

    /// SHA-256 of everything in a split that training uses.
    fn sha256(split: &Self::Split) -> String;

    /// The number of examples that were cut to the maximum length or left out.
    fn truncated(split: &Self::Split) -> u64;

    /// The number of examples.
    fn rows(split: &Self::Split) -> usize;

    /// The micro-batches of an epoch, a function of (seed, epoch). Their number depends only on the split and the recipe.
    fn epoch(
        split: &Self::Split,
        recipe: &Recipe,
        seed: u64,
        epoch: usize,
    ) -> impl ExactSizeIterator<Item = Self::Rows>;

    /// # Errors
    /// The labels have two kinds.
    fn batch(split: &Self::Split, rows: &Self::Rows, base: &Self::Base) -> Result<Self::Batch>;

    /// The number of items that a batch's mean loss is over: examples or predicted tokens.
    fn weight(batch: &Self::Batch) -> usize;

    /// The weight of a batch's mean loss in the mean of its step: the number of items, or the sum of their weights.
    fn loss_weight(batch: &Self::Batch) -> f64 {
        Self::weight(batch) as f64
    }

    /// The number of tokens of a batch without padding, for tasks that measure speed in tokens.
    fn tokens(batch: &Self::Batch) -> Option<usize>;

    /// Runs the backward pass of the batch's mean loss times `share`. `collect` gets the gradients of each graph. Returns the loss times
    /// `share`.
    ///
    /// # Errors
    /// The batch does not fit the model.
    fn backward(
        learner: &Learner<B, Self>,
        batch: &Self::Batch,
        factors: &Factors<Autodiff<B>>,
        share: f64,
        collect: &mut dyn FnMut(&mut Graph<B>),
    ) -> Result<Tensor<B, 1>>;

    /// Computes the outputs for these batches of a split, without dropout and without a graph.
    ///
    /// # Errors
    /// A batch does not fit the model.
    fn outputs(
        trained: Evaluated<'_, B, Self>,
        split: &Self::Split,
        recipe: &Recipe,
        turns: Turns,
    ) -> Result<Vec<BatchOutputs>>;

    /// Scores a split by the outputs for all its batches, in their order.
    ///
    /// # Errors
    /// The split has labels of two kinds; [`Error::NonFinite`](crate::Error::NonFinite) for outputs that are not finite.
    fn score(
        split: &Self::Split,
        recipe: &Recipe,
        outputs: Vec<BatchOutputs>,
    ) -> Result<Evaluation>;

    /// Scores a split without dropout and without a graph.
    ///
    /// # Errors
    /// As [`outputs`](Self::outputs) and [`score`](Self::score).
    fn evaluate(
        trained: Evaluated<'_, B, Self>,
        split: &Self::Split,
        recipe: &Recipe,
    ) -> Result<Evaluation> {
        let outputs = Self::outputs(trained, split, recipe, Turns::ALL)?;
        Self::score(split, recipe, outputs)
    }

    /// Scores the untrained base, if that is meaningful.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    fn before(
        base: &Self::Model,
        split: &Self::Split,
        recipe: &Recipe,
        device: &B::Device,
    ) -> Result<Option<Scores>>;

    /// Writes the trained parameters to the folder `to.dir`, in files that other tools load. An adapter has the form `to.adapter`. A
    /// trained base gets the side files of `to.files`.
    ///
    /// # Errors
    /// A file cannot be written.
    fn save(learner: &Learner<B, Self>, to: Saving<'_>) -> Result<()>;
}

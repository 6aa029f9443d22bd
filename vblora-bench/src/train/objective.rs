//! What a model is trained for: the one seam between the engine (steps, epochs, checkpoints, sessions) and its two kinds of work.

use std::{fmt::Debug, path::Path};

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module},
    tensor::{Tensor, backend::AutodiffBackend},
};
use vblora::{BaseWeights, Factors, backend::VbLoraBackend, storage::peft::PeftAdapter};
use vblora_models::ModelFiles;

use super::learner::Learner;
use crate::{Result, metrics::Scores, recipes::Recipe};

/// A walked graph's gradients.
pub type Graph<B> = <Autodiff<B> as AutodiffBackend>::Gradients;

/// The head of an objective without its graph.
pub type PlainHead<B, O> = <<O as Objective<B>>::Head as AutodiffModule<Autodiff<B>>>::InnerModule;

/// Where what was trained goes, and what goes with it.
#[derive(Debug)]
pub struct Saving<'a> {
    /// The folder.
    pub dir: &'a Path,
    /// The adapter's form worth keeping, if there is one.
    pub adapter: Option<PeftAdapter>,
    /// The base's files.
    pub files: &'a ModelFiles,
    /// What it was trained on.
    pub recipe: &'a Recipe,
}

/// What is read, what a batch and its loss are, and how a split is scored.
pub trait Objective<B: VbLoraBackend>: Debug + Sized {
    /// The pretrained model.
    type Model: Module<B> + BaseWeights;
    /// The same under autodiff.
    type Base: AutodiffModule<Autodiff<B>, InnerModule = Self::Model>;
    /// What is trained on top in any case; may be nothing.
    type Head: AutodiffModule<Autodiff<B>>;
    /// Encoded examples.
    type Split: Debug;
    /// Which examples of a split make a batch.
    type Rows;
    /// A batch on the host.
    type Batch: Debug;

    /// The objective with the recipe's settings.
    fn new(recipe: &Recipe) -> Self;

    /// A fresh head.
    fn head(base: &Self::Model, recipe: &Recipe, seed: u64, device: &B::Device) -> Self::Head;

    /// SHA-256 of everything in a split that training sees.
    fn sha256(split: &Self::Split) -> String;

    /// Examples of a split that were cut to the maximum length or left out for it.
    fn truncated(split: &Self::Split) -> u64;

    /// The micro-batches of an epoch, a function of (seed, epoch); their number is a function of the split and the recipe alone.
    fn epoch(split: &Self::Split, recipe: &Recipe, seed: u64, epoch: usize) -> Vec<Self::Rows>;

    /// # Errors
    /// Labels of two kinds.
    fn batch(split: &Self::Split, rows: &Self::Rows, base: &Self::Base) -> Result<Self::Batch>;

    /// What the mean of a batch's loss is over: examples, or predicted tokens.
    fn weight(batch: &Self::Batch) -> usize;

    /// Tokens of a batch without padding, where speed is told by them.
    fn tokens(batch: &Self::Batch) -> Option<usize>;

    /// Walks the batch's mean loss times `share` backward; `collect` gets the gradients, in as many parts as there are graphs. Gives the loss
    /// times `share`.
    ///
    /// # Errors
    /// A batch that does not fit the model.
    fn backward(
        learner: &Learner<B, Self>,
        batch: &Self::Batch,
        factors: &Factors<Autodiff<B>>,
        share: f64,
        collect: &mut dyn FnMut(&mut Graph<B>),
    ) -> Result<Tensor<B, 1>>;

    /// Scores a split without dropout and without a graph.
    ///
    /// # Errors
    /// Labels of two kinds in a batch; a batch that does not fit the model; [`Error::NonFinite`](crate::Error::NonFinite) for outputs that
    /// are no numbers.
    fn evaluate(
        base: &Self::Model,
        head: &PlainHead<B, Self>,
        factors: &Factors<B>,
        split: &Self::Split,
        recipe: &Recipe,
        device: &B::Device,
    ) -> Result<Scores>;

    /// The scores of the base as it is, where that means something.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    fn before(
        base: &Self::Model,
        split: &Self::Split,
        recipe: &Recipe,
        device: &B::Device,
    ) -> Result<Option<Scores>>;

    /// Writes what was trained in files that other tools load: into the folder `to.dir`, an adapter in the form `to.adapter`, a base that was
    /// trained itself with the files of `to.files` beside it.
    ///
    /// # Errors
    /// A file cannot be written.
    fn save(learner: &Learner<B, Self>, to: Saving<'_>) -> Result<()>;
}

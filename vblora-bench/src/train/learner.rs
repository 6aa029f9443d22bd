//! A model in training: what is trained, one optimizer step, one evaluation.

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module},
    tensor::Tensor,
};
use vblora::{
    Adapter, AnyAdapter, Composition, Factors, Noise, VbLora, backend::VbLoraBackend,
    noise::step_key,
};

use super::{
    adamw::{AdamW, Rule},
    classification::Classification,
    objective::{Graph, Objective},
    parameters::{Gradients, RequireGrad},
};
use crate::{
    Result,
    metrics::Scores,
    recipes::{LearningRates, Recipe, WeightDecay},
};

/// Logits from which on moments are kept of the selected ones alone; those of all take 32 MiB then. To find them takes a GPU 52 launches
/// a step.
const MANY_LOGITS: usize = 1 << 22;

/// With more vectors to a sub-vector than this, finding those that were never selected costs more than their moments.
const MANY_SELECTED: usize = 64;

/// What is trained besides the head.
#[derive(Debug)]
pub enum Trained<B: VbLoraBackend> {
    /// An adapter on the frozen base.
    Adapter(Box<AnyAdapter<Autodiff<B>>>),
    /// Nothing: the base stays as it is.
    HeadOnly,
    /// The base itself.
    Everything,
}

/// Base, adapter, head and optimizer of one run.
#[derive(Debug)]
pub struct Learner<B: VbLoraBackend, O: Objective<B> = Classification> {
    pub(super) base: O::Base,
    pub(super) trained: Trained<B>,
    pub(super) head: O::Head,
    objective: O,
    pub(super) optimizer: AdamW<B>,
    lr: LearningRates,
    pub(super) decay: WeightDecay,
    clip_norm: f64,
    many_logits: usize,
    pub(super) seed: u64,
    pub(super) device: B::Device,
}

/// What a step shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// The mean loss of the step's examples, before the update.
    pub loss: f64,
    /// The joint gradient norm of everything trained, before clipping.
    pub norm: f64,
}

impl StepReport {
    /// Whether the step was taken: loss and gradients are numbers.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.norm.is_finite()
    }
}

impl<B: VbLoraBackend, O: Objective<B>> Learner<B, O> {
    /// A run's state before its first step. The base is made to require gradients only if it is trained.
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
        let mut lr = recipe.lr;
        if let Trained::Adapter(adapter) = &trained {
            lr.adapter = lr.of_adapter(adapter.name());
        }
        Self {
            base,
            trained,
            head,
            objective: O::new(recipe),
            optimizer: AdamW::new(recipe.adam),
            lr,
            decay: recipe.weight_decay,
            clip_norm: recipe.clip_norm,
            many_logits: MANY_LOGITS,
            seed,
            device: device.clone(),
        }
    }

    /// Keeps moments of the selected logits alone from this many logits on. The updates are the same.
    #[must_use]
    pub fn moments_of_selected_from(self, many_logits: usize) -> Self {
        Self {
            many_logits,
            ..self
        }
    }

    /// One optimizer step over micro-batches: gradients of the mean loss, clipped by their joint norm, then AdamW with learning rates
    /// multiplied by `factor`. A step whose loss or gradients are not finite changes nothing.
    ///
    /// # Errors
    /// A site of the adapter got no gradient.
    pub fn step(&mut self, step: usize, batches: &[O::Batch], factor: f64) -> Result<StepReport> {
        let whole: usize = batches.iter().map(O::weight).sum();
        let mut grads = Gradients::new();
        let mut total = Tensor::<B, 1>::zeros([1], &self.device);
        let mut composition = match &self.trained {
            Trained::Adapter(adapter) => {
                let key = step_key(self.seed, step as u64);
                Some(Composition::drawn(&**adapter, key))
            }
            _ => None,
        };
        for (micro, batch) in batches.iter().enumerate() {
            let noise = Noise::new(self.seed, step as u64, micro as u64);
            let factors = composition
                .as_ref()
                .map_or_else(Factors::none, |c| c.factors().clone())
                .with_noise(noise);
            // The mean over all of the step, also when micro-batches are of different sizes.
            let share = O::weight(batch) as f64 / whole.max(1) as f64;
            let mut collect = |graph: &mut Graph<B>| {
                grads.collect("head", &self.head, graph);
                grads.collect("base", &self.base, graph);
                if let Some(composition) = &mut composition {
                    composition.collect(graph);
                }
            };
            total = total + O::backward(self, batch, &factors, share, &mut collect)?;
        }
        if let (Trained::Adapter(adapter), Some(composition)) = (&self.trained, composition) {
            grads.collect("adapter", &**adapter, &mut composition.push_back()?);
        }
        let report = read(total, grads.squared_norm());
        if report.is_finite() {
            self.update(grads, report.norm, factor);
        }
        Ok(report)
    }

    fn update(&mut self, mut grads: Gradients<B>, norm: f64, factor: f64) {
        // torch.nn.utils.clip_grad_norm_
        if self.clip_norm > 0.0 && norm > self.clip_norm {
            grads.scale(self.clip_norm / (norm + 1e-6));
        }
        let (lr, decay, selected) = (self.lr, self.decay, self.selected());
        let rule = |path: &str, rank: usize| Rule {
            selected: selected.filter(|_| path.ends_with("logits")),
            ..rule(path, rank, &lr, &decay, factor)
        };
        self.optimizer.begin_step();
        self.head = self
            .optimizer
            .apply("head", self.head.clone(), &grads, rule);
        match &mut self.trained {
            Trained::Adapter(adapter) => {
                **adapter = self
                    .optimizer
                    .apply("adapter", (**adapter).clone(), &grads, rule)
            }
            Trained::Everything => {
                self.base = self
                    .optimizer
                    .apply("base", self.base.clone(), &grads, rule)
            }
            Trained::HeadOnly => {}
        }
    }

    /// k of an adapter whose logits, and noise logits, get a gradient only where they are selected (once in a step, the factors being
    /// composed once), and are many enough, and few enough of them selected, that moments of those alone are worth finding them.
    fn selected(&self) -> Option<usize> {
        let adapter = self.vblora()?;
        let config = adapter.settings().config();
        let are_many = adapter.logits.shape().num_elements() >= self.many_logits;
        let are_few_selected = config.topk <= MANY_SELECTED;
        (config.selection.is_sparse() && are_many && are_few_selected).then_some(config.topk)
    }

    /// The scores on a split, without dropout and without a graph.
    ///
    /// # Errors
    /// As [`Objective::evaluate`].
    pub fn evaluate(&self, split: &O::Split, recipe: &Recipe) -> Result<Scores> {
        self.evaluate_with(&self.factors(), split, recipe)
    }

    /// [`evaluate`](Self::evaluate) with these factors in place of the adapter's own.
    ///
    /// # Errors
    /// As [`Objective::evaluate`].
    pub fn evaluate_with(
        &self,
        factors: &Factors<B>,
        split: &O::Split,
        recipe: &Recipe,
    ) -> Result<Scores> {
        let (base, head) = (self.base.valid(), self.head.valid());
        O::evaluate(&base, &head, factors, split, recipe, &self.device)
    }

    /// The adapter's factors for evaluation.
    pub fn factors(&self) -> Factors<B> {
        match &self.trained {
            Trained::Adapter(adapter) => adapter.valid().factors(),
            _ => Factors::none(),
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

    /// What is trained besides the head.
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

    /// What the model is trained for.
    pub fn objective(&self) -> &O {
        &self.objective
    }
}

/// Bank, logits, other adapters, head and base have learning rates and decays of their own; by default decay touches
/// matrices only.
fn rule(path: &str, rank: usize, lr: &LearningRates, decay: &WeightDecay, factor: f64) -> Rule {
    let decays = rank > 1 || decay.biases;
    let (lr, decay) = match path {
        _ if path.starts_with("head.") => (lr.head, decay.head),
        _ if path.starts_with("base.") => (lr.base, decay.base),
        _ if path.ends_with(".bank") => (lr.bank, decay.bank),
        _ if path.ends_with(".logits") => (lr.logits, decay.logits),
        _ if path.ends_with(".noise_logits") => (lr.logits, 0.0),
        _ if path.ends_with(".gate") => (lr.bank, 0.0),
        _ => (lr.adapter, decay.adapter),
    };
    Rule {
        lr: lr * factor,
        decay: if decays { decay } else { 0.0 },
        selected: None,
    }
}

/// Loss and norm with one read-back.
fn read<B: VbLoraBackend>(loss: Tensor<B, 1>, squared_norm: Option<Tensor<B, 1>>) -> StepReport {
    let norm = squared_norm.map_or_else(|| Tensor::zeros([1], &loss.device()), Tensor::sqrt);
    let both: Vec<f32> = Tensor::cat(vec![loss, norm], 0)
        .into_data()
        .convert::<f32>()
        .into_vec()
        .expect("converted to f32");
    StepReport {
        loss: f64::from(both[0]),
        norm: f64::from(both[1]),
    }
}

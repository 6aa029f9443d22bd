//! A model in training: what is trained, one optimizer step, one evaluation.

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module},
    tensor::Tensor,
};
use vblora::{Adapter, AnyAdapter, Composition, Factors, Noise, backend::VbLoraBackend};
use vblora_models::{ClassificationHead, EncoderInput, Labels, Roberta, loss};

use super::{
    adamw::{AdamW, Rule},
    data::{EncodedSplit, LabelledBatch},
    parameters::{Gradients, RequireGrad},
};
use crate::{
    Result,
    metrics::Predictions,
    recipes::{LearningRates, Recipe, WeightDecay},
};

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
pub struct Learner<B: VbLoraBackend> {
    pub(super) base: Roberta<Autodiff<B>>,
    pub(super) trained: Trained<B>,
    pub(super) head: ClassificationHead<Autodiff<B>>,
    pub(super) optimizer: AdamW<B>,
    lr: LearningRates,
    pub(super) decay: WeightDecay,
    clip_norm: f64,
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

impl<B: VbLoraBackend> Learner<B> {
    /// A run's state before its first step. The base is made to require gradients only if it is trained.
    pub fn new(
        base: &Roberta<B>,
        trained: Trained<B>,
        head: ClassificationHead<Autodiff<B>>,
        recipe: &Recipe,
        seed: u64,
        device: &B::Device,
    ) -> Self {
        let base = Roberta::<Autodiff<B>>::from_inner(base.clone());
        let base = base.map(&mut RequireGrad(matches!(trained, Trained::Everything)));
        Self {
            base,
            trained,
            head,
            optimizer: AdamW::new(recipe.adam),
            lr: recipe.lr,
            decay: recipe.weight_decay,
            clip_norm: recipe.clip_norm,
            seed,
            device: device.clone(),
        }
    }

    /// One optimizer step over micro-batches: gradients of the mean loss, clipped by their joint norm, then AdamW with learning rates
    /// multiplied by `factor`. A step whose loss or gradients are not finite changes nothing.
    ///
    /// # Errors
    /// A site of the adapter got no gradient.
    pub fn step(
        &mut self,
        step: usize,
        batches: &[LabelledBatch],
        factor: f64,
    ) -> Result<StepReport> {
        let examples: usize = batches.iter().map(|b| b.inputs.rows).sum();
        let mut grads = Gradients::new();
        let mut total = Tensor::<B, 1>::zeros([1], &self.device);
        let mut composition = match &self.trained {
            Trained::Adapter(adapter) => Some(Composition::new(&**adapter)),
            _ => None,
        };
        for (micro, batch) in batches.iter().enumerate() {
            let noise = Noise::new(self.seed, step as u64, micro as u64);
            let factors = composition
                .as_ref()
                .map_or_else(Factors::none, |c| c.factors().clone())
                .with_noise(noise);
            // The mean over all examples of the step, also when the last micro-batch is shorter.
            let share = batch.inputs.rows as f64 / examples as f64;
            let loss = self.loss(batch, &factors).mul_scalar(share);
            total = total + loss.clone().inner();
            let mut graph = loss.backward();
            grads.collect("head", &self.head, &mut graph);
            grads.collect("base", &self.base, &mut graph);
            if let Some(composition) = &mut composition {
                composition.collect(&mut graph);
            }
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

    fn loss(
        &self,
        batch: &LabelledBatch,
        factors: &Factors<Autodiff<B>>,
    ) -> Tensor<Autodiff<B>, 1> {
        let noise = factors.noise();
        let hidden = if matches!(self.trained, Trained::HeadOnly) {
            // Nothing below the head is differentiated, so no graph is built there; dropout is on all the same.
            let factors =
                noise.map_or_else(Factors::none, |noise| Factors::none().with_noise(noise));
            let input = EncoderInput::new(&batch.inputs, self.base.config(), &self.device);
            Tensor::from_inner(self.base.valid().forward(&input, &factors))
        } else {
            let input = EncoderInput::new(&batch.inputs, self.base.config(), &self.device);
            self.base.forward(&input, factors)
        };
        loss(self.head.forward(hidden, noise), &batch.labels)
    }

    fn update(&mut self, mut grads: Gradients<B>, norm: f64, factor: f64) {
        // torch.nn.utils.clip_grad_norm_
        if self.clip_norm > 0.0 && norm > self.clip_norm {
            grads.scale(self.clip_norm / (norm + 1e-6));
        }
        let (lr, decay) = (self.lr, self.decay);
        let rule = |path: &str, rank: usize| rule(path, rank, &lr, &decay, factor);
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

    /// The model's predictions on a split, in the split's order, without dropout and without a graph.
    ///
    /// # Errors
    /// Labels of two kinds in a batch.
    pub fn predict(&self, split: &EncodedSplit, batch: usize) -> Result<Predictions> {
        self.predict_with(&self.factors(), split, batch)
    }

    /// [`predict`](Self::predict) with these factors in place of the adapter's own.
    ///
    /// # Errors
    /// Labels of two kinds in a batch.
    pub fn predict_with(
        &self,
        factors: &Factors<B>,
        split: &EncodedSplit,
        batch: usize,
    ) -> Result<Predictions> {
        let (base, head) = (self.base.valid(), self.head.valid());
        let pad_id = base.config().pad_token_id;
        let mut outputs: Vec<Vec<f32>> = vec![Vec::new(); split.len()];
        let mut regression = false;
        for rows in split.by_length(batch) {
            let batch = split.batch(&rows, pad_id)?;
            regression = matches!(batch.labels, Labels::Scores(_));
            let input = EncoderInput::new(&batch.inputs, base.config(), &self.device);
            let output = head.forward(base.forward(&input, factors), None);
            let [_, labels] = output.dims();
            let values: Vec<f32> = output
                .into_data()
                .convert::<f32>()
                .into_vec()
                .expect("converted to f32");
            for (row, scores) in rows.into_iter().zip(values.chunks(labels)) {
                outputs[row] = scores.to_vec();
            }
        }
        Ok(if regression {
            Predictions::Scores(outputs.into_iter().map(|o| o[0]).collect())
        } else {
            Predictions::Classes(outputs.iter().map(|o| argmax(o)).collect())
        })
    }

    /// The adapter's factors for evaluation.
    pub fn factors(&self) -> Factors<B> {
        match &self.trained {
            Trained::Adapter(adapter) => adapter.valid().factors(),
            _ => Factors::none(),
        }
    }

    /// The base model.
    pub fn base(&self) -> &Roberta<Autodiff<B>> {
        &self.base
    }

    /// What is trained besides the head.
    pub fn trained(&self) -> &Trained<B> {
        &self.trained
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &AdamW<B> {
        &self.optimizer
    }

    /// The head.
    pub fn head(&self) -> &ClassificationHead<Autodiff<B>> {
        &self.head
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
        _ => (lr.adapter, decay.adapter),
    };
    Rule {
        lr: lr * factor,
        decay: if decays { decay } else { 0.0 },
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

fn argmax(scores: &[f32]) -> usize {
    (1..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
}

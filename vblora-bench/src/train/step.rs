//! One optimizer step in three parts: compose the factors, compute the gradients of each micro-batch, finish.
//!
//! A GPU gets the next step's first two parts before the host has seen this step's loss ([`Learner::finish_then`]), so it never waits for
//! the host to begin.
//!
//! The second part is a function of the step's factors, a batch and its noise, so several machines can share the micro-batches of a step.
//! [`StepSum`] adds gradients in the order of the micro-batches' numbers. The result therefore has the same bits as on one machine.

use std::collections::BTreeMap;

use burn::{
    backend::Autodiff,
    tensor::{Tensor, TensorData},
};
use vblora::{
    AnyAdapter, Composition, FactorGradients, Factors, Noise, ParameterGroup,
    backend::{Clip, VbLoraBackend},
    noise::step_key,
    slab_gradients,
};

use super::{
    adamw::Rule,
    learner::{Learner, Trained},
    objective::{Graph, Objective},
    parameters::Gradients,
};
use crate::{
    Error, Result,
    recipes::{LearningRates, WeightDecay},
};

/// With more vectors per sub-vector than this, finding the logits that were never selected costs more than storing their moments.
const MANY_SELECTED: usize = 64;

/// The report of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// The mean loss of the step's examples, before the update.
    pub loss: f64,
    /// The joint gradient norm of everything trained, before clipping.
    pub norm: f64,
}

impl StepReport {
    /// Returns true if the step was taken, that is, if loss and gradients are finite.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.norm.is_finite()
    }
}

/// The loss and the gradients of one micro-batch.
#[derive(Debug)]
pub struct MicroGradients<B: VbLoraBackend> {
    /// The mean loss times the micro-batch's share of the step, `[1]`, on the device.
    pub(super) loss: Tensor<B, 1>,
    /// Gradients of the head, and of the base if it is trained.
    pub(super) parameters: Gradients<B>,
    /// Gradients of the step's factors.
    pub(super) factors: FactorGradients<B>,
}

/// The factors of one step, and the sum over its micro-batches.
#[derive(Debug)]
pub struct StepSum<B: VbLoraBackend> {
    composition: Option<Composition<B, AnyAdapter<Autodiff<B>>>>,
    loss: Tensor<B, 1>,
    parameters: Gradients<B>,
    /// The summed gradients of the composed slabs, if they were added elsewhere.
    slabs: Option<Vec<Tensor<B, 2>>>,
    /// The number of the micro-batch to add next.
    next: usize,
    /// Micro-batches that arrived before their turn.
    waiting: BTreeMap<usize, MicroGradients<B>>,
}

/// The loss and the gradients of some of a step's micro-batches, added up. Those of factors lie in the adapter's slabs.
#[derive(Debug)]
pub(super) struct SlabGradients<B: VbLoraBackend> {
    pub(super) loss: Tensor<B, 1>,
    pub(super) parameters: Gradients<B>,
    pub(super) slabs: Vec<Tensor<B, 2>>,
}

impl<B: VbLoraBackend> SlabGradients<B> {
    /// Adds a later micro-batch.
    pub(super) fn add(&mut self, later: Self) {
        self.loss = self.loss.clone() + later.loss;
        self.parameters.add(later.parameters);
        for (sum, grad) in self.slabs.iter_mut().zip(later.slabs) {
            *sum = sum.clone() + grad;
        }
    }
}

impl<B: VbLoraBackend> StepSum<B> {
    /// Takes the gradients of all micro-batches, which were added elsewhere. None were added here.
    pub(super) fn set(&mut self, all: SlabGradients<B>) {
        debug_assert!(self.next == 0, "micro-batches were added twice");
        self.loss = all.loss;
        self.parameters = all.parameters;
        self.slabs = Some(all.slabs);
    }

    /// The step's factors, each as a leaf tensor; empty without an adapter.
    pub fn factors(&self) -> Factors<Autodiff<B>> {
        let composition = self.composition.as_ref();
        composition.map_or_else(Factors::none, |found| found.factors().clone())
    }

    /// The composed slabs that the factors are cut from; none without an adapter.
    pub(super) fn slabs(&self) -> Vec<Tensor<B, 2>> {
        let composition = self.composition.as_ref();
        composition.map_or_else(Vec::new, Composition::slabs)
    }

    /// Adds the gradients of micro-batch `number`, counted from 0. Calls may come in any order. The sum is in the order of the numbers, so
    /// its bits are always the same.
    ///
    /// # Panics
    /// The gradients of this number were already added.
    pub fn add(&mut self, number: usize, micro: MicroGradients<B>) {
        let earlier = self.waiting.insert(number, micro);
        assert!(
            earlier.is_none() && number >= self.next,
            "micro-batch {number} was added twice"
        );
        while let Some(micro) = self.waiting.remove(&self.next) {
            self.next += 1;
            self.loss = self.loss.clone() + micro.loss;
            self.parameters.add(micro.parameters);
            if let Some(composition) = &mut self.composition {
                composition.add(micro.factors);
            }
        }
    }
}

impl<B: VbLoraBackend, O: Objective<B>> Learner<B, O> {
    /// Runs one optimizer step over micro-batches. Gradients of the mean loss are clipped by their joint norm. Then AdamW runs with
    /// learning rates multiplied by `factor`. A step whose loss or gradients are not finite changes nothing.
    ///
    /// # Errors
    /// A site of the adapter got no gradient; a batch does not fit the model; the device fails.
    pub fn step(&mut self, step: usize, batches: &[O::Batch], factor: f64) -> Result<StepReport> {
        let sum = self.gradients(step, batches)?;
        self.finish(sum, factor)
    }

    /// The first two parts of a step. They are a function of the arguments and the current parameters.
    ///
    /// # Errors
    /// A batch does not fit the model.
    pub fn gradients(&self, step: usize, batches: &[O::Batch]) -> Result<StepSum<B>> {
        let mut sum = self.compose(step);
        let factors = sum.factors();
        for (number, (batch, share)) in batches.iter().zip(shares::<B, O>(batches)).enumerate() {
            let noise = Noise::new(self.seed, step as u64, number as u64);
            sum.add(number, self.micro_batch(&factors, batch, noise, share)?);
        }
        Ok(sum)
    }

    /// The first part of a step: composes the adapter's factors once for all micro-batches. Random draws of the selection are a function of
    /// the seed and the step.
    pub fn compose(&self, step: usize) -> StepSum<B> {
        let composition = match &self.trained {
            Trained::Adapter(adapter) => {
                let key = step_key(self.seed, step as u64);
                Some(Composition::drawn(&**adapter, key))
            }
            Trained::HeadOnly | Trained::Everything => None,
        };
        StepSum {
            composition,
            loss: Tensor::zeros([1], &self.device),
            parameters: Gradients::new(),
            slabs: None,
            next: 0,
            waiting: BTreeMap::new(),
        }
    }

    /// The second part: the gradients of one micro-batch, a function of the arguments and the current parameters. `share` is the
    /// micro-batch's share of the step's examples or of their weights.
    ///
    /// # Errors
    /// The batch does not fit the model.
    pub fn micro_batch(
        &self,
        factors: &Factors<Autodiff<B>>,
        batch: &O::Batch,
        noise: Noise,
        share: f64,
    ) -> Result<MicroGradients<B>> {
        let factors = factors.with_noise(noise);
        let (mut parameters, mut of_factors) = (Gradients::new(), FactorGradients::none());
        let mut collect = |graph: &mut Graph<B>| {
            parameters.collect("head", &self.head, graph);
            // A visit of a frozen base would find nothing, and take long in a deep one.
            if matches!(self.trained, Trained::Everything) {
                parameters.collect("base", &self.base, graph);
            }
            of_factors.collect(&factors, graph);
        };
        let loss = O::backward(self, batch, &factors, share, &mut collect)?;
        Ok(MicroGradients {
            loss,
            parameters,
            factors: of_factors,
        })
    }

    /// The gradients of a micro-batch, those of factors in the adapter's slabs.
    ///
    /// # Errors
    /// A site of the adapter got no gradient.
    pub(super) fn in_slabs(&self, micro: MicroGradients<B>) -> Result<SlabGradients<B>> {
        let slabs = match &self.trained {
            Trained::Adapter(adapter) => slab_gradients(&**adapter, micro.factors)?,
            Trained::HeadOnly | Trained::Everything => Vec::new(),
        };
        Ok(SlabGradients {
            loss: micro.loss,
            parameters: micro.parameters,
            slabs,
        })
    }

    /// The third part: propagates the factors' gradients back through the composition, clips all gradients by their joint norm, and updates
    /// the parameters. Nothing is updated if the loss or a gradient is not finite.
    ///
    /// # Errors
    /// A site of the adapter got no gradient; the device fails.
    ///
    /// # Panics
    /// A micro-batch with a lower number than an added one is missing.
    pub fn finish(&mut self, sum: StepSum<B>, factor: f64) -> Result<StepReport> {
        Ok(self.finish_then(sum, factor, |_| ())?.0)
    }

    /// [`finish`](Self::finish), then other work with the updated parameters. On a GPU that work is asked for before the host waits for the
    /// report. Its result is returned only if the step was taken.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    ///
    /// # Panics
    /// As [`finish`](Self::finish).
    pub fn finish_then<T>(
        &mut self,
        sum: StepSum<B>,
        factor: f64,
        next: impl FnOnce(&Self) -> T,
    ) -> Result<(StepReport, Option<T>)> {
        let StepSum {
            composition,
            loss,
            mut parameters,
            slabs,
            next: missing,
            waiting,
        } = sum;
        assert!(waiting.is_empty(), "micro-batch {missing} is missing");
        if let (Trained::Adapter(adapter), Some(composition)) = (&self.trained, composition) {
            let mut pushed = match slabs {
                Some(slabs) => composition.push_slabs(slabs),
                None => composition.push_back()?,
            };
            parameters.collect("adapter", &**adapter, &mut pushed);
        }
        let norm = parameters.squared_norm();
        let norm = norm.map_or_else(|| Tensor::zeros([1], &loss.device()), Tensor::sqrt);
        let both = Tensor::cat(vec![loss, norm.clone()], 0);
        let clips = self.clip_norm > 0.0;
        let Some(read_later) = B::read_later().filter(|_| self.begins_early()) else {
            let report = report(both.try_into_data().map_err(|e| failed(format!("{e:?}")))?)?;
            if !report.is_finite() {
                return Ok((report, None));
            }
            // torch.nn.utils.clip_grad_norm_
            if clips && report.norm > self.clip_norm {
                parameters.scale(self.clip_norm / (report.norm + 1e-6));
            }
            self.update(parameters, None, factor);
            return Ok((report, Some(next(self))));
        };
        let reading = read_later(vec![both.into_primitive().tensor()], Vec::new());
        let clip = clips.then_some(Clip {
            norm,
            limit: self.clip_norm,
        });
        let before = (
            self.optimizer.clone(),
            self.head.clone(),
            self.trained.clone(),
        );
        self.update(parameters, clip, factor);
        let next = next(self);
        let [both] = <[TensorData; 1]>::try_from(reading().map_err(failed)?)
            .map_err(|_| failed("a tensor is missing".into()))?;
        let report = report(both)?;
        if report.is_finite() {
            return Ok((report, Some(next)));
        }
        (self.optimizer, self.head, self.trained) = before;
        Ok((report, None))
    }

    /// True if the next step gains from being begun in [`finish_then`](Self::finish_then): on a GPU, with few trained parameters, whose
    /// earlier values stay until the report has come.
    pub fn begins_early(&self) -> bool {
        B::read_later().is_some() && !matches!(self.trained, Trained::Everything)
    }

    /// `clip` is for gradients that the host has not clipped.
    fn update(&mut self, grads: Gradients<B>, clip: Option<Clip<Tensor<B, 1>>>, factor: f64) {
        let rules = Rules {
            lr: self.lr,
            decay: self.decay,
            factor,
            selected: self.selected(),
        };
        self.optimizer.begin_step(clip);
        let head = |_: &str, rank: usize| rules.of(Part::Head, rank);
        self.head = self
            .optimizer
            .apply("head", self.head.clone(), &grads, head);
        match &mut self.trained {
            Trained::Adapter(adapter) => {
                let groups = &self.groups;
                let rule = |path: &str, rank| rules.of(Part::Adapter(groups[path]), rank);
                **adapter = self
                    .optimizer
                    .apply("adapter", (**adapter).clone(), &grads, rule);
            }
            Trained::Everything => {
                let rule = |_: &str, rank: usize| rules.of(Part::Base, rank);
                self.base = self
                    .optimizer
                    .apply("base", self.base.clone(), &grads, rule);
            }
            Trained::HeadOnly => {}
        }
    }

    /// k of an adapter whose logits and noise logits get a gradient only where they are selected. The factors are composed once, so that is
    /// once per step. `None` if the logits are few or many of them are selected: finding those would cost more than the moments of all.
    fn selected(&self) -> Option<usize> {
        let adapter = self.vblora()?;
        let config = adapter.settings().config();
        let are_many = adapter.logits.shape().num_elements() >= self.many_logits;
        let are_few_selected = config.topk <= MANY_SELECTED;
        (config.selection.is_sparse() && are_many && are_few_selected).then_some(config.topk)
    }
}

/// The share of each micro-batch in the mean of its step. The mean is over the whole step, even if micro-batches differ in size. Items that
/// all weigh 0 give no gradient.
pub(super) fn shares<B: VbLoraBackend, O: Objective<B>>(batches: &[O::Batch]) -> Vec<f64> {
    let whole: f64 = batches.iter().map(O::loss_weight).sum();
    let share = |batch| match whole > 0.0 {
        true => O::loss_weight(batch) / whole,
        false => 0.0,
    };
    batches.iter().map(share).collect()
}

/// Parameters with their own learning rate and weight decay.
#[derive(Debug, Clone, Copy)]
enum Part {
    Head,
    Base,
    Adapter(ParameterGroup),
}

/// The update rules of the parameters in one step.
#[derive(Debug, Clone, Copy)]
struct Rules {
    lr: LearningRates,
    decay: WeightDecay,
    /// The schedule's factor.
    factor: f64,
    /// As in [`Rule`], for the parameters that are selected.
    selected: Option<usize>,
}

impl Rules {
    /// The rule of a parameter of this rank. By default weight decay applies only to matrices.
    fn of(self, part: Part, rank: usize) -> Rule {
        let (lr, decay, is_selected) = match part {
            Part::Head => (self.lr.head, self.decay.head, false),
            Part::Base => (self.lr.base, self.decay.base, false),
            Part::Adapter(group) => {
                let (lr, decay) = (self.lr.of(group), self.decay.of(group));
                (lr, decay, group.is_selected())
            }
        };
        let decays = rank > 1 || self.decay.biases;
        Rule {
            lr: lr * self.factor,
            decay: if decays { decay } else { 0.0 },
            selected: self.selected.filter(|_| is_selected),
        }
    }
}

/// The report of loss and norm, `[2]`.
fn report(both: TensorData) -> Result<StepReport> {
    let both = both.convert::<f32>().into_vec::<f32>();
    let both = both.map_err(|e| failed(format!("{e:?}")))?;
    Ok(StepReport {
        loss: f64::from(both[0]),
        norm: f64::from(both[1]),
    })
}

fn failed(reason: String) -> Error {
    Error::from(vblora::Error::DeviceFailed {
        during: "training".into(),
        reason,
    })
}

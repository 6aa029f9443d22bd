//! AdamW as torch computes it.

use std::collections::BTreeMap;

use burn::{backend::Autodiff, module::Module, tensor::Tensor};
use vblora::backend::VbLoraBackend;

use super::parameters::{Gradients, update};
use crate::recipes::AdamSettings;

/// The learning rate and decoupled weight decay of one parameter in one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Learning rate, the schedule's factor included.
    pub lr: f64,
    /// Weight decay, multiplied by the learning rate.
    pub decay: f64,
}

/// AdamW (Loshchilov and Hutter 2019) with torch's order of operations; scalars, bias corrections among them, in f64. Burn's own computes
/// those in f32 and is 4e-6 off after 20 steps.
#[derive(Debug)]
pub struct AdamW<B: VbLoraBackend> {
    settings: AdamSettings,
    step: i32,
    moments: Moments<B>,
}

/// First and second moment of each parameter by path, flat.
pub type Moments<B> = BTreeMap<String, [Tensor<B, 1>; 2]>;

impl<B: VbLoraBackend> AdamW<B> {
    /// An optimizer before its first step.
    pub fn new(settings: AdamSettings) -> Self {
        Self {
            settings,
            step: 0,
            moments: BTreeMap::new(),
        }
    }

    /// Steps taken, and the first and second moment of each parameter that has had a gradient, by path.
    pub fn state(&self) -> (i32, &Moments<B>) {
        (self.step, &self.moments)
    }

    /// Goes on from another optimizer's [`state`](Self::state).
    pub(super) fn restore(&mut self, step: i32, moments: Moments<B>) {
        (self.step, self.moments) = (step, moments);
    }

    /// Starts an optimizer step; [`apply`](Self::apply) is then called once for each module.
    pub fn begin_step(&mut self) {
        self.step += 1;
    }

    /// Updates the parameters of `module` that have a gradient; `rule(path, number of dimensions)` says how.
    pub fn apply<M: Module<Autodiff<B>>>(
        &mut self,
        prefix: &str,
        module: M,
        grads: &Gradients<B>,
        rule: impl Fn(&str, usize) -> Rule,
    ) -> M {
        update(prefix, module, |path, rank, value| {
            let grad = grads.get(path)?.clone();
            Some(self.updated(path, value, grad, rule(path, rank)))
        })
    }

    fn updated(
        &mut self,
        path: &str,
        value: Tensor<B, 1>,
        grad: Tensor<B, 1>,
        rule: Rule,
    ) -> Tensor<B, 1> {
        let AdamSettings { beta1, beta2, eps } = self.settings;
        let squared = grad.clone().square();
        let [first, second] = match self.moments.remove(path) {
            Some([first, second]) => [
                first.mul_scalar(beta1) + grad.mul_scalar(1.0 - beta1),
                second.mul_scalar(beta2) + squared.mul_scalar(1.0 - beta2),
            ],
            None => [
                grad.mul_scalar(1.0 - beta1),
                squared.mul_scalar(1.0 - beta2),
            ],
        };
        let correction = |beta: f64| 1.0 - beta.powi(self.step);
        let denominator = second
            .clone()
            .sqrt()
            .div_scalar(correction(beta2).sqrt())
            .add_scalar(eps);
        let step = first.clone().mul_scalar(rule.lr / correction(beta1)) / denominator;
        self.moments.insert(path.to_owned(), [first, second]);
        let value = if rule.decay == 0.0 {
            value
        } else {
            value.mul_scalar(1.0 - rule.lr * rule.decay)
        };
        value - step
    }
}

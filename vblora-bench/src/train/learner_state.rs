//! The trained state of a learner, for checkpoints: saving and restoring.

use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use vblora::{
    ParameterGroup,
    backend::VbLoraBackend,
    storage::checkpoint::{Forms, ParameterState, parameters_from_bytes, parameters_to_bytes},
};
use vblora_models::host_tensor;

use super::{
    adamw::Moments,
    learner::{Learner, Trained},
    objective::Objective,
    parameters::{non_finite, trained_values, update},
};
use crate::{Error, Result};

/// A learner's trained parameters and its optimizer. Everything else is rebuilt from base, recipe and seed.
#[derive(Debug, Clone, PartialEq)]
pub struct LearnerState {
    /// Optimizer steps taken.
    pub steps: i32,
    /// Parameters and moments as a safetensors file.
    pub tensors: Vec<u8>,
}

impl<B: VbLoraBackend, O: Objective<B>> Learner<B, O> {
    /// Returns the state and the stored form of each parameter. For VB-LoRA's logits it stores only those that training has changed, unless
    /// weight decay changes all of them.
    ///
    /// # Errors
    /// A value is not finite.
    pub fn state(&self) -> Result<(LearnerState, Forms)> {
        let (steps, moments) = self.optimizer.state();
        let with_moments = |(path, value): (String, Vec<f32>)| {
            let moments = moments
                .get(&path)
                .map(|moments| moments.to_whole().map(|moment| host_tensor(moment).values));
            (path, ParameterState { value, moments })
        };
        let parameters: Vec<_> = self
            .trained_values()
            .into_iter()
            .map(with_moments)
            .collect();
        let parameters = parameters
            .iter()
            .map(|(path, state)| (path.as_str(), state));
        let (tensors, forms) = parameters_to_bytes(parameters, |path| self.initial(path))?;
        Ok((LearnerState { steps, tensors }, forms))
    }

    /// Restores the state of a learner with the same base, recipe and seed. Messages show `file` as its origin. An error changes nothing.
    ///
    /// # Errors
    /// The state belongs to another learner, or is damaged.
    pub fn restore(&mut self, file: &Path, state: LearnerState) -> Result<()> {
        let sizes: Vec<_> = self
            .trained_values()
            .into_iter()
            .map(|(path, value)| (path, value.len()))
            .collect();
        let found = parameters_from_bytes(file, state.tensors, &sizes, |path| self.initial(path))?;
        if state.steps == 0 && found.iter().any(|state| state.moments.is_some()) {
            return Err(Error::Adapter(vblora::Error::Format {
                path: file.to_owned(),
                reason: "moments before the optimizer's first step".into(),
            }));
        }
        let device = self.device.clone();
        let upload = |values: Vec<f32>| {
            let n = values.len();
            Tensor::<B, 1>::from_data(TensorData::new(values, [n]), &device)
        };
        let (mut values, mut moments) = (Vec::new(), Vec::new());
        for ((path, _), state) in sizes.into_iter().zip(found) {
            moments.extend(state.moments.map(|m| (path, Moments::Whole(m.map(upload)))));
            values.push(upload(state.value));
        }
        self.optimizer
            .restore(state.steps, moments.into_iter().collect());
        // The order is that in which the values were asked for.
        let mut values = values.into_iter();
        self.head = update("head", self.head.clone(), |_, _, _| values.next());
        match &mut self.trained {
            Trained::Adapter(adapter) => {
                **adapter = update("adapter", (**adapter).clone(), |_, _, _| values.next());
            }
            Trained::Everything => {
                self.base = update("base", self.base.clone(), |_, _, _| values.next());
            }
            Trained::HeadOnly => {}
        }
        Ok(())
    }

    /// The path of the first trained parameter with a value that is not finite. It reads all values back, so it is for evaluations and
    /// checkpoints, not for steps.
    pub(super) fn non_finite(&self) -> Option<String> {
        let rest = || match &self.trained {
            Trained::Adapter(adapter) => non_finite("adapter", &**adapter),
            Trained::Everything => non_finite("base", &self.base),
            Trained::HeadOnly => None,
        };
        non_finite("head", &self.head).or_else(rest)
    }

    /// The values of the head's parameters, one after another.
    pub(super) fn head_values(&self) -> Vec<f32> {
        let values = trained_values("head", &self.head).into_iter();
        values.flat_map(|(_, values)| values).collect()
    }

    /// The same on the device, a tensor for each parameter.
    pub(super) fn head_tensors(&self) -> Vec<Tensor<B, 1>> {
        let mut found = Vec::new();
        let _ = update("head", self.head.clone(), |_, _, value| {
            found.push(value);
            None
        });
        found
    }

    /// Gives each of the head's parameters other values, as many as it has, in their order.
    pub(super) fn set_head(&mut self, mut next: impl FnMut(usize) -> Tensor<B, 1>) {
        self.head = update("head", self.head.clone(), |_, shape, _| {
            Some(next(shape.iter().product()))
        });
    }

    /// Every trained parameter by path, in the order of the module visitor.
    fn trained_values(&self) -> Vec<(String, Vec<f32>)> {
        let mut values = trained_values("head", &self.head);
        match &self.trained {
            Trained::Adapter(adapter) => values.extend(trained_values("adapter", &**adapter)),
            Trained::Everything => values.extend(trained_values("base", &self.base)),
            Trained::HeadOnly => {}
        }
        values
    }

    /// The reason why a checkpoint holds every logit, if it does.
    pub(super) fn why_whole(&self) -> Option<String> {
        self.vblora().filter(|_| self.decay.logits > 0.0).map(|_| {
            let decay = self.decay.logits;
            format!("weight_decay.logits = {decay} moves every logit in every step")
        })
    }

    /// The initial values of a parameter that a checkpoint stores in part: VB-LoRA's logits. A logit that was never selected has gradients
    /// of exactly zero. AdamW then subtracts zero from it, unless weight decay shrinks it. (If a selection gives every logit a gradient,
    /// all are stored.)
    fn initial(&self, path: &str) -> Option<Vec<f32>> {
        let settings = self.vblora()?.settings();
        match self.groups.get(path)? {
            ParameterGroup::Logits if self.decay.logits == 0.0 => {
                Some(settings.initial_logits(self.seed))
            }
            ParameterGroup::NoiseLogits => Some(settings.initial_noise_logits(self.seed)),
            ParameterGroup::Logits
            | ParameterGroup::Bank
            | ParameterGroup::Gate
            | ParameterGroup::Factors => None,
        }
    }
}

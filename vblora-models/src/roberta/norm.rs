//! A frozen layer normalisation.

use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};
use vblora::{backend::VbLoraBackend, ops::layer_norm};

use super::build::Builder;
use crate::{Result, source::WeightSource};

/// `gamma (x - mean) / sqrt(var + epsilon) + beta` over the last dimension.
#[derive(Module, Debug)]
pub struct FrozenLayerNorm<B: Backend> {
    /// `[d]`
    pub gamma: Param<Tensor<B, 1>>,
    /// `[d]`
    pub beta: Param<Tensor<B, 1>>,
    #[module(skip)]
    epsilon: f64,
}

impl<B: VbLoraBackend> FrozenLayerNorm<B> {
    pub(crate) fn build<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        name: &str,
        d: usize,
        epsilon: f64,
    ) -> Result<Self> {
        Ok(Self {
            gamma: builder.frozen(&format!("{name}.weight"), [d])?,
            beta: builder.frozen(&format!("{name}.bias"), [d])?,
            epsilon,
        })
    }

    /// # Shapes
    /// - input and output: `[.., d]`
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        layer_norm(x, self.gamma.val(), self.beta.val(), self.epsilon)
    }
}

//! The update of AdamW.

mod default;
#[cfg(feature = "gpu")]
mod gpu;

use burn::{
    backend::{Autodiff, autodiff::checkpoint::strategy::CheckpointStrategy},
    tensor::{backend::Backend, ops::FloatTensor},
};

/// Updates of parameters.
pub trait OptimizerOps: Backend {
    /// A parameter's value and its moments after a step of AdamW. Called on the inner backend only.
    ///
    /// # Shapes
    /// - all the same, but `[1]` for the norm of the clipping
    fn adamw(
        value: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        moments: Option<[FloatTensor<Self>; 2]>,
        step: AdamWStep,
        clip: Option<Clip<FloatTensor<Self>>>,
    ) -> (FloatTensor<Self>, [FloatTensor<Self>; 2]) {
        default::adamw::<Self>(value, grad, moments, step, clip)
    }
}

/// The numbers of a step of AdamW: `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`, and
/// `value = shrink value - rate m / (sqrt(v) / correction + epsilon)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// beta1 and beta2.
    pub betas: [f64; 2],
    /// The number added to the divisor.
    pub epsilon: f64,
    /// The learning rate over the correction of the first moment's bias.
    pub rate: f64,
    /// The root of the correction of the second moment's bias.
    pub correction: f64,
    /// The factor of weight decay on the value; 1 without decay.
    pub shrink: f64,
}

/// Clipping of gradients by a joint norm that only the device knows: all are multiplied by `min(1, limit / (norm + 1e-6))`, as
/// `torch.nn.utils.clip_grad_norm_` does.
#[derive(Debug, Clone)]
pub struct Clip<T> {
    /// The joint norm of all gradients before clipping, `[1]`.
    pub norm: T,
    /// The largest norm after it.
    pub limit: f64,
}

/// What `torch.nn.utils.clip_grad_norm_` adds to the norm.
const CLIP_EPSILON: f64 = 1e-6;

impl<B: OptimizerOps, C: CheckpointStrategy> OptimizerOps for Autodiff<B, C> {}

#[cfg(feature = "flex")]
impl OptimizerOps for burn::backend::flex::Flex {}

#[cfg(feature = "ndarray")]
impl OptimizerOps for burn::backend::ndarray::NdArray {}

//! The operations of [`VbLoraBackend`] that model ports use, on tensors.

use burn::tensor::{Tensor, TensorPrimitive};

use crate::backend::{VbLoraBackend, primitive};

/// GELU by the error function.
pub fn gelu<B: VbLoraBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::erf_gelu(primitive(x))))
}

/// Softmax over the last dimension.
pub fn softmax<B: VbLoraBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::row_softmax(primitive(x))))
}

/// Layer normalisation over the last dimension.
///
/// # Shapes
/// - x and output: `[.., d]`; gamma, beta: `[d]`
pub fn layer_norm<B: VbLoraBackend, const D: usize>(
    x: Tensor<B, D>,
    gamma: Tensor<B, 1>,
    beta: Tensor<B, 1>,
    epsilon: f64,
) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::row_norm(
        primitive(x),
        primitive(gamma),
        primitive(beta),
        epsilon,
    )))
}

//! The operations of [`VbLoraBackend`] that model ports use, on tensors.

use burn::tensor::{Tensor, TensorPrimitive};

use crate::{
    Noise,
    backend::{AttentionSettings, VbLoraBackend, primitive},
};

/// GELU by the error function.
pub fn gelu<B: VbLoraBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::erf_gelu(primitive(x))))
}

/// Softmax over the last dimension.
pub fn softmax<B: VbLoraBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::row_softmax(primitive(x))))
}

/// Log-softmax over the last dimension.
pub fn log_softmax<B: VbLoraBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::row_log_softmax(primitive(x))))
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

/// Softmax attention of every head, `dropout(softmax(q k^T / sqrt(d / heads) + mask)) v`, with the mask of `place` where there is noise.
///
/// # Shapes
/// - q, k, v and output: `[n, t, d]`, `heads` a divisor of d
/// - mask: `[n, t]`, added to the scores of each key
pub fn attention<B: VbLoraBackend>(
    qkv: [Tensor<B, 3>; 3],
    mask: Option<Tensor<B, 2>>,
    heads: usize,
    dropout: f64,
    noise: Option<Noise>,
    place: &str,
) -> Tensor<B, 3> {
    let settings = AttentionSettings {
        heads,
        dropout: noise
            .filter(|_| dropout > 0.0)
            .map(|noise| (noise.key(place), dropout)),
    };
    let (output, _) = B::head_attention(qkv.map(primitive), mask.map(primitive), settings);
    Tensor::from_primitive(TensorPrimitive::Float(output))
}

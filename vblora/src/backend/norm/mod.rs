//! Normalisation of rows: layer normalisation, and by the root mean square.

mod autodiff;
pub(super) mod default;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "gpu")]
mod gpu;

use burn::tensor::{backend::Backend, ops::FloatTensor};

/// Normalisations over the last dimension.
pub trait NormOps: Backend {
    /// Layer normalisation over the last dimension, `gamma (x - mean) / sqrt(var + epsilon) + beta`.
    ///
    /// # Shapes
    /// - x and output: `[.., d]`; gamma, beta: `[d]`
    fn row_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        default::row_norm::<Self>(x, gamma, beta, epsilon)
    }

    /// The gradients of [`row_norm`](Self::row_norm) to x, gamma and beta. The last two are computed if `affine` asks for them. Called on
    /// the inner backend only.
    fn row_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
        affine: bool,
    ) -> NormGradients<Self> {
        default::row_norm_backward::<Self>(x, gamma, epsilon, grad, affine)
    }

    /// [`row_norm`](Self::row_norm) for weights that are not zero and get no gradient. Under autodiff the backward pass needs the output in
    /// place of the input. The maps after the normalisation keep that output anyway.
    fn invertible_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        Self::row_norm(x, gamma, beta, epsilon)
    }

    /// [`row_norm`](Self::row_norm), and the divisor of each row, `sqrt(var + epsilon)`. Called on the inner backend only.
    ///
    /// # Shapes
    /// - x and first output: `[.., d]`; gamma, beta: `[d]`; second output: `[n]`, n the number of rows
    fn norm_and_deviation(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        default::norm_and_deviation::<Self>(x, gamma, beta, epsilon)
    }

    /// [`invertible_norm`](Self::invertible_norm) of the sum of x and a residual of its shape. Nothing keeps the sum.
    fn invertible_sum_norm(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        Self::sum_norm_and_deviation(x, residual, gamma, beta, epsilon).0
    }

    /// [`norm_and_deviation`](Self::norm_and_deviation) of the sum of x and a residual of its shape. Called on the inner backend only.
    fn sum_norm_and_deviation(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        default::sum_norm_and_deviation::<Self>(x, residual, gamma, beta, epsilon)
    }

    /// The gradient of [`invertible_norm`](Self::invertible_norm) to x, from its output and the divisor of each row. Called on the inner
    /// backend only.
    ///
    /// # Shapes
    /// - y, grad and output: `[.., d]`; gamma, beta: `[d]`; deviation: `[n]`
    fn invertible_norm_backward(
        y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        deviation: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        default::invertible_norm_backward::<Self>(y, [gamma, beta], deviation, grad)
    }

    /// Root-mean-square normalisation over the last dimension, `gamma x / sqrt(mean(x^2) + epsilon)` (arXiv 1910.07467).
    ///
    /// # Shapes
    /// - x and output: `[.., d]`; gamma: `[d]`
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        default::rms_norm::<Self>(x, gamma, epsilon)
    }

    /// The gradients of [`rms_norm`](Self::rms_norm) to x and gamma. The latter is computed if `affine` asks for it. Called on the inner
    /// backend only.
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
        affine: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        default::rms_norm_backward::<Self>(x, gamma, epsilon, grad, affine)
    }
}

/// The gradients of [`row_norm`](NormOps::row_norm) to x and, if asked for, to gamma and beta.
pub type NormGradients<B> = (FloatTensor<B>, Option<[FloatTensor<B>; 2]>);

//! Top-k selection, the mixture of bank vectors, and rows put together.

mod autodiff;
mod default;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "gpu")]
mod gpu;
#[cfg(feature = "ndarray")]
mod ndarray;

use burn::tensor::{
    backend::Backend,
    ops::{FloatTensor, IntTensor},
};

/// The operations of the top-k admixture.
pub trait MixOps: Backend {
    /// Indices of the `k` largest logits of each row, largest first, ties to the lowest index. Not differentiable.
    ///
    /// # Shapes
    /// - logits: `[S, h]`, finite, `1 <= k <= h`
    /// - output: `[S, k]`
    fn top_k_indices(logits: FloatTensor<Self>, k: usize) -> IntTensor<Self> {
        default::top_k_indices::<Self>(logits, k)
    }

    /// `out[s, :] = sum_j weights[s, j] * bank[indices[s, j], :]`, differentiable in bank and weights.
    ///
    /// # Shapes
    /// - bank: `[h, b]`, weights and indices: `[S, k]`
    /// - output: `[S, b]`
    fn mix(
        bank: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        indices: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        default::mix::<Self>(bank, weights, indices)
    }

    /// The gradients of [`mix`](Self::mix) to bank and weights (paper notes 1.3). Called on the inner backend only.
    ///
    /// # Shapes
    /// - grad: `[S, b]`; outputs: `[h, b]` and `[S, k]`
    fn mix_backward(
        bank: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        indices: IntTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        default::mix_backward::<Self>(bank, weights, indices, grad)
    }

    /// Joins matrices of one dtype and width along their rows. Called on the inner backend only.
    ///
    /// # Shapes
    /// - pieces, at least one: `[n_i, m]`; output: `[sum of n_i, m]`
    fn join_rows(pieces: Vec<FloatTensor<Self>>) -> FloatTensor<Self> {
        Self::float_cat(pieces, 0)
    }
}

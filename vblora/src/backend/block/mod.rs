//! Several maps of one input as one operation: query, key and value with their attention, gate and up with their unit.
//!
//! Each map may have an update or none.

mod autodiff;
mod default;
#[cfg(feature = "flex")]
mod flex;
mod form;
#[cfg(feature = "gpu")]
mod gpu;
#[cfg(feature = "ndarray")]
mod ndarray;

use burn::tensor::ops::FloatTensor;

use super::{AttentionOps, FrozenMap, Gate, HeldWeight, LinearOps, Update};

pub use form::SelfAttention;

/// The update of each of N maps; `None` for a map without one.
pub type Updates<T, const N: usize> = [Option<Update<T>>; N];

/// Operations on several frozen maps of one input, each perhaps with an update.
///
/// A GPU reads the shared input once for all of them, and autodiff has one node in place of three to ten.
pub trait BlockOps: LinearOps + AttentionOps {
    /// True if the backend is faster with these operations than with one for each map. Their sums may be added in another order.
    fn joins_maps() -> bool {
        false
    }

    /// One input through each map: [`adapted_linear`](LinearOps::adapted_linear) with an update,
    /// [`frozen_linear`](LinearOps::frozen_linear) and no second output without. The second outputs are not differentiable.
    ///
    /// # Shapes
    /// - x: `[n, d_in]`; outputs of each map: `[n, d_out]` and `[n, r]`
    fn adapted_linears<const N: usize>(
        x: FloatTensor<Self>,
        maps: [FrozenMap<Self>; N],
        updates: Updates<FloatTensor<Self>, N>,
    ) -> [(FloatTensor<Self>, Option<FloatTensor<Self>>); N] {
        default::adapted_linears::<Self, N>(x, maps, updates)
    }

    /// The gradients of [`adapted_linears`](Self::adapted_linears). `narrows` are its second outputs and `grads` the gradients of its first.
    /// Called on the inner backend only.
    ///
    /// # Shapes
    /// - as in [`adapted_linear_backward`](LinearOps::adapted_linear_backward), for each map
    fn adapted_linears_backward<const N: usize>(
        x: FloatTensor<Self>,
        weights: [HeldWeight<Self>; N],
        updates: Updates<FloatTensor<Self>, N>,
        narrows: [Option<FloatTensor<Self>>; N],
        grads: [FloatTensor<Self>; N],
        needs_x: bool,
    ) -> JoinedGradients<FloatTensor<Self>, N> {
        default::adapted_linears_backward::<Self, N>(x, weights, updates, narrows, grads, needs_x)
    }

    /// Attention whose queries, keys and values are maps of one input.
    ///
    /// # Shapes
    /// - x: `[n, t, d_in]`; output: `[n, t, heads size]`
    fn self_attention(
        x: FloatTensor<Self>,
        maps: [FrozenMap<Self>; 3],
        updates: Updates<FloatTensor<Self>, 3>,
        form: SelfAttention<Self>,
    ) -> FloatTensor<Self> {
        default::self_attention::<Self>(x, maps, updates, form)
    }

    /// A gated unit of two maps of one input, gate and up.
    ///
    /// # Shapes
    /// - x: `[.., d_in]`; output: `[.., d_out]`
    fn gated_maps(
        x: FloatTensor<Self>,
        maps: [FrozenMap<Self>; 2],
        updates: Updates<FloatTensor<Self>, 2>,
        form: Gate,
    ) -> FloatTensor<Self> {
        default::gated_maps::<Self>(x, maps, updates, form)
    }
}

/// The result of [`adapted_linears_backward`](BlockOps::adapted_linears_backward).
#[derive(Debug)]
pub struct JoinedGradients<T, const N: usize> {
    /// `[n, d_in]`; `None` if it was not asked for.
    pub x: Option<T>,
    /// Of each map with an update: down `[d_in, r]` and up `[r, d_out]`.
    pub factors: [Option<[T; 2]>; N],
}

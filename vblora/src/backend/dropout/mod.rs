//! Dropout whose mask depends on a key and an element's place alone.

mod autodiff;
pub(super) mod default;
#[cfg(feature = "flex")]
pub(super) mod flex;
#[cfg(feature = "gpu")]
mod gpu;
mod mask;
#[cfg(feature = "ndarray")]
mod ndarray;

use burn::tensor::{backend::Backend, ops::FloatTensor};

use crate::Unpadded;

/// Dropout by a key.
pub trait DropoutOps: Backend {
    /// Inverted dropout. Element `i` in row-major order is zeroed with probability `p`, else divided by `1 - p`. The choice depends on
    /// `key` and `i` alone. Its gradient is the same dropout of the gradient.
    fn dropout(x: FloatTensor<Self>, key: u64, p: f64) -> FloatTensor<Self> {
        default::dropout::<Self>(x, key, p)
    }

    /// [`dropout`](Self::dropout) of a batch without its padding. A token takes the mask of its place in the padded batch.
    ///
    /// # Shapes
    /// - x and output: `[N, d]`
    fn unpadded_dropout(
        x: FloatTensor<Self>,
        unpadded: &Unpadded,
        key: u64,
        p: f64,
    ) -> FloatTensor<Self> {
        default::unpadded_dropout::<Self>(x, unpadded, key, p)
    }
}

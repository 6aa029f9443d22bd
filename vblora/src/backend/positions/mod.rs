//! Attention of encoders whose tokens have no learned positions: rotary positions with windows, and scores of relative positions.

mod autodiff;
pub(super) mod default;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "gpu")]
mod gpu;

use burn::tensor::{backend::Backend, ops::FloatTensor};

use super::{AttentionOps, AttentionSettings};
use crate::Unpadded;

/// Attention with rotary or with relative positions, over all tokens of a text.
pub trait PositionOps: AttentionOps {
    /// Attention of queries, keys and values that lie side by side, after queries and keys are turned by the angles, as
    /// [`rotate`](AttentionOps::rotate) turns them. A token sees those at most `reach` places away. The second output is for the backward
    /// pass and is not differentiable.
    ///
    /// # Shapes
    /// - qkv: `[.., 3 d]`, as the texts lie; cos, sin: `[.., d / heads / 2]`; output: `[.., d]`
    /// - the second output is up to the backend
    fn rotary_attention(
        qkv: FloatTensor<Self>,
        angles: [FloatTensor<Self>; 2],
        texts: &Texts<Self>,
        settings: RotarySettings,
    ) -> (FloatTensor<Self>, Vec<FloatTensor<Self>>) {
        default::rotary_attention::<Self>(qkv, angles, texts, settings)
    }

    /// The gradient of [`rotary_attention`](Self::rotary_attention) to qkv. `saved` is its second output. Called on the inner backend only.
    ///
    /// # Shapes
    /// - grad: `[.., d]`; output: `[.., 3 d]`
    fn rotary_attention_backward(
        saved: Vec<FloatTensor<Self>>,
        angles: [FloatTensor<Self>; 2],
        texts: &Texts<Self>,
        settings: RotarySettings,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        default::rotary_attention_backward::<Self>(saved, angles, texts, settings, grad)
    }

    /// Attention whose scores add content with content, content with position and position with content (arXiv 2006.03654). The sum is
    /// divided by the root of three times a head's size. The second output is for the backward pass and is not differentiable.
    ///
    /// # Shapes
    /// - q, k, v and output: `[.., d]`, as the texts lie; the second output is up to the backend
    /// - the tables of `relative`: `[1 or n, 2 t - 1, d]` for texts of t columns
    fn disentangled_attention(
        qkv: [FloatTensor<Self>; 3],
        relative: RelativeTables<FloatTensor<Self>>,
        texts: &Texts<Self>,
        settings: AttentionSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        default::disentangled_attention::<Self>(qkv, relative, texts, settings)
    }

    /// The gradients of [`disentangled_attention`](Self::disentangled_attention) to q, k and v, and to the tables. `saved` is its second
    /// output. Called on the inner backend only.
    ///
    /// # Shapes
    /// - grad: `[.., d]`; outputs: as the inputs
    fn disentangled_attention_backward(
        qkv: [FloatTensor<Self>; 3],
        relative: RelativeTables<FloatTensor<Self>>,
        saved: FloatTensor<Self>,
        texts: &Texts<Self>,
        settings: AttentionSettings,
        grad: FloatTensor<Self>,
    ) -> ([FloatTensor<Self>; 3], RelativeTables<FloatTensor<Self>>) {
        default::disentangled_attention_backward::<Self>(
            qkv, relative, saved, texts, settings, grad,
        )
    }
}

/// How the texts of a batch lie.
#[derive(Debug, Clone)]
pub enum Texts<B: Backend> {
    /// `[n, t, ..]`. The mask, `[n, t]`, is added to the scores of each key.
    Padded(Option<FloatTensor<B>>),
    /// `[N, ..]`, without padding.
    Unpadded(Unpadded),
}

/// The non-tensor arguments of a [`rotary_attention`](PositionOps::rotary_attention).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RotarySettings {
    /// Heads and dropout.
    pub attention: AttentionSettings,
    /// How many places away a token sees; all tokens without it.
    pub reach: Option<usize>,
}

/// The rows of relative positions. A distance is the query's place less the key's, from `1 - t` to `t - 1`.
#[derive(Debug, Clone)]
pub struct RelativeTables<T> {
    /// Through the map of queries, from the smallest distance to the largest, `[1 or n, 2 t - 1, d]`.
    pub of_query: T,
    /// Through the map of keys, from the largest distance to the smallest, `[1 or n, 2 t - 1, d]`.
    pub of_key: T,
}

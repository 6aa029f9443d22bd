//! Attention of padded, unpadded and causal batches, and rotary positions.

mod autodiff;
pub(super) mod default;
#[cfg(feature = "flex")]
pub(super) mod flex;
#[cfg(feature = "gpu")]
mod gpu;

use burn::tensor::ops::{FloatTensor, IntTensor};

use super::{ActivationOps, DropoutOps};
use crate::{Noise, Unpadded};

/// Attention, with backward passes that compute the weights of all pairs again or keep them once.
pub trait AttentionOps: ActivationOps + DropoutOps {
    /// A product of each head's matrices. Attention is built from these products on a backend that has no kernel for the whole. Called on
    /// the inner backend only.
    ///
    /// # Shapes
    /// - a, b and output: those of the [`HeadForm`]
    /// - mask: `[n, u]`, added to the column of each key; for [`HeadForm::TimesTransposed`] alone
    fn head_product(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        mask: Option<FloatTensor<Self>>,
        product: HeadProduct,
    ) -> FloatTensor<Self> {
        default::head_product::<Self>(a, b, mask, product)
    }

    /// Softmax attention of every head, `dropout(softmax(q k^T / sqrt(d / heads) + mask)) v`. The second output is for the backward pass
    /// and is not differentiable.
    ///
    /// # Shapes
    /// - q, k, v and output: `[n, t, d]`; mask: `[n, t]`, added to the scores of each key
    /// - the shape of the second output is up to the backend; by default it holds the weights before dropout, `[n, heads, t, t]`
    fn head_attention(
        qkv: [FloatTensor<Self>; 3],
        mask: Option<FloatTensor<Self>>,
        settings: AttentionSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        default::head_attention::<Self>(qkv, mask, settings)
    }

    /// The gradients of [`head_attention`](Self::head_attention) to q, k and v. `mask` is its input and `saved` its second output. Called
    /// on the inner backend only.
    ///
    /// # Shapes
    /// - grad and outputs: `[n, t, d]`
    fn head_attention_backward(
        qkv: [FloatTensor<Self>; 3],
        _mask: Option<FloatTensor<Self>>,
        saved: FloatTensor<Self>,
        settings: AttentionSettings,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        default::head_attention_backward::<Self>(qkv, saved, settings, grad)
    }

    /// True if the backend is faster with batches that have no padding. [`unpadded_attention`](Self::unpadded_attention) and
    /// [`unpadded_dropout`](DropoutOps::unpadded_dropout) are fast then.
    fn skips_padding() -> bool {
        false
    }

    /// [`head_attention`](Self::head_attention) of a batch without its padding.
    ///
    /// # Shapes
    /// - q, k, v and output: `[N, d]`; the shape of the second output is up to the backend, by default as in `head_attention`
    fn unpadded_attention(
        qkv: [FloatTensor<Self>; 3],
        unpadded: &Unpadded,
        settings: AttentionSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        default::unpadded_attention::<Self>(qkv, unpadded, settings)
    }

    /// The gradients of [`unpadded_attention`](Self::unpadded_attention) to q, k and v. `saved` is its second output. Called on the inner
    /// backend only.
    ///
    /// # Shapes
    /// - grad and outputs: `[N, d]`
    fn unpadded_attention_backward(
        qkv: [FloatTensor<Self>; 3],
        unpadded: &Unpadded,
        saved: FloatTensor<Self>,
        settings: AttentionSettings,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        default::unpadded_attention_backward::<Self>(qkv, unpadded, saved, settings, grad)
    }

    /// Causal softmax attention, `dropout(softmax(q k^T / sqrt(size))) v`, whose heads may share keys in groups of `heads / kv_heads`.
    ///
    /// Query i of a row stands at key `offset + i`. It sees the keys from `first` (0 without it) to its own, and of these the last
    /// `window`. Keys after the last query are room for later ones. With a `cap` c, a score s is `c tanh(s / c)`. The second output is for the
    /// backward pass and is not differentiable.
    ///
    /// # Shapes
    /// - q and output: `[n, t, heads size]`; k, v: `[n, T, kv_heads size]`, `T >= offset + t`; first: `[n, t]`, at most `offset + i`
    /// - the shape of the second output is up to the backend; by default it holds the weights before dropout, `[n, heads, t, offset + t]`
    fn causal_attention(
        qkv: [FloatTensor<Self>; 3],
        first: Option<IntTensor<Self>>,
        settings: CausalSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        default::causal_attention::<Self>(qkv, first, settings)
    }

    /// The gradients of [`causal_attention`](Self::causal_attention) to q, k and v, for offset 0 and no room after the keys. `first` is
    /// its input and `saved` its second output. Called on the inner backend only.
    fn causal_attention_backward(
        qkv: [FloatTensor<Self>; 3],
        _first: Option<IntTensor<Self>>,
        saved: FloatTensor<Self>,
        settings: CausalSettings,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        default::causal_attention_backward::<Self>(qkv, saved, settings, grad)
    }

    /// The weights of a causal attention before dropout: softmax over the keys that each query sees, 0 for the others. `causal_attention`
    /// says which it sees. Called on the inner backend only.
    ///
    /// # Shapes
    /// - scores, without the cap, and output: `[n, heads, t, offset + t]`; first: `[n, t]`
    fn causal_weights(
        scores: FloatTensor<Self>,
        first: Option<IntTensor<Self>>,
        settings: CausalSettings,
    ) -> FloatTensor<Self> {
        default::causal_weights::<Self>(scores, first, settings)
    }

    /// Rotary position embedding (arXiv 2104.09864) in Hugging Face's order: element i of a head turns with element i + size / 2. Its
    /// gradient is the rotation of the gradient by `cos` and `-sin`. The angles get no gradient.
    ///
    /// # Shapes
    /// - x and output: `[n, t, heads size]`; cos, sin: `[n, t, size / 2]`
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        default::rotate::<Self>(x, cos, sin)
    }

    /// The gradient of [`rotate`](Self::rotate) to x. Called on the inner backend only.
    ///
    /// # Shapes
    /// - as in [`rotate`](Self::rotate)
    fn rotate_backward(
        grad: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        default::rotate_backward::<Self>(grad, cos, sin)
    }
}

/// The non-tensor arguments of a [`head_product`](AttentionOps::head_product).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadProduct {
    /// The factors' order and which of them is transposed.
    pub form: HeadForm,
    /// Heads, a divisor of d.
    pub heads: usize,
    /// The factor on the product.
    pub scale: f64,
}

/// The forms of a [`head_product`](AttentionOps::head_product). A tensor `[n, t, d]` has its heads side by side in d.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadForm {
    /// `a b^T`, a: `[n, t, d]`, b: `[n, u, d]`, output: `[n, heads, t, u]`
    TimesTransposed,
    /// `a b`, a: `[n, heads, t, u]`, b: `[n, u, d]`, output: `[n, t, d]`
    Times,
    /// `a^T b`, a: `[n, heads, t, u]`, b: `[n, t, d]`, output: `[n, u, d]`
    TransposedTimes,
}

/// The non-tensor arguments of an attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSettings {
    /// Heads, a divisor of d.
    pub heads: usize,
    /// Key and probability of the dropout of its weights; `None` outside training.
    pub dropout: Option<(u64, f64)>,
}

impl AttentionSettings {
    /// Settings with these heads. With noise, the weights are dropped by the mask of `place`.
    pub fn new(heads: usize, dropout: f64, noise: Option<Noise>, place: &str) -> Self {
        let noise = noise.filter(|_| dropout > 0.0);
        Self {
            heads,
            dropout: noise.map(|noise| (noise.key(place), dropout)),
        }
    }
}

/// The non-tensor arguments of a causal attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CausalSettings {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values, a divisor of `heads`.
    pub kv_heads: usize,
    /// The key at which the first query stands.
    pub offset: usize,
    /// The number of keys that a query sees at most, its own among them (Mistral's sliding window).
    pub window: Option<usize>,
    /// The limit that scores come near and do not pass (Gemma 2's soft cap).
    pub cap: Option<f64>,
    /// Key and probability of the dropout of the weights; `None` outside training.
    pub dropout: Option<(u64, f64)>,
}

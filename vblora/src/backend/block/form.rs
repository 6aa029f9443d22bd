//! The forms of an attention whose queries, keys and values come from one input.

use burn::tensor::{
    backend::Backend,
    ops::{FloatTensor, IntTensor},
};

use crate::backend::{AttentionOps, AttentionSettings, CausalSettings};

/// What an attention does with queries, keys and values, `[n, t, heads size]` each.
#[derive(Debug, Clone)]
pub enum SelfAttention<B: Backend> {
    /// [`head_attention`](AttentionOps::head_attention).
    Whole {
        /// `[n, t]`
        mask: Option<FloatTensor<B>>,
        /// Heads and dropout.
        settings: AttentionSettings,
    },
    /// [`causal_attention`](AttentionOps::causal_attention) of turned queries and keys, for offset 0.
    Causal {
        /// cos and sin, as [`rotate`](AttentionOps::rotate) takes them.
        angles: Option<[FloatTensor<B>; 2]>,
        /// `[n, t]`
        first: Option<IntTensor<B>>,
        /// Heads, window, cap and dropout.
        settings: CausalSettings,
    },
}

/// What the backward pass of an attention needs: turned queries and keys, values, and the attention's second output.
pub(super) type Attended<B> = ([FloatTensor<B>; 3], FloatTensor<B>);

impl<B: AttentionOps> SelfAttention<B> {
    /// The output, and what the backward pass needs.
    pub(super) fn forward(&self, [q, k, v]: [FloatTensor<B>; 3]) -> (FloatTensor<B>, Attended<B>) {
        match self {
            Self::Whole { mask, settings } => {
                let qkv = [q, k, v];
                let (output, saved) = B::head_attention(qkv.clone(), mask.clone(), *settings);
                (output, (qkv, saved))
            }
            Self::Causal {
                angles,
                first,
                settings,
            } => {
                let [q, k] = [q, k].map(|x| match angles.clone() {
                    Some([cos, sin]) => B::rotate(x, cos, sin),
                    None => x,
                });
                let qkv = [q, k, v];
                let (output, saved) = B::causal_attention(qkv.clone(), first.clone(), *settings);
                (output, (qkv, saved))
            }
        }
    }

    /// The gradients to queries, keys and values. Called on the inner backend only.
    pub(super) fn backward(
        self,
        (qkv, saved): Attended<B>,
        grad: FloatTensor<B>,
    ) -> [FloatTensor<B>; 3] {
        match self {
            Self::Whole { mask, settings } => {
                B::head_attention_backward(qkv, mask, saved, settings, grad)
            }
            Self::Causal {
                angles,
                first,
                settings,
            } => {
                let [dq, dk, dv] = B::causal_attention_backward(qkv, first, saved, settings, grad);
                let [dq, dk] = [dq, dk].map(|grad| match angles.clone() {
                    Some([cos, sin]) => B::rotate_backward(grad, cos, sin),
                    None => grad,
                });
                [dq, dk, dv]
            }
        }
    }
}

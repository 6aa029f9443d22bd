//! The mixture of each sub-vector on the host, for recordings and pictures of training.

use burn::tensor::{Int, Tensor};

use super::VbLora;
use crate::{
    Selection,
    admixture::host,
    backend::{VbLoraBackend, primitive},
    ops::softmax,
};

/// The bank vectors that each sub-vector mixes, and how much of each.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    /// k
    pub topk: usize,
    /// `[S, k]`, largest weight first; ties to the lowest index.
    pub indices: Vec<u32>,
    /// `[S, k]`. If all vectors are selected, the k largest weights.
    pub weights: Vec<f32>,
}

impl<B: VbLoraBackend> VbLora<B> {
    /// The present mixtures. Only S k weights and their indices leave the device.
    pub fn mixture(&self) -> Mixture {
        let config = self.settings().config();
        let topk = config.topk;
        let logits = self.logits.val();
        let indices =
            Tensor::<B, 2, Int>::from_primitive(B::top_k_indices(primitive(logits.clone()), topk));
        let weights = match config.selection {
            Selection::SelectAll => softmax(logits).gather(1, indices.clone()),
            _ => softmax(logits.gather(1, indices.clone())),
        };
        Mixture {
            topk,
            indices: indices.into_data().iter::<u32>().collect(),
            weights: host(weights),
        }
    }

    /// The present bank.
    ///
    /// # Shapes
    /// - output: `[h, b]`, row-major
    pub fn host_bank(&self) -> Vec<f32> {
        host(self.bank.val())
    }
}

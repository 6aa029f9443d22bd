//! Dropout masks that depend on seed, step, micro-batch and place alone. They are equal on every backend.

use burn::tensor::{Tensor, TensorPrimitive};

use crate::{
    Unpadded,
    backend::{VbLoraBackend, primitive},
    rng::Key,
};

/// The key for random draws that all micro-batches of one optimizer step share.
pub fn step_key(seed: u64, step: u64) -> Key {
    Key::new(seed).name("step").index(step)
}

/// The noise of one micro-batch of a training run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise(Key);

impl Noise {
    /// The noise of micro-batch `micro_batch` of optimizer step `step` in the run with this seed.
    pub fn new(seed: u64, step: u64, micro_batch: u64) -> Self {
        Self(Key::new(seed).name("noise").index(step).index(micro_batch))
    }

    /// The noise of a numbered part, for example a layer.
    #[must_use]
    pub fn index(self, index: u64) -> Self {
        Self(self.0.index(index))
    }

    /// Inverted dropout: an element is zeroed with probability `p`, else divided by `1 - p`. `place` names the element's tensor in the
    /// model.
    ///
    /// # Shapes
    /// - input and output: the same, fewer than 2^31 elements
    pub fn dropout<B: VbLoraBackend, const D: usize>(
        self,
        x: Tensor<B, D>,
        p: f64,
        place: &str,
    ) -> Tensor<B, D> {
        if p <= 0.0 {
            return x;
        }
        let dropped = B::dropout(primitive(x), self.key(place), p);
        Tensor::from_primitive(TensorPrimitive::Float(dropped))
    }

    /// [`dropout`](Self::dropout) of a batch without its padding. A token takes the mask of its place in the padded batch.
    ///
    /// # Shapes
    /// - input and output: `[N, ..]`, the same
    pub(crate) fn unpadded_dropout<B: VbLoraBackend, const D: usize>(
        self,
        x: Tensor<B, D>,
        unpadded: &Unpadded,
        p: f64,
        place: &str,
    ) -> Tensor<B, D> {
        if p <= 0.0 {
            return x;
        }
        let (shape, tokens) = (x.dims(), unpadded.tokens());
        let rows = x.reshape([tokens, shape.iter().product::<usize>() / tokens.max(1)]);
        let dropped = B::unpadded_dropout(primitive(rows), unpadded, self.key(place), p);
        Tensor::<B, 2>::from_primitive(TensorPrimitive::Float(dropped)).reshape(shape)
    }

    /// The key of the mask of a place.
    pub fn key(self, place: &str) -> u64 {
        self.0.name(place).bits(0)
    }
}

/// [`Noise::dropout`] if there is noise. Outside training there is none, and the input comes back.
pub fn dropout<B: VbLoraBackend, const D: usize>(
    x: Tensor<B, D>,
    p: f64,
    noise: Option<Noise>,
    place: &str,
) -> Tensor<B, D> {
    match noise {
        Some(noise) => noise.dropout(x, p, place),
        None => x,
    }
}

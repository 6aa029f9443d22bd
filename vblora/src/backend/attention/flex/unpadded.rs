//! Attention of sequences that lie one after the other in memory. Each is computed in place, as a batch of one.

use std::ops::Range;

use burn::{
    backend::flex::FlexTensor,
    tensor::{Shape, TensorMetadata},
};
use rayon::prelude::*;

use super::super::{
    AttentionSettings,
    kernels::{Attention, Visible, attend, attend_backward},
};
use crate::{
    Unpadded,
    backend::{dropout::mask::Mask, flex::tensor, kernels::zeros},
};

/// Contiguous inputs of one call, and the lengths of its sequences.
pub(super) struct Inputs<'a> {
    qkv: [FlexTensor; 3],
    unpadded: &'a Unpadded,
    heads: usize,
    d: usize,
    dropout: Option<Mask>,
}

impl<'a> Inputs<'a> {
    pub(super) fn new(
        qkv: [FlexTensor; 3],
        unpadded: &'a Unpadded,
        settings: AttentionSettings,
    ) -> Self {
        let [_, d] = qkv[0].shape().dims::<2>();
        Self {
            qkv: qkv.map(|x| x.to_contiguous()),
            unpadded,
            heads: settings.heads,
            d,
            dropout: settings.dropout.map(|(key, p)| Mask::new(key, p)),
        }
    }

    fn sequence(&self, i: usize, range: Range<usize>) -> Attention<'_> {
        let t = range.len();
        let [_, columns] = self.unpadded.shape();
        let [q, k, v] = self
            .qkv
            .each_ref()
            .map(|x| &x.storage()[range.start * self.d..range.end * self.d]);
        Attention {
            q,
            k,
            v,
            sequences: 1,
            queries: t,
            keys: t,
            room: t,
            heads: self.heads,
            kv_heads: self.heads,
            size: self.d / self.heads,
            visible: Visible::Masked(None),
            cap: None,
            dropout: self.dropout.as_ref(),
            place: [i, columns, columns],
        }
    }

    /// Cuts a buffer with `per_token` numbers for each token into one slice per sequence.
    fn split<'b>(&self, mut all: &'b mut [f32], per_token: usize) -> Vec<&'b mut [f32]> {
        let cut = self.unpadded.lengths().iter().map(|length| {
            let (own, rest) = std::mem::take(&mut all).split_at_mut(length * per_token);
            all = rest;
            own
        });
        cut.collect()
    }

    fn ranges(&self) -> Vec<Range<usize>> {
        self.unpadded.ranges().collect()
    }

    pub(super) fn forward(&self) -> (FlexTensor, FlexTensor) {
        let (n, per_token) = (self.unpadded.tokens(), 2 * self.heads);
        let (mut output, mut sums) = (zeros(n * self.d), vec![0.0; n * per_token]);
        self.split(&mut output, self.d)
            .into_par_iter()
            .zip(self.split(&mut sums, per_token))
            .zip(self.ranges())
            .enumerate()
            .for_each(|(i, ((output, sums), range))| attend(self.sequence(i, range), output, sums));
        let shape = Shape::new([n, self.d]);
        (
            tensor(output, shape),
            tensor(sums, Shape::new([n * per_token])),
        )
    }

    pub(super) fn backward(&self, saved: &FlexTensor, grad: &FlexTensor) -> [FlexTensor; 3] {
        let grad = grad.to_contiguous();
        let (n, d, per_token) = (self.unpadded.tokens(), self.d, 2 * self.heads);
        let mut found = [(); 3].map(|()| zeros(n * d));
        let [dq, dk, dv] = found.each_mut().map(|all| self.split(all, d));
        dq.into_par_iter()
            .zip(dk)
            .zip(dv)
            .zip(self.ranges())
            .enumerate()
            .for_each(|(i, (((dq, dk), dv), range))| {
                let sums = &saved.storage()[range.start * per_token..range.end * per_token];
                let grad = &grad.storage()[range.start * d..range.end * d];
                attend_backward(self.sequence(i, range), sums, grad, [dq, dk, dv]);
            });
        found.map(|values| tensor(values, Shape::new([n, d])))
    }
}

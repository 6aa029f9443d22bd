//! Attention of sequences that lie one after the other: each is a batch of one in place.

use std::ops::Range;

use burn::{
    backend::flex::{Flex, FlexTensor},
    tensor::{Shape, TensorMetadata, ops::FloatTensor},
};
use rayon::prelude::*;

use super::{is_f32, tensor};
use crate::{
    Packing,
    backend::{
        AttentionSettings,
        defaults::packed as default,
        kernels::{Attention, Visible, attend, attend_backward, drop_rows},
        mask::Mask,
    },
};

/// Contiguous inputs, and what each sequence has of its own.
struct Inputs<'a> {
    qkv: [FlexTensor; 3],
    packing: &'a Packing,
    heads: usize,
    d: usize,
    dropout: Option<Mask>,
}

impl<'a> Inputs<'a> {
    fn new(qkv: [FlexTensor; 3], packing: &'a Packing, settings: AttentionSettings) -> Self {
        let [_, d] = qkv[0].shape().dims::<2>();
        Self {
            qkv: qkv.map(|x| x.to_contiguous()),
            packing,
            heads: settings.heads,
            d,
            dropout: settings.dropout.map(|(key, p)| Mask::new(key, p)),
        }
    }

    fn sequence(&self, i: usize, range: Range<usize>) -> Attention<'_> {
        let t = range.len();
        let [_, columns] = self.packing.shape();
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
            dropout: self.dropout.as_ref(),
            place: [i, columns, columns],
        }
    }

    /// Cuts a buffer with `per_token` numbers for each token into its sequences'.
    fn split<'b>(&self, mut all: &'b mut [f32], per_token: usize) -> Vec<&'b mut [f32]> {
        let cut = self.packing.lengths().iter().map(|length| {
            let (own, rest) = std::mem::take(&mut all).split_at_mut(length * per_token);
            all = rest;
            own
        });
        cut.collect()
    }

    fn ranges(&self) -> Vec<Range<usize>> {
        self.packing.ranges().collect()
    }
}

pub(super) fn dropout(
    x: FloatTensor<Flex>,
    packing: &Packing,
    key: u64,
    p: f64,
) -> FloatTensor<Flex> {
    if !is_f32(&[&x]) {
        return default::dropout::<Flex>(x, packing, key, p);
    }
    let (shape, mask) = (x.shape(), Mask::new(key, p));
    let places: Vec<usize> = packing.places().collect();
    let mut values = x.to_contiguous().storage::<f32>().to_vec();
    drop_rows(&mask, &places, &mut values);
    tensor(values, shape)
}

pub(super) fn attention(
    qkv: [FloatTensor<Flex>; 3],
    packing: &Packing,
    settings: AttentionSettings,
) -> (FloatTensor<Flex>, FloatTensor<Flex>) {
    if !is_f32(&qkv.each_ref()) {
        return default::attention::<Flex>(qkv, packing, settings);
    }
    let inputs = Inputs::new(qkv, packing, settings);
    let (n, per_token) = (packing.tokens(), 2 * inputs.heads);
    let (mut output, mut sums) = (vec![0.0; n * inputs.d], vec![0.0; n * per_token]);
    inputs
        .split(&mut output, inputs.d)
        .into_par_iter()
        .zip(inputs.split(&mut sums, per_token))
        .zip(inputs.ranges())
        .enumerate()
        .for_each(|(i, ((output, sums), range))| attend(inputs.sequence(i, range), output, sums));
    let shape = Shape::new([n, inputs.d]);
    (
        tensor(output, shape),
        tensor(sums, Shape::new([n * per_token])),
    )
}

pub(super) fn attention_backward(
    qkv: [FloatTensor<Flex>; 3],
    packing: &Packing,
    saved: FloatTensor<Flex>,
    settings: AttentionSettings,
    grad: FloatTensor<Flex>,
) -> [FloatTensor<Flex>; 3] {
    if !is_f32(&qkv.each_ref()) {
        return default::attention_backward::<Flex>(qkv, packing, saved, settings, grad);
    }
    let inputs = Inputs::new(qkv, packing, settings);
    let grad = grad.to_contiguous();
    let (n, d, per_token) = (packing.tokens(), inputs.d, 2 * inputs.heads);
    let mut found = [(); 3].map(|()| vec![0.0; n * d]);
    let [dq, dk, dv] = found.each_mut().map(|all| inputs.split(all, d));
    dq.into_par_iter()
        .zip(dk)
        .zip(dv)
        .zip(inputs.ranges())
        .enumerate()
        .for_each(|(i, (((dq, dk), dv), range))| {
            let sums = &saved.storage()[range.start * per_token..range.end * per_token];
            let grad = &grad.storage()[range.start * d..range.end * d];
            attend_backward(inputs.sequence(i, range), sums, grad, [dq, dk, dv]);
        });
    found.map(|values| tensor(values, Shape::new([n, d])))
}

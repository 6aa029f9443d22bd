//! Attention without copies of heads or weights of all pairs.

use burn::{
    backend::flex::{Flex, FlexTensor},
    tensor::{
        DType, Shape, TensorMetadata,
        ops::{FloatTensor, IntTensor},
    },
};

use super::{is_f32, tensor};
use crate::backend::{
    AttentionSettings, CausalSettings, defaults,
    kernels::{Attention, Visible, attend, attend_backward},
    mask::Mask,
};

/// Contiguous inputs of one call.
struct Inputs {
    qkv: [FlexTensor; 3],
    heads: [usize; 2],
    /// Keys that count, of those there are.
    keys: usize,
    dropout: Option<Mask>,
}

impl Inputs {
    fn new(
        qkv: [FlexTensor; 3],
        heads: [usize; 2],
        keys: usize,
        dropout: Option<(u64, f64)>,
    ) -> Self {
        Self {
            qkv: qkv.map(|x| x.to_contiguous()),
            heads,
            keys,
            dropout: dropout.map(|(key, p)| Mask::new(key, p)),
        }
    }

    fn attention<'a>(&'a self, visible: Visible<'a>) -> Attention<'a> {
        let [q, k, v] = &self.qkv;
        let [sequences, queries, d] = q.shape().dims::<3>();
        let [_, room, _] = k.shape().dims::<3>();
        let [heads, kv_heads] = self.heads;
        Attention {
            q: q.storage(),
            k: k.storage(),
            v: v.storage(),
            sequences,
            queries,
            keys: self.keys,
            room,
            heads,
            kv_heads,
            size: d / heads,
            visible,
            dropout: self.dropout.as_ref(),
            place: [0, queries, self.keys],
        }
    }

    fn forward(&self, visible: Visible<'_>) -> (FlexTensor, FlexTensor) {
        let [n, t, d] = self.qkv[0].shape().dims::<3>();
        let [heads, _] = self.heads;
        let (mut output, mut sums) = (vec![0.0; n * t * d], vec![0.0; 2 * n * heads * t]);
        attend(self.attention(visible), &mut output, &mut sums);
        (
            tensor(output, Shape::new([n, t, d])),
            tensor(sums, Shape::new([n, heads, t, 2])),
        )
    }

    fn backward(
        &self,
        visible: Visible<'_>,
        saved: &FlexTensor,
        grad: &FlexTensor,
    ) -> [FlexTensor; 3] {
        let grad = grad.to_contiguous();
        let shapes = [0, 1, 1].map(|i: usize| self.qkv[i].shape());
        let mut found = shapes
            .each_ref()
            .map(|shape| vec![0.0; shape.num_elements()]);
        attend_backward(
            self.attention(visible),
            saved.storage(),
            grad.storage(),
            found.each_mut().map(Vec::as_mut_slice),
        );
        let mut shapes = shapes.into_iter();
        found.map(|values| tensor(values, shapes.next().expect("three")))
    }
}

/// The inputs of attention over all keys, and the mask.
fn masked(
    qkv: [FlexTensor; 3],
    mask: Option<FlexTensor>,
    settings: AttentionSettings,
) -> (Inputs, Option<FlexTensor>) {
    let keys = qkv[1].shape()[1];
    let inputs = Inputs::new(qkv, [settings.heads; 2], keys, settings.dropout);
    (inputs, mask.map(|mask| mask.to_contiguous()))
}

fn visible(mask: Option<&FlexTensor>) -> Visible<'_> {
    Visible::Masked(mask.map(|mask| mask.storage()))
}

pub(super) fn head_attention(
    qkv: [FloatTensor<Flex>; 3],
    mask: Option<FloatTensor<Flex>>,
    settings: AttentionSettings,
) -> (FloatTensor<Flex>, FloatTensor<Flex>) {
    if !is_f32(&qkv.each_ref()) {
        return defaults::attention::<Flex>(qkv, mask, settings);
    }
    let (inputs, mask) = masked(qkv, mask, settings);
    inputs.forward(visible(mask.as_ref()))
}

pub(super) fn head_attention_backward(
    qkv: [FloatTensor<Flex>; 3],
    mask: Option<FloatTensor<Flex>>,
    saved: FloatTensor<Flex>,
    settings: AttentionSettings,
    grad: FloatTensor<Flex>,
) -> [FloatTensor<Flex>; 3] {
    if !is_f32(&qkv.each_ref()) {
        return defaults::attention_backward::<Flex>(qkv, saved, settings, grad);
    }
    let (inputs, mask) = masked(qkv, mask, settings);
    inputs.backward(visible(mask.as_ref()), &saved, &grad)
}

/// Whether the kernels read these inputs.
fn is_readable(qkv: &[FlexTensor; 3], first: Option<&FlexTensor>) -> bool {
    is_f32(&qkv.each_ref()) && first.is_none_or(|first| first.dtype() == DType::I32)
}

/// The inputs of causal attention, and the first key that each query sees.
fn causal(
    qkv: [FlexTensor; 3],
    first: Option<FlexTensor>,
    settings: CausalSettings,
) -> (Inputs, Option<FlexTensor>) {
    let keys = settings.offset + qkv[0].shape()[1];
    let heads = [settings.heads, settings.kv_heads];
    let inputs = Inputs::new(qkv, heads, keys, settings.dropout);
    (inputs, first.map(|first| first.to_contiguous()))
}

fn visible_behind(first: Option<&FlexTensor>, settings: CausalSettings) -> Visible<'_> {
    Visible::Causal {
        first: first.map(|first| first.storage()),
        window: settings.window.unwrap_or(usize::MAX),
    }
}

pub(super) fn causal_attention(
    qkv: [FloatTensor<Flex>; 3],
    first: Option<IntTensor<Flex>>,
    settings: CausalSettings,
) -> (FloatTensor<Flex>, FloatTensor<Flex>) {
    if !is_readable(&qkv, first.as_ref()) {
        return defaults::decoder::causal_attention::<Flex>(qkv, first, settings);
    }
    let (inputs, first) = causal(qkv, first, settings);
    inputs.forward(visible_behind(first.as_ref(), settings))
}

pub(super) fn causal_attention_backward(
    qkv: [FloatTensor<Flex>; 3],
    first: Option<IntTensor<Flex>>,
    saved: FloatTensor<Flex>,
    settings: CausalSettings,
    grad: FloatTensor<Flex>,
) -> [FloatTensor<Flex>; 3] {
    if !is_readable(&qkv, first.as_ref()) {
        return defaults::decoder::causal_attention_backward::<Flex>(qkv, saved, settings, grad);
    }
    let (inputs, first) = causal(qkv, first, settings);
    inputs.backward(visible_behind(first.as_ref(), settings), &saved, &grad)
}

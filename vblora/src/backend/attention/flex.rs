//! Attention on flex, without copies of heads or weights of all pairs.

use std::ops::Range;

use burn::{
    backend::flex::{Flex, FlexTensor},
    tensor::{
        DType, Shape, TensorMetadata,
        ops::{FloatTensor, IntTensor},
    },
};

use vblora_kernels::{
    attention::{Attention, Gradients, Sequences, Visible, attend, attend_backward},
    dropout::Mask,
    rotary, zeros,
};

use super::{AttentionOps, AttentionSettings, CausalSettings, default};
use crate::{
    Unpadded,
    backend::flex::{in_place, is_f32, tensor, width},
};

impl AttentionOps for Flex {
    fn head_attention(
        qkv: [FloatTensor<Self>; 3],
        mask: Option<FloatTensor<Self>>,
        settings: AttentionSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !is_f32(&qkv.each_ref()) {
            return default::head_attention::<Self>(qkv, mask, settings);
        }
        let (inputs, mask) = masked(qkv, mask, settings);
        inputs.forward(visible(mask.as_ref()))
    }

    fn head_attention_backward(
        qkv: [FloatTensor<Self>; 3],
        mask: Option<FloatTensor<Self>>,
        saved: FloatTensor<Self>,
        settings: AttentionSettings,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        if !is_f32(&qkv.each_ref()) {
            return default::head_attention_backward::<Self>(qkv, saved, settings, grad);
        }
        let (inputs, mask) = masked(qkv, mask, settings);
        inputs.backward(visible(mask.as_ref()), &saved, &grad)
    }

    fn skips_padding() -> bool {
        true
    }

    fn unpadded_attention(
        qkv: [FloatTensor<Self>; 3],
        unpadded: &Unpadded,
        settings: AttentionSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !is_f32(&qkv.each_ref()) {
            return default::unpadded_attention::<Self>(qkv, unpadded, settings);
        }
        let qkv = qkv.map(|x| x.to_contiguous());
        let [output, sums] = sequences_of(&qkv, unpadded, settings).forward();
        (tensor(output, qkv[0].shape()), vector(sums))
    }

    fn unpadded_attention_backward(
        qkv: [FloatTensor<Self>; 3],
        unpadded: &Unpadded,
        saved: FloatTensor<Self>,
        settings: AttentionSettings,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        if !is_f32(&qkv.each_ref()) {
            return default::unpadded_attention_backward::<Self>(
                qkv, unpadded, saved, settings, grad,
            );
        }
        let qkv = qkv.map(|x| x.to_contiguous());
        let grad = grad.to_contiguous();
        let all = sequences_of(&qkv, unpadded, settings);
        let (found, _) = all.backward(saved.storage(), grad.storage());
        found.map(|values| tensor(values, grad.shape()))
    }

    fn causal_attention(
        qkv: [FloatTensor<Self>; 3],
        first: Option<IntTensor<Self>>,
        settings: CausalSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !is_readable(&qkv, first.as_ref()) {
            return default::causal_attention::<Self>(qkv, first, settings);
        }
        let (inputs, first) = causal(qkv, first, settings);
        inputs.forward(visible_causal(first.as_ref(), settings))
    }

    fn causal_attention_backward(
        qkv: [FloatTensor<Self>; 3],
        first: Option<IntTensor<Self>>,
        saved: FloatTensor<Self>,
        settings: CausalSettings,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        if !is_readable(&qkv, first.as_ref()) {
            return default::causal_attention_backward::<Self>(qkv, saved, settings, grad);
        }
        let (inputs, first) = causal(qkv, first, settings);
        inputs.backward(visible_causal(first.as_ref(), settings), &saved, &grad)
    }

    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (d, half) = (width(&x), width(&cos));
        if !is_f32(&[&x, &cos, &sin]) || d == 0 || half == 0 || cos.shape()[0] != x.shape()[0] {
            return default::rotate::<Self>(x, cos, sin);
        }
        let [cos, sin] = [cos, sin].map(|angles| angles.to_contiguous());
        let (cos, sin) = (cos.storage::<f32>(), sin.storage::<f32>());
        in_place(x, |values| rotary::rotate(values, [d, d], [cos, sin], half))
    }
}

/// The ranges of sequences without padding, and the columns of their batch.
pub(in crate::backend) fn unpadded_ranges(unpadded: &Unpadded) -> (Vec<Range<usize>>, usize) {
    (unpadded.ranges().collect(), unpadded.shape()[1])
}

/// A tensor of one dimension.
pub(in crate::backend) fn vector(values: Vec<f32>) -> FlexTensor {
    let len = values.len();
    tensor(values, Shape::new([len]))
}

/// Sequences without padding, of contiguous tensors `[N, d]`.
fn sequences_of<'a>(
    qkv: &'a [FlexTensor; 3],
    unpadded: &Unpadded,
    settings: AttentionSettings,
) -> Sequences<'a> {
    let (ranges, columns) = unpadded_ranges(unpadded);
    let stride = width(&qkv[0]);
    let size = stride / settings.heads;
    Sequences {
        qkv: qkv.each_ref().map(|x| x.storage()),
        stride,
        ranges,
        columns,
        heads: settings.heads,
        size,
        scale: 1.0 / (size as f32).sqrt(),
        mask: None,
        reach: None,
        relative: None,
        dropout: settings.dropout.map(|(key, p)| Mask::new(key, p)),
    }
}

/// Contiguous inputs of one call.
struct Inputs {
    qkv: [FlexTensor; 3],
    heads: [usize; 2],
    /// The number of keys that attention reads. There may be room for more after them.
    keys: usize,
    cap: Option<f32>,
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
            cap: None,
            dropout: dropout.map(|(key, p)| Mask::new(key, p)),
        }
    }

    fn attention<'a>(&'a self, visible: Visible<'a>) -> Attention<'a> {
        let [q, k, v] = &self.qkv;
        let [sequences, queries, d] = q.shape().dims::<3>();
        let [_, room, _] = k.shape().dims::<3>();
        let [heads, kv_heads] = self.heads;
        let size = d / heads;
        Attention {
            q: q.storage(),
            k: k.storage(),
            v: v.storage(),
            strides: [d, kv_heads * size],
            sequences,
            queries,
            keys: self.keys,
            room,
            heads,
            kv_heads,
            size,
            scale: 1.0 / (size as f32).sqrt(),
            visible,
            relative: None,
            cap: self.cap,
            dropout: self.dropout.as_ref(),
            place: [0, queries, self.keys],
        }
    }

    fn forward(&self, visible: Visible<'_>) -> (FlexTensor, FlexTensor) {
        let [n, t, d] = self.qkv[0].shape().dims::<3>();
        let [heads, _] = self.heads;
        let (mut output, mut sums) = (zeros(n * t * d), vec![0.0; 2 * n * heads * t]);
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
        let mut found = shapes.each_ref().map(|shape| zeros(shape.num_elements()));
        attend_backward(
            self.attention(visible),
            saved.storage(),
            grad.storage(),
            &mut [],
            Gradients::Apart(found.each_mut().map(Vec::as_mut_slice)),
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

/// True if the kernels read these inputs.
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
    let inputs = Inputs {
        cap: settings.cap.map(|cap| cap as f32),
        ..Inputs::new(qkv, heads, keys, settings.dropout)
    };
    (inputs, first.map(|first| first.to_contiguous()))
}

fn visible_causal(first: Option<&FlexTensor>, settings: CausalSettings) -> Visible<'_> {
    Visible::Causal {
        first: first.map(|first| first.storage()),
        window: settings.window.unwrap_or(usize::MAX),
    }
}

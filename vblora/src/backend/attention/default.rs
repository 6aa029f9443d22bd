//! Attention and rotation in plain tensor operations.

use burn::tensor::{
    Bool, Int, Tensor, TensorData, TensorMetadata,
    backend::Backend,
    ops::{FloatTensor, IntTensor},
};

use super::{AttentionOps, AttentionSettings, CausalSettings, HeadForm, HeadProduct};
use crate::{
    Unpadded,
    backend::{DropoutOps, float, matmul, primitive},
    unpadded::MASKED,
};

pub(in crate::backend) fn head_product<B: AttentionOps>(
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    mask: Option<FloatTensor<B>>,
    product: HeadProduct,
) -> FloatTensor<B> {
    let HeadProduct { form, heads, scale } = product;
    // The scale goes on b, which has fewer values than the weights.
    let scaled = |x| match scale == 1.0 {
        true => float::<B, 3>(x),
        false => float::<B, 3>(x).mul_scalar(scale),
    };
    let b = split(scaled(b), heads);
    let out = match form {
        HeadForm::TimesTransposed => {
            let scores = matmul(split(float::<B, 3>(a), heads), b.swap_dims(2, 3));
            let [n, _, _, u] = scores.dims();
            return primitive(match mask {
                Some(mask) => scores + float::<B, 2>(mask).reshape([n, 1, 1, u]),
                None => scores,
            });
        }
        HeadForm::Times => matmul(float::<B, 4>(a), b),
        HeadForm::TransposedTimes => matmul(float::<B, 4>(a).swap_dims(2, 3), b),
    };
    primitive(join(out))
}

/// `[n, t, d] -> [n, heads, t, d / heads]`
pub(in crate::backend) fn split<B: Backend>(x: Tensor<B, 3>, heads: usize) -> Tensor<B, 4> {
    let [n, t, d] = x.dims();
    if heads == 1 {
        // A swap would leave a dimension of one with a stride of its own. CubeCL's tuned products take that stride for the one between rows
        // of the batch.
        return x.reshape([n, 1, t, d]);
    }
    x.reshape([n, t, heads, d / heads]).swap_dims(1, 2)
}

/// `[n, heads, t, size] -> [n, t, heads size]`
pub(in crate::backend) fn join<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 3> {
    let [n, heads, t, size] = x.dims();
    x.swap_dims(1, 2).reshape([n, t, heads * size])
}

pub(in crate::backend) fn drop_weights<B: DropoutOps>(
    x: Tensor<B, 4>,
    dropout: Option<(u64, f64)>,
) -> Tensor<B, 4> {
    match dropout {
        Some((key, p)) => float(B::dropout(primitive(x), key, p)),
        None => x,
    }
}

/// The head products of an attention, without their tensors.
fn products(settings: AttentionSettings, scale: f64) -> impl Fn(HeadForm) -> HeadProduct {
    move |form| HeadProduct {
        form,
        heads: settings.heads,
        scale,
    }
}

/// The factor on the scores, `1 / sqrt(d / heads)`.
pub(in crate::backend) fn score_scale<B: Backend>(
    q: &FloatTensor<B>,
    settings: AttentionSettings,
) -> f64 {
    let [_, _, d] = q.shape().dims();
    1.0 / ((d / settings.heads) as f64).sqrt()
}

pub(in crate::backend) fn head_attention<B: AttentionOps>(
    [q, k, v]: [FloatTensor<B>; 3],
    mask: Option<FloatTensor<B>>,
    settings: AttentionSettings,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let scaled = products(settings, score_scale::<B>(&q, settings));
    let scores = B::head_product(q, k, mask, scaled(HeadForm::TimesTransposed));
    let weights = B::row_softmax(scores);
    let dropped = primitive(drop_weights(
        float::<B, 4>(weights.clone()),
        settings.dropout,
    ));
    let plain = products(settings, 1.0);
    let output = B::head_product(dropped, v, None, plain(HeadForm::Times));
    (output, weights)
}

pub(in crate::backend) fn head_attention_backward<B: AttentionOps>(
    [q, k, v]: [FloatTensor<B>; 3],
    weights: FloatTensor<B>,
    settings: AttentionSettings,
    grad: FloatTensor<B>,
) -> [FloatTensor<B>; 3] {
    let scaled = products(settings, score_scale::<B>(&q, settings));
    let plain = products(settings, 1.0);
    let product = |a, b, product| B::head_product(a, b, None, product);
    let dropped = |weights| primitive(drop_weights(float::<B, 4>(weights), settings.dropout));
    let dv = product(
        dropped(weights.clone()),
        grad.clone(),
        plain(HeadForm::TransposedTimes),
    );
    let d_weights = dropped(product(grad, v, plain(HeadForm::TimesTransposed)));
    let d_scores = B::row_softmax_backward(weights, d_weights);
    let dq = product(d_scores.clone(), k, scaled(HeadForm::Times));
    let dk = product(d_scores, q, scaled(HeadForm::TransposedTimes));
    [dq, dk, dv]
}

/// Pads the batch, attends and removes the padding again.
pub(in crate::backend) fn unpadded_attention<B: AttentionOps>(
    qkv: [FloatTensor<B>; 3],
    unpadded: &Unpadded,
    settings: AttentionSettings,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let device = B::float_device(&qkv[0]);
    let qkv = qkv.map(|x| pad::<B>(x, unpadded));
    let mask = primitive(padding_mask::<B>(unpadded, &device));
    let (output, saved) = B::head_attention(qkv, Some(mask), settings);
    (unpad::<B>(output, unpadded), saved)
}

pub(in crate::backend) fn unpadded_attention_backward<B: AttentionOps>(
    qkv: [FloatTensor<B>; 3],
    unpadded: &Unpadded,
    saved: FloatTensor<B>,
    settings: AttentionSettings,
    grad: FloatTensor<B>,
) -> [FloatTensor<B>; 3] {
    let device = B::float_device(&grad);
    let qkv = qkv.map(|x| pad::<B>(x, unpadded));
    let grad = pad::<B>(grad, unpadded);
    let mask = primitive(padding_mask::<B>(unpadded, &device));
    let found = B::head_attention_backward(qkv, Some(mask), saved, settings, grad);
    found.map(|grad| unpad::<B>(grad, unpadded))
}

fn pad<B: Backend>(x: FloatTensor<B>, unpadded: &Unpadded) -> FloatTensor<B> {
    primitive(unpadded.padded(float::<B, 2>(x)))
}

fn unpad<B: Backend>(x: FloatTensor<B>, unpadded: &Unpadded) -> FloatTensor<B> {
    primitive(unpadded.unpadded(float::<B, 3>(x)))
}

/// The mask that keeps the padding of an unpadded batch out of every softmax, `[n, columns]`.
pub(in crate::backend) fn padding_mask<B: Backend>(
    unpadded: &Unpadded,
    device: &B::Device,
) -> Tensor<B, 2> {
    let [n, t] = unpadded.shape();
    let lengths = unpadded.lengths().iter();
    let values = lengths
        .flat_map(|&length| (0..t).map(move |column| if column < length { 0.0 } else { MASKED }));
    let values: Vec<f32> = values.collect();
    Tensor::from_data(TensorData::new(values, [n, t]), device)
}

/// The score of a hidden key. It is far below every other, so that softmax gives such a key no weight.
const HIDDEN: f32 = -1e30;

/// The keys that each query does not see, `[n, 1, t, T]`.
fn hidden_keys<B: Backend>(
    first: Option<IntTensor<B>>,
    [n, t, all]: [usize; 3],
    settings: CausalSettings,
    device: &B::Device,
) -> Tensor<B, 4, Bool> {
    let range = |start: usize, len: usize| {
        Tensor::<B, 1, Int>::arange(start as i64..(start + len) as i64, device)
    };
    let key = range(0, all).reshape([1, 1, all]);
    let own = range(settings.offset, t).reshape([1, t, 1]);
    // The distance from a key to its query; negative if the key comes later.
    let distance = own.expand([1, t, all]) - key.clone().expand([1, t, all]);
    let mut hidden = distance.clone().lower_elem(0);
    if let Some(window) = settings.window {
        hidden = hidden.bool_or(distance.greater_equal_elem(window as i64));
    }
    if let Some(first) = first {
        let first = Tensor::<B, 2, Int>::from_primitive(first).reshape([n, t, 1]);
        let early = key.expand([n, t, all]).lower(first.expand([n, t, all]));
        hidden = hidden.expand([n, t, all]).bool_or(early);
    }
    let rows = hidden.dims()[0];
    hidden.reshape([rows, 1, t, all])
}

/// The heads of queries `[n, t, heads size] -> [n, kv_heads, group t, size]`. The heads of a group share a key head and follow one another.
fn group<B: Backend>(q: Tensor<B, 3>, settings: CausalSettings) -> Tensor<B, 4> {
    let [n, t, d] = q.dims();
    let CausalSettings {
        heads, kv_heads, ..
    } = settings;
    split(q, heads).reshape([n, kv_heads, heads / kv_heads * t, d / heads])
}

/// `[n, kv_heads, group t, size] -> [n, t, heads size]`
fn ungroup<B: Backend>(x: Tensor<B, 4>, t: usize, settings: CausalSettings) -> Tensor<B, 3> {
    let [n, _, _, size] = x.dims();
    join(x.reshape([n, settings.heads, t, size]))
}

/// The keys or values that queries may see, without the unused room after them.
pub(super) fn seen<B: Backend>(x: FloatTensor<B>, len: usize) -> Tensor<B, 3> {
    let x = float::<B, 3>(x);
    if x.dims()[1] == len {
        x
    } else {
        x.narrow(1, 0, len)
    }
}

pub(in crate::backend) fn causal_attention<B: AttentionOps>(
    [q, k, v]: [FloatTensor<B>; 3],
    first: Option<IntTensor<B>>,
    settings: CausalSettings,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let q = float::<B, 3>(q);
    let [n, t, d] = q.dims();
    let CausalSettings {
        heads,
        kv_heads,
        offset,
        ..
    } = settings;
    let all = offset + t;
    let [k, v] = [k, v].map(|x| split(seen::<B>(x, all), kv_heads));
    let scale = 1.0 / ((d / heads) as f64).sqrt();
    let scores = matmul(group(q.mul_scalar(scale), settings), k.swap_dims(2, 3));
    let scores = scores.reshape([n, heads, t, all]);
    let weights = B::causal_weights(primitive(scores), first, settings);
    let dropped = drop_weights(float::<B, 4>(weights.clone()), settings.dropout);
    let output = matmul(dropped.reshape([n, kv_heads, heads / kv_heads * t, all]), v);
    (primitive(ungroup(output, t, settings)), weights)
}

pub(in crate::backend) fn causal_weights<B: AttentionOps>(
    scores: FloatTensor<B>,
    first: Option<IntTensor<B>>,
    settings: CausalSettings,
) -> FloatTensor<B> {
    let scores = float::<B, 4>(scores);
    let ([n, heads, t, all], device) = (scores.dims(), scores.device());
    let scores = match settings.cap {
        Some(cap) => scores.div_scalar(cap).tanh().mul_scalar(cap),
        None => scores,
    };
    let hidden = hidden_keys::<B>(first, [n, t, all], settings, &device);
    let scores = scores.mask_fill(hidden.expand([n, heads, t, all]), HIDDEN);
    B::row_softmax(primitive(scores))
}

pub(in crate::backend) fn causal_attention_backward<B: AttentionOps>(
    [q, k, v]: [FloatTensor<B>; 3],
    weights: FloatTensor<B>,
    settings: CausalSettings,
    grad: FloatTensor<B>,
) -> [FloatTensor<B>; 3] {
    let CausalSettings {
        heads,
        kv_heads,
        dropout,
        ..
    } = settings;
    let q = float::<B, 3>(q);
    let [n, t, d] = q.dims();
    let grouped = [n, kv_heads, heads / kv_heads * t, t];
    let scale = 1.0 / ((d / heads) as f64).sqrt();
    let q = group(q, settings);
    let grad = group(float::<B, 3>(grad), settings);
    let [k, v] = [k, v].map(|x| split(float::<B, 3>(x), kv_heads));
    let dropped = drop_weights(float::<B, 4>(weights.clone()), dropout).reshape(grouped);
    let dv = matmul(dropped.swap_dims(2, 3), grad.clone());
    let d_weights = matmul(grad, v.swap_dims(2, 3)).reshape([n, heads, t, t]);
    let d_weights = drop_weights(d_weights, dropout);
    let d_scores: Tensor<B, 4> = float(B::row_softmax_backward(weights, primitive(d_weights)));
    let d_scores = d_scores.mul_scalar(scale).reshape(grouped);
    let d_scores = match settings.cap {
        Some(cap) => {
            let scores = matmul(q.clone().mul_scalar(scale / cap), k.clone().swap_dims(2, 3));
            d_scores * (-scores.tanh().square()).add_scalar(1.0)
        }
        None => d_scores,
    };
    let dq = matmul(d_scores.clone(), k);
    let dk = matmul(d_scores.swap_dims(2, 3), q);
    [
        primitive(ungroup(dq, t, settings)),
        primitive(join(dk)),
        primitive(join(dv)),
    ]
}

pub(in crate::backend) fn rotate<B: Backend>(
    x: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
) -> FloatTensor<B> {
    let (x, cos, sin) = (float::<B, 3>(x), float::<B, 3>(cos), float::<B, 3>(sin));
    let ([n, t, d], [_, _, half]) = (x.dims(), cos.dims());
    let x = x.reshape([n, t, d / (2 * half), 2 * half]);
    let [first, second] = [0, half].map(|start| x.clone().narrow(3, start, half));
    let [cos, sin] = [cos, sin].map(|angles| angles.unsqueeze_dim::<4>(2));
    let turned = Tensor::cat(
        vec![
            first.clone() * cos.clone() - second.clone() * sin.clone(),
            second * cos + first * sin,
        ],
        3,
    );
    primitive(turned.reshape([n, t, d]))
}

pub(in crate::backend) fn rotate_backward<B: AttentionOps>(
    grad: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
) -> FloatTensor<B> {
    B::rotate(grad, cos, B::float_neg(sin))
}

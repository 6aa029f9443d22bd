//! Attention with rotary or relative positions in plain tensor operations, of padded batches.

use burn::tensor::{Int, Tensor, TensorMetadata, backend::Backend, ops::FloatTensor};

use super::{PositionOps, RelativeTables, RotarySettings, Texts};
use crate::{
    backend::{
        AttentionOps, AttentionSettings, HeadForm, HeadProduct,
        attention::default::{
            drop_weights, head_attention_backward, join, padding_mask, score_scale, split,
        },
        float, matmul, primitive,
    },
    unpadded::MASKED,
};

impl<B: AttentionOps> Texts<B> {
    /// A tensor `[.., d]` that lies as the texts do, as `[n, t, d]`.
    fn padded(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        match self {
            Self::Padded(_) => x,
            Self::Unpadded(unpadded) => primitive(unpadded.padded(float::<B, 2>(x))),
        }
    }

    /// The reverse of [`padded`](Self::padded).
    fn as_they_lie(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        match self {
            Self::Padded(_) => x,
            Self::Unpadded(unpadded) => primitive(unpadded.unpadded(float::<B, 3>(x))),
        }
    }

    /// `[n, t]`, added to the scores of each key.
    fn mask(&self, device: &B::Device) -> Option<FloatTensor<B>> {
        match self {
            Self::Padded(mask) => mask.clone(),
            Self::Unpadded(unpadded) => Some(primitive(padding_mask::<B>(unpadded, device))),
        }
    }
}

/// The three tensors that lie side by side in the last of three dimensions.
fn parts<B: Backend>(x: FloatTensor<B>) -> [FloatTensor<B>; 3] {
    let x = float::<B, 3>(x);
    let width = x.dims()[2] / 3;
    [0, 1, 2].map(|part| primitive(x.clone().narrow(2, part * width, width)))
}

/// What is added to the scores of keys further away than `reach`, `[1, 1, t, t]`. `None` if there are none.
fn window<B: Backend>(reach: Option<usize>, t: usize, device: &B::Device) -> Option<Tensor<B, 4>> {
    let reach = reach.filter(|reach| t > reach + 1)?;
    let places = Tensor::<B, 1, Int>::arange(0..t as i64, device);
    let [query, key] = [[t, 1], [1, t]].map(|dims| places.clone().reshape(dims).expand([t, t]));
    let far = (query - key).abs().greater_elem(reach as i64);
    let hidden = Tensor::<B, 2>::zeros([t, t], device).mask_fill(far, MASKED);
    Some(hidden.reshape([1, 1, t, t]))
}

pub(in crate::backend) fn rotary_attention<B: PositionOps>(
    qkv: FloatTensor<B>,
    [cos, sin]: [FloatTensor<B>; 2],
    texts: &Texts<B>,
    settings: RotarySettings,
) -> (FloatTensor<B>, Vec<FloatTensor<B>>) {
    let device = B::float_device(&qkv);
    let [q, k, v] = parts::<B>(texts.padded(qkv));
    let [cos, sin] = [cos, sin].map(|x| texts.padded(x));
    let [q, k] = [q, k].map(|x| B::rotate(x, cos.clone(), sin.clone()));
    let (mask, attention) = (texts.mask(&device), settings.attention);
    let [_, t, _] = q.shape().dims::<3>();
    let Some(window) = window::<B>(settings.reach, t, &device) else {
        let qkv = [q, k, v];
        let (output, weights) = B::head_attention(qkv.clone(), mask, attention);
        return (texts.as_they_lie(output), saved(qkv, weights));
    };
    let product = HeadProduct {
        form: HeadForm::TimesTransposed,
        heads: attention.heads,
        scale: score_scale::<B>(&q, attention),
    };
    let scores = float::<B, 4>(B::head_product(q.clone(), k.clone(), mask, product)) + window;
    let weights = B::row_softmax(primitive(scores));
    let output = weighted::<B>(weights.clone(), v.clone(), attention);
    (texts.as_they_lie(output), saved([q, k, v], weights))
}

fn saved<T>([q, k, v]: [T; 3], weights: T) -> Vec<T> {
    vec![q, k, v, weights]
}

fn weighted<B: AttentionOps>(
    weights: FloatTensor<B>,
    v: FloatTensor<B>,
    settings: AttentionSettings,
) -> FloatTensor<B> {
    let dropped = primitive(drop_weights(float::<B, 4>(weights), settings.dropout));
    let product = HeadProduct {
        form: HeadForm::Times,
        heads: settings.heads,
        scale: 1.0,
    };
    B::head_product(dropped, v, None, product)
}

pub(in crate::backend) fn rotary_attention_backward<B: PositionOps>(
    saved: Vec<FloatTensor<B>>,
    [cos, sin]: [FloatTensor<B>; 2],
    texts: &Texts<B>,
    settings: RotarySettings,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let [q, k, v, weights]: [_; 4] = saved.try_into().expect("what the forward pass saved");
    let device = B::float_device(&grad);
    let (qkv, grad, attention) = ([q, k, v], texts.padded(grad), settings.attention);
    let [_, t, _] = grad.shape().dims::<3>();
    let [dq, dk, dv] = match settings.reach.filter(|reach| t > reach + 1) {
        // The weights are those of the window already.
        Some(_) => head_attention_backward::<B>(qkv, weights, attention, grad),
        None => {
            let mask = texts.mask(&device);
            B::head_attention_backward(qkv, mask, weights, attention, grad)
        }
    };
    let [cos, sin] = [cos, sin].map(|x| texts.padded(x));
    let [dq, dk] = [dq, dk].map(|grad| B::rotate_backward(grad, cos.clone(), sin.clone()));
    let all = Tensor::cat([dq, dk, dv].map(float::<B, 3>).into(), 2);
    texts.as_they_lie(primitive(all))
}

/// The products of tokens with the rows of relative positions, which all texts share or each has its own.
///
/// # Shapes
/// - x: `[n, heads, t, size]`; rows: `[1 or n, heads, w, size]`; output: `[n, heads, t, w]`
fn scores<B: Backend>(x: Tensor<B, 4>, rows: Tensor<B, 4>) -> Tensor<B, 4> {
    let ([n, heads, t, size], [of, _, w, _]) = (x.dims(), rows.dims());
    let rows = rows.swap_dims(2, 3);
    if of == n {
        return matmul(x, rows);
    }
    // One product for each head, of all texts together.
    let x = x.swap_dims(0, 1).reshape([heads, n * t, size]);
    let all = matmul(x, rows.reshape([heads, size, w]));
    all.reshape([heads, n, t, w]).swap_dims(0, 1)
}

/// The gradients of [`scores`] to x and to the rows.
fn scores_backward<B: Backend>(
    x: Tensor<B, 4>,
    rows: Tensor<B, 4>,
    grad: Tensor<B, 4>,
) -> [Tensor<B, 4>; 2] {
    let ([n, heads, t, size], [of, _, w, _]) = (x.dims(), rows.dims());
    if of == n {
        return [matmul(grad.clone(), rows), matmul(grad.swap_dims(2, 3), x)];
    }
    let [x, grad] = [(x, size), (grad, w)].map(|(x, width)| {
        let of_heads = x.swap_dims(0, 1);
        of_heads.reshape([heads, n * t, width])
    });
    let dx = matmul(grad.clone(), rows.reshape([heads, w, size]));
    let d_rows = matmul(grad.swap_dims(1, 2), x);
    [
        dx.reshape([heads, n, t, size]).swap_dims(0, 1),
        d_rows.reshape([1, heads, w, size]),
    ]
}

/// Picks for token i and token j the column `j - i + t - 1`, by moving each row one place further than the row before.
///
/// # Shapes
/// - x: `[n, heads, t, 2 t - 1]`; output: `[n, heads, t, t]`
fn shifted<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 4> {
    let [n, heads, t, w] = x.dims();
    if t == 1 {
        return x;
    }
    let kept = t - 1..t - 1 + t * (w - 1);
    let rows = x.reshape([n * heads, t * w]).slice([0..n * heads, kept]);
    rows.reshape([n, heads, t, w - 1]).narrow(3, 0, t)
}

/// The gradient of [`shifted`].
///
/// # Shapes
/// - grad: `[n, heads, t, t]`; output: `[n, heads, t, 2 t - 1]`
fn shifted_backward<B: Backend>(grad: Tensor<B, 4>) -> Tensor<B, 4> {
    let ([n, heads, t, _], device) = (grad.dims(), grad.device());
    if t == 1 {
        return grad;
    }
    let w = 2 * t - 1;
    let zeros = |columns| Tensor::<B, 2>::zeros([n * heads, columns], &device);
    let wide = match t {
        2 => grad,
        _ => Tensor::cat(
            vec![grad, zeros(t * (t - 2)).reshape([n, heads, t, t - 2])],
            3,
        ),
    };
    let rows = wide.reshape([n * heads, t * (w - 1)]);
    let all = Tensor::cat(vec![zeros(t - 1), rows, zeros(1)], 1);
    all.reshape([n, heads, t, w])
}

/// The factor on the scores of disentangled attention, `1 / sqrt(3 d / heads)`.
pub(super) fn disentangled_scale(d: usize, heads: usize) -> f64 {
    1.0 / (3.0 * (d / heads) as f64).sqrt()
}

/// The last dimension.
pub(super) fn width<B: Backend>(x: &FloatTensor<B>) -> usize {
    let shape = x.shape();
    shape[shape.num_dims() - 1]
}

pub(in crate::backend) fn disentangled_attention<B: PositionOps>(
    qkv: [FloatTensor<B>; 3],
    relative: RelativeTables<FloatTensor<B>>,
    texts: &Texts<B>,
    settings: AttentionSettings,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let device = B::float_device(&qkv[0]);
    let heads = settings.heads;
    let scale = disentangled_scale(width::<B>(&qkv[0]), heads);
    let [q, k, v] = qkv.map(|x| texts.padded(x));
    let [plain, of_query, of_key] =
        [k.clone(), relative.of_query, relative.of_key].map(|x| split(float::<B, 3>(x), heads));
    let [q, k] = [q, k].map(|x| split(float::<B, 3>(x).mul_scalar(scale), heads));
    let content_to_position = shifted(scores(q.clone(), of_key));
    let position_to_content = shifted(scores(k, of_query));
    // The content's factor is scaled once.
    let content = matmul(q, plain.swap_dims(2, 3));
    let mut all = content + content_to_position + position_to_content.swap_dims(2, 3);
    if let Some(mask) = texts.mask(&device) {
        let [n, _, _, t] = all.dims();
        all = all + float::<B, 2>(mask).reshape([n, 1, 1, t]);
    }
    let weights = B::row_softmax(primitive(all));
    let output = weighted::<B>(weights.clone(), v, settings);
    (texts.as_they_lie(output), weights)
}

pub(in crate::backend) fn disentangled_attention_backward<B: PositionOps>(
    qkv: [FloatTensor<B>; 3],
    relative: RelativeTables<FloatTensor<B>>,
    weights: FloatTensor<B>,
    texts: &Texts<B>,
    settings: AttentionSettings,
    grad: FloatTensor<B>,
) -> ([FloatTensor<B>; 3], RelativeTables<FloatTensor<B>>) {
    let heads = settings.heads;
    let padded = |x: FloatTensor<B>| split(float::<B, 3>(texts.padded(x)), heads);
    let scale = disentangled_scale(width::<B>(&grad), heads);
    let ([q, k, v], grad) = (qkv.map(padded), padded(grad));
    let [of_query, of_key] =
        [relative.of_query, relative.of_key].map(|x| split(float::<B, 3>(x), heads));
    let dropped = drop_weights(float::<B, 4>(weights.clone()), settings.dropout);
    let dv = matmul(dropped.swap_dims(2, 3), grad.clone());
    let d_weights = drop_weights(matmul(grad, v.swap_dims(2, 3)), settings.dropout);
    let d_scores: Tensor<B, 4> = float(B::row_softmax_backward(weights, primitive(d_weights)));
    let d_scores = d_scores.mul_scalar(scale);
    let turned = d_scores.clone().swap_dims(2, 3);
    let to_position = shifted_backward(d_scores.clone());
    let [dq, d_of_key] = scores_backward(q.clone(), of_key, to_position);
    let to_content = shifted_backward(turned.clone());
    let [dk, d_of_query] = scores_backward(k.clone(), of_query, to_content);
    let dq = dq + matmul(d_scores, k);
    let dk = dk + matmul(turned, q);
    let found = [dq, dk, dv].map(|x| texts.as_they_lie(primitive(join(x))));
    let relative = RelativeTables {
        of_query: primitive(join(d_of_query)),
        of_key: primitive(join(d_of_key)),
    };
    (found, relative)
}

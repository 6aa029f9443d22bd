//! Attention on GPUs: the products of heads on tensor cores if the device has them, masks with softmax, rotation.
#![allow(missing_docs, reason = "the macros make launch functions of these")]

mod causal;

use burn::tensor::{
    DType,
    ops::{FloatTensor, IntTensor},
};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, tensor::CubeTensor,
};
use cubecl::prelude::*;

use super::{AttentionOps, CausalSettings, HeadProduct, default};
use crate::backend::{
    activation::gpu::kernels::capped,
    gpu::{
        array,
        elements::Elements,
        product::tensor_core_head_product,
        rows::{Rows, like, row},
    },
};

impl<R, F, I, T> AttentionOps for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    fn head_product(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        mask: Option<FloatTensor<Self>>,
        product: HeadProduct,
    ) -> FloatTensor<Self> {
        tensor_core_head_product(&a, &b, mask.as_ref(), product)
            .unwrap_or_else(|| default::head_product::<Self>(a, b, mask, product))
    }

    fn causal_attention(
        [q, k, v]: [FloatTensor<Self>; 3],
        first: Option<IntTensor<Self>>,
        settings: CausalSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        causal::forward::<Self, R>([&q, &k, &v], first.as_ref(), settings)
            .unwrap_or_else(|| default::causal_attention::<Self>([q, k, v], first, settings))
    }

    fn causal_attention_backward(
        [q, k, v]: [FloatTensor<Self>; 3],
        _first: Option<IntTensor<Self>>,
        saved: FloatTensor<Self>,
        settings: CausalSettings,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        causal::backward::<Self, R>([&q, &k, &v], &saved, settings, &grad).unwrap_or_else(|| {
            default::causal_attention_backward::<Self>([q, k, v], saved, settings, grad)
        })
    }

    fn causal_weights(
        scores: FloatTensor<Self>,
        first: Option<IntTensor<Self>>,
        settings: CausalSettings,
    ) -> FloatTensor<Self> {
        causal_softmax(&scores, first.as_ref(), settings)
            .unwrap_or_else(|| default::causal_weights::<Self>(scores, first, settings))
    }

    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        turned(&x, [&cos, &sin], 1.0).unwrap_or_else(|| default::rotate::<Self>(x, cos, sin))
    }

    fn rotate_backward(
        grad: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        turned(&grad, [&cos, &sin], -1.0)
            .unwrap_or_else(|| default::rotate_backward::<Self>(grad, cos, sin))
    }
}

/// The weights of a causal attention. Returns `None` if [`Rows::of`] does, or if `first` is not i32.
fn causal_softmax<R: CubeRuntime>(
    scores: &CubeTensor<R>,
    first: Option<&CubeTensor<R>>,
    settings: CausalSettings,
) -> Option<CubeTensor<R>> {
    let rows = Rows::of(&[scores])?;
    if first.is_some_and(|first| first.dtype != DType::I32) {
        return None;
    }
    let [_, heads, t, all] = scores.meta.shape().dims();
    let out = like(scores);
    causal_row_softmax::launch(
        &out.client,
        rows.cubes(),
        rows.dim(),
        array(scores),
        // The launch needs an array in the place of `first`. Without it the kernel does not read that.
        array(first.unwrap_or(scores)),
        array(&out),
        rows.count,
        heads,
        t,
        rows.pieces(),
        settings.offset,
        settings.window.unwrap_or(all).min(all),
        settings.cap.unwrap_or(1.0) as f32,
        first.is_some(),
        settings.cap.is_some(),
        rows.ahead(),
        rows.piece,
    );
    Some(out)
}

/// Row `(item heads + head) t + i` has the scores of query i. The query sees the last `window` of the keys up to `offset + i`, from `first`
/// on.
#[cube(launch)]
fn causal_row_softmax<V: Size>(
    scores: &Array<Vector<f32, V>>,
    first: &Array<i32>,
    out: &mut Array<Vector<f32, V>>,
    rows: usize,
    heads: usize,
    t: usize,
    pieces: usize,
    offset: usize,
    window: usize,
    cap: f32,
    #[comptime] has_first: bool,
    #[comptime] has_cap: bool,
    #[comptime] ahead: usize,
    #[define(V)] _piece: usize,
) {
    let row = row();
    if row >= rows {
        terminate!();
    }
    let (start, query) = (row * pieces, row % t);
    let end = offset + query + 1;
    let mut begin = end - window.min(end);
    if has_first {
        let item = row / (heads * t);
        begin = begin.max(first[item * t + query] as usize);
    }
    let plane = CUBE_DIM_X as usize;
    // Only pieces with a key that is seen are read.
    let (from, to) = (begin / V::value(), (end - 1) / V::value() + 1);
    // A query sees its own key.
    let own = scores[start + to - 1];
    let mut max = capped(own[0], cap, has_cap);
    #[unroll]
    for i in 1..V::value() {
        if (end - 1) % V::value() == i {
            max = capped(own[i], cap, has_cap);
        }
    }
    let mut j = from + UNIT_POS_X as usize;
    while j < to {
        #[unroll]
        for i in 0..ahead {
            let at = (j + i * plane).min(to - 1);
            let piece = scores[start + at];
            #[unroll]
            for v in 0..V::value() {
                let key = at * V::value() + v;
                let score = capped(piece[v], cap, has_cap);
                max = max.max(select(key >= begin && key < end, score, max));
            }
        }
        j += ahead * plane;
    }
    let max = plane_max(max);
    let mut sum = 0.0f32;
    j = from + UNIT_POS_X as usize;
    while j < to {
        #[unroll]
        for i in 0..ahead {
            let at = j + i * plane;
            let piece = scores[start + at.min(to - 1)];
            #[unroll]
            for v in 0..V::value() {
                let key = at * V::value() + v;
                let weight = (capped(piece[v], cap, has_cap) - max).exp();
                sum += select(key >= begin && key < end, weight, 0.0f32);
            }
        }
        j += ahead * plane;
    }
    let inverse = 1.0f32 / plane_sum(sum);
    j = UNIT_POS_X as usize;
    while j < pieces {
        #[unroll]
        for i in 0..ahead {
            let at = j + i * plane;
            if at < pieces {
                let piece = scores[start + at.max(from).min(to - 1)];
                let mut weights = Vector::<f32, V>::empty();
                #[unroll]
                for v in 0..V::value() {
                    let key = at * V::value() + v;
                    let weight = (capped(piece[v], cap, has_cap) - max).exp() * inverse;
                    weights[v] = select(key >= begin && key < end, weight, 0.0f32);
                }
                out[start + at] = weights;
            }
        }
        j += ahead * plane;
    }
}

/// The rotation by the angles times `sign`. Returns `None` if [`Elements::of`] does, or if texts share their angles.
fn turned<R: CubeRuntime>(
    x: &CubeTensor<R>,
    [cos, sin]: [&CubeTensor<R>; 2],
    sign: f32,
) -> Option<CubeTensor<R>> {
    let elements = Elements::of(&[x, cos, sin])?;
    let ([n, t, d], angles) = (x.meta.shape().dims(), cos.meta.shape().dims());
    let [_, _, half] = angles;
    if angles != [n, t, half] {
        return None;
    }
    let out = like(x);
    turn::launch(
        &out.client,
        elements.cubes,
        elements.dim,
        array(x),
        array(cos),
        array(sin),
        array(&out),
        d,
        half,
        sign,
    );
    Some(out)
}

#[cube(launch)]
fn turn(
    x: &Array<f32>,
    cos: &Array<f32>,
    sin: &Array<f32>,
    out: &mut Array<f32>,
    d: usize,
    half: usize,
    sign: f32,
) {
    let at = ABSOLUTE_POS;
    if at >= out.len() {
        terminate!();
    }
    let place = at % (2 * half);
    let angle = at / d * half + place % half;
    let mut along = sign * sin[angle];
    let mut other = at;
    if place < half {
        other += half;
        along = -along;
    } else {
        other -= half;
    }
    out[at] = x[at] * cos[angle] + x[other] * along;
}

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
        all,
        settings.offset,
        settings.window.unwrap_or(all).min(all),
        settings.cap.unwrap_or(1.0) as f32,
        first.is_some(),
        settings.cap.is_some(),
    );
    Some(out)
}

/// Row `(item heads + head) t + i` has the scores of query i. The query sees the last `window` of the keys up to `offset + i`, from `first`
/// on.
#[cube(launch)]
fn causal_row_softmax(
    scores: &Array<f32>,
    first: &Array<i32>,
    out: &mut Array<f32>,
    rows: usize,
    heads: usize,
    t: usize,
    all: usize,
    offset: usize,
    window: usize,
    cap: f32,
    #[comptime] has_first: bool,
    #[comptime] has_cap: bool,
) {
    let row = row();
    if row >= rows {
        terminate!();
    }
    let (start, query) = (row * all, row % t);
    let end = offset + query + 1;
    let mut begin = end - window.min(end);
    if has_first {
        let item = row / (heads * t);
        begin = begin.max(first[item * t + query] as usize);
    }
    // A query sees its own key.
    let mut max = capped(scores[start + end - 1], cap, has_cap);
    let mut j = begin + UNIT_POS_X as usize;
    while j < end {
        max = max.max(capped(scores[start + j], cap, has_cap));
        j += CUBE_DIM_X as usize;
    }
    let max = plane_max(max);
    let mut sum = 0.0f32;
    j = UNIT_POS_X as usize;
    while j < all {
        let mut weight = 0.0f32;
        if j >= begin && j < end {
            weight = (capped(scores[start + j], cap, has_cap) - max).exp();
        }
        out[start + j] = weight;
        sum += weight;
        j += CUBE_DIM_X as usize;
    }
    let sum = plane_sum(sum);
    j = UNIT_POS_X as usize;
    while j < all {
        // Each unit reads what it wrote itself.
        out[start + j] = out[start + j] / sum;
        j += CUBE_DIM_X as usize;
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

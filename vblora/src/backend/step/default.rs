//! A step of decoding in the operations of other families.

use burn::tensor::{Tensor, TensorMetadata, ops::FloatTensor};

use super::{StepForm, StepMap, StepNorm, StepOps, StepPlaces};
use crate::backend::{CausalSettings, float, primitive};

pub(super) fn step_maps<B: StepOps>(
    x: FloatTensor<B>,
    norm: Option<StepNorm<FloatTensor<B>>>,
    maps: Vec<StepMap<B>>,
    form: StepForm<FloatTensor<B>>,
) -> FloatTensor<B> {
    let x = match norm {
        Some(norm) => normalised::<B>(x, norm),
        None => x,
    };
    let mut outputs = maps.into_iter().map(|map| output::<B>(x.clone(), map));
    let mut next = || outputs.next().expect("a map for each part of the form");
    match form {
        StepForm::Joined => {
            let outputs = outputs.map(float::<B, 2>);
            primitive(Tensor::cat(outputs.collect(), 1))
        }
        StepForm::Gated(gate) => {
            let [opening, up] = [next(), next()];
            B::gated(opening, up, gate)
        }
        StepForm::Gelu(form) => form.apply::<B>(next()),
        StepForm::Added { to, scale } => {
            let y = float::<B, 2>(next());
            let y = if scale == 1.0 { y } else { y.mul_scalar(scale) };
            primitive(float::<B, 2>(to) + y)
        }
    }
}

fn normalised<B: StepOps>(x: FloatTensor<B>, norm: StepNorm<FloatTensor<B>>) -> FloatTensor<B> {
    if !norm.is_centred {
        return B::rms_norm(x, norm.gamma, norm.epsilon);
    }
    let beta = norm
        .beta
        .unwrap_or_else(|| primitive(float::<B, 1>(norm.gamma.clone()).zeros_like()));
    B::row_norm(x, norm.gamma, beta, norm.epsilon)
}

fn output<B: StepOps>(x: FloatTensor<B>, map: StepMap<B>) -> FloatTensor<B> {
    let StepMap {
        map,
        update,
        scales,
    } = map;
    match (update, scales) {
        (None, _) => B::frozen_linear(x, map),
        (Some(update), None) => B::adapted_linear(x, map, update).0,
        (Some(update), Some(scales)) => B::stacked_linear(x, map, [update.down, update.up], scales),
    }
}

pub(super) fn step_attention<B: StepOps>(
    qkv: FloatTensor<B>,
    cache: [FloatTensor<B>; 2],
    places: StepPlaces<B>,
    settings: CausalSettings,
) -> (FloatTensor<B>, [FloatTensor<B>; 2]) {
    let qkv = float::<B, 2>(qkv);
    let [n, _] = qkv.dims();
    let [_, _, width] = cache[0].shape().dims();
    let size = width / settings.kv_heads;
    let queries = settings.heads * size;
    let [q, k, v] =
        [(0, queries), (queries, width), (queries + width, width)].map(|(start, width)| {
            let part = qkv.clone().narrow(1, start, width);
            part.reshape([n, 1, width])
        });
    let [q, k] = [q, k].map(|x| match places.angles.clone() {
        Some(angles) => turned::<B>(x, angles, size),
        None => x,
    });
    let q = match places.query_scale {
        1.0 => q,
        scale => q.mul_scalar(scale),
    };
    let mut new = [k, v].into_iter();
    let at = settings.offset;
    let cache = cache.map(|cache| {
        let new = new.next().expect("keys and values");
        let cache = float::<B, 3>(cache);
        primitive(cache.slice_assign([0..n, at..at + 1, 0..width], new))
    });
    let [k, v] = cache.clone();
    let (attended, _) = B::causal_attention([primitive(q), k, v], places.first, settings);
    let attended = float::<B, 3>(attended).reshape([n, queries]);
    (primitive(attended), cache)
}

/// Turns the first values of each head, as many as there are angles for.
fn turned<B: StepOps>(
    x: Tensor<B, 3>,
    [cos, sin]: [FloatTensor<B>; 2],
    size: usize,
) -> Tensor<B, 3> {
    let [n, t, d] = x.dims();
    let turning = 2 * cos.shape()[2];
    if turning == size {
        return float(B::rotate(primitive(x), cos, sin));
    }
    let heads = d / size;
    let x = x.reshape([n, t, heads, size]);
    let first = x.clone().narrow(3, 0, turning);
    let first = first.reshape([n, t, heads * turning]);
    let turned = float::<B, 3>(B::rotate(primitive(first), cos, sin));
    let rest = x.narrow(3, turning, size - turning);
    Tensor::cat(vec![turned.reshape([n, t, heads, turning]), rest], 3).reshape([n, t, d])
}

//! Selection and mixture on GPUs by one launch each; rows are joined by one launch for many pieces.
#![allow(missing_docs, reason = "the macros make launch functions of these")]

use burn::tensor::{
    DType, Shape, Tensor,
    ops::{FloatTensor, FloatTensorOps, IntTensor},
};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, tensor::CubeTensor,
};
use cubecl::prelude::*;

use super::{MixOps, default};
use crate::backend::{
    float,
    gpu::{
        MAX_CUBES, array,
        elements::Elements,
        empty, empty_of,
        rows::{Rows, like, row},
    },
    primitive,
};

/// Units of a cube that copies.
const JOIN_UNITS: usize = 256;
/// The most pieces that one launch joins: a kernel's arguments have 4 KiB on CUDA.
const MAX_PIECES: usize = 64;

impl<R, F, I, T> MixOps for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    fn top_k_indices(logits: FloatTensor<Self>, k: usize) -> IntTensor<Self> {
        match I::dtype() {
            DType::I32 => top_k(&logits, k),
            _ => None,
        }
        .unwrap_or_else(|| default::top_k_indices::<Self>(logits, k))
    }

    fn mix(
        bank: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        indices: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        mixed(&bank, &weights, &indices)
            .unwrap_or_else(|| default::mix::<Self>(bank, weights, indices))
    }

    fn mix_backward(
        bank: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        indices: IntTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match weight_gradient(&bank, &weights, &indices, &grad) {
            Some(d_weights) => {
                let h = bank.meta.shape()[0];
                let d_bank = default::bank_gradient::<Self>(
                    float(weights),
                    Tensor::from_primitive(indices),
                    float(grad),
                    h,
                );
                (primitive(d_bank), d_weights)
            }
            None => default::mix_backward::<Self>(bank, weights, indices, grad),
        }
    }

    fn join_rows(pieces: Vec<FloatTensor<Self>>) -> FloatTensor<Self> {
        join_rows(&pieces).unwrap_or_else(|| Self::float_cat(pieces, 0))
    }
}

/// Returns `None` if [`Rows::of`] does.
fn top_k<R: CubeRuntime>(logits: &CubeTensor<R>, k: usize) -> Option<CubeTensor<R>> {
    let rows = Rows::of(&[logits])?;
    let out = empty_of(logits, Shape::new([rows.count, k]), DType::I32);
    top_k_of_rows::launch(
        &out.client,
        rows.cubes(),
        rows.dim(),
        array(logits),
        array(&out),
        rows.count,
        rows.d,
        k,
        rows.values_ahead(),
    );
    Some(out)
}

/// Returns `None`, like the function below, if the tensors are empty, not f32, or the indices not i32.
fn mixed<R: CubeRuntime>(
    bank: &CubeTensor<R>,
    weights: &CubeTensor<R>,
    indices: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let ([s, k], [_, b]) = (weights.meta.shape().dims(), bank.meta.shape().dims());
    let out = empty(bank, Shape::new([s, b]));
    let elements = Elements::of(&[&out, bank, weights])?;
    if indices.dtype != DType::I32 {
        return None;
    }
    mix_of_each::launch(
        &out.client,
        elements.cubes,
        elements.dim,
        array(bank),
        array(weights),
        array(indices),
        array(&out),
        k,
        b,
    );
    Some(out)
}

/// The gradient of the mixture to its weights. Each has a plane.
fn weight_gradient<R: CubeRuntime>(
    bank: &CubeTensor<R>,
    weights: &CubeTensor<R>,
    indices: &CubeTensor<R>,
    grad: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let ([s, k], [_, b]) = (weights.meta.shape().dims(), bank.meta.shape().dims());
    let rows = Rows::of(&[bank, weights, grad])?.with_count(s * k);
    if indices.dtype != DType::I32 || grad.meta.num_elements() == 0 {
        return None;
    }
    let out = like(weights);
    weights_of_rows::launch(
        &out.client,
        rows.cubes(),
        rows.dim(),
        array(bank),
        array(indices),
        array(grad),
        array(&out),
        rows.count,
        k,
        b,
    );
    Some(out)
}

/// Places come in order: a larger value first, then a lower index. Each place is the first after the one before. A place that NaN leaves
/// empty gets the last index.
#[cube(launch)]
fn top_k_of_rows(
    logits: &Array<f32>,
    out: &mut Array<i32>,
    rows: usize,
    h: usize,
    k: usize,
    #[comptime] ahead: usize,
) {
    let row = row();
    if row >= rows {
        terminate!();
    }
    let start = row * h;
    let none = u32::cast_from(h);
    let mut last_value = 0.0f32;
    let mut last_index = none;
    for place in 0..k {
        let mut value = 0.0f32;
        let mut index = none;
        let mut j = UNIT_POS_X as usize;
        while j < h {
            #[unroll]
            for i in 0..ahead {
                let at = j + i * CUBE_DIM_X as usize;
                let candidate = logits[start + at.min(h - 1)];
                let place = u32::cast_from(at);
                let is_later = last_index == none
                    || candidate < last_value
                    || (candidate == last_value && place > last_index);
                if at < h && is_later && (index == none || candidate > value) {
                    value = candidate;
                    index = place;
                }
            }
            j += ahead * CUBE_DIM_X as usize;
        }
        // A unit without a candidate takes part with the lowest value there is.
        let best = plane_max(select(index == none, comptime!(f32::MIN), value));
        let is_best = index != none && value == best;
        let found = plane_min(select(is_best, index, none));
        if UNIT_POS_X == 0 {
            out[row * k + place] = i32::cast_from(found.min(none - 1));
        }
        last_value = best;
        last_index = found;
    }
}

#[cube(launch)]
fn mix_of_each(
    bank: &Array<f32>,
    weights: &Array<f32>,
    indices: &Array<i32>,
    out: &mut Array<f32>,
    k: usize,
    b: usize,
) {
    let at = ABSOLUTE_POS;
    if at >= out.len() {
        terminate!();
    }
    let (row, column) = (at / b, at % b);
    let mut sum = 0.0f32;
    for j in 0..k {
        let vector = indices[row * k + j] as usize;
        sum += weights[row * k + j] * bank[vector * b + column];
    }
    out[at] = sum;
}

/// `out[s, j] = bank[indices[s, j]] grad[s]`, a plane for each.
#[cube(launch)]
fn weights_of_rows(
    bank: &Array<f32>,
    indices: &Array<i32>,
    grad: &Array<f32>,
    out: &mut Array<f32>,
    rows: usize,
    k: usize,
    b: usize,
) {
    let row = row();
    if row >= rows {
        terminate!();
    }
    let (vector, start) = (indices[row] as usize * b, row / k * b);
    let mut sum = 0.0f32;
    let mut j = UNIT_POS_X as usize;
    while j < b {
        sum += bank[vector + j] * grad[start + j];
        j += CUBE_DIM_X as usize;
    }
    let sum = plane_sum(sum);
    if UNIT_POS_X == 0 {
        out[row] = sum;
    }
}

/// The pieces joined along their rows. One launch joins as many as may be bound at a time. Returns `None` if they are not f32.
///
/// # Shapes
/// - pieces: `[n_i, m]`; output: `[sum of n_i, m]`
fn join_rows<R: CubeRuntime>(pieces: &[CubeTensor<R>]) -> Option<CubeTensor<R>> {
    let first = pieces.first()?;
    let is_f32 = pieces.iter().all(|piece| piece.dtype == DType::F32);
    let rows = pieces.iter().map(|piece| piece.meta.shape()[0]).sum();
    let out = empty(first, Shape::new([rows, first.meta.shape()[1]]));
    let bound = out.client.properties().hardware.max_bindings as usize;
    // The output is bound as well, and so are the lengths.
    let at_once = bound.saturating_sub(2).min(MAX_PIECES);
    if !is_f32 || out.meta.num_elements() == 0 || at_once < 2 {
        return None;
    }
    let dim = CubeDim::new_1d(JOIN_UNITS as u32);
    let mut start = 0;
    for pieces in pieces.chunks(at_once) {
        let lengths = pieces.iter().map(|piece| piece.meta.num_elements());
        let across = lengths.clone().max()?.div_ceil(JOIN_UNITS);
        if across > MAX_CUBES {
            return None;
        }
        let bound = pieces.iter().map(array);
        join::launch(
            &out.client,
            CubeCount::new_2d(across as u32, pieces.len() as u32),
            dim,
            bound.collect(),
            array(&out),
            start,
        );
        start += lengths.sum::<usize>();
    }
    Some(out)
}

/// Writes the pieces from `start` on one after the other to `out`. Cubes with the same second position copy one piece.
#[cube(launch)]
fn join(pieces: &Sequence<Array<f32>>, out: &mut Array<f32>, start: usize) {
    let at = (CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X) as usize;
    let mut to = start;
    #[unroll]
    for i in 0..pieces.len() {
        let piece = pieces.index(i);
        if CUBE_POS_Y as usize == i && at < piece.len() {
            out[to + at] = piece[at];
        }
        to += piece.len();
    }
}

//! Dropout on GPUs in one launch. The mask is made from the key where it is applied.
#![allow(missing_docs, reason = "the macros make launch functions of these")]

use burn::tensor::ops::FloatTensor;
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, tensor::CubeTensor,
};
use cubecl::prelude::*;

use vblora_kernels::dropout::Mask;

use super::{DropoutOps, default};
use crate::backend::gpu::{array, elements::Elements, rows::like};

impl<R, F, I, T> DropoutOps for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    fn dropout(x: FloatTensor<Self>, key: u64, p: f64) -> FloatTensor<Self> {
        dropped(&x, &Mask::new(key, p)).unwrap_or_else(|| default::dropout::<Self>(x, key, p))
    }
}

/// Returns `None` if [`Elements::in_pieces`] does.
fn dropped<R: CubeRuntime>(x: &CubeTensor<R>, mask: &Mask) -> Option<CubeTensor<R>> {
    let elements = Elements::in_pieces(&[x])?;
    let out = like(x);
    drop_out::launch(
        &out.client,
        elements.cubes,
        elements.dim,
        array(x),
        array(&out),
        mask.rounds.iter().map(|&(by, _)| by).collect(),
        mask.rounds.iter().map(|&(_, plus)| plus).collect(),
        mask.threshold,
        mask.keep,
        elements.piece,
    );
    Some(out)
}

/// The network of [`Mask`], with the multiplier and the addend of each round.
#[cube(launch)]
fn drop_out<V: Size>(
    x: &Array<Vector<f32, V>>,
    out: &mut Array<Vector<f32, V>>,
    multipliers: Sequence<u32>,
    addends: Sequence<u32>,
    threshold: u32,
    keep: f32,
    #[define(V)] _piece: usize,
) {
    let at = ABSOLUTE_POS;
    if at >= out.len() {
        terminate!();
    }
    let x = x[at];
    let mut y = Vector::<f32, V>::empty();
    #[unroll]
    for i in 0..V::value() {
        let index = u32::cast_from(at * V::value() + i);
        let mut left = index >> 16u32;
        let mut right = index & 0xffffu32;
        #[unroll]
        for round in 0..multipliers.len() {
            let mixed = (right * multipliers[round] + addends[round]) >> 11u32;
            let next = left ^ (mixed & 0xffffu32);
            left = right;
            right = next;
        }
        let mut value = x[i] * keep;
        if right < threshold {
            // As a product with the mask would have it, a value that is not finite stays so.
            value = x[i] * 0.0f32;
        }
        y[i] = value;
    }
    out[at] = y;
}

//! Joins rows on GPUs by one launch for many pieces.
#![allow(missing_docs, reason = "the macros make launch functions of these")]

use burn::tensor::{
    DType, Shape,
    ops::{FloatTensor, FloatTensorOps},
};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, kernel::into_contiguous,
    tensor::CubeTensor,
};
use burn_fusion::{Fusion, FusionBackend};
use cubecl::prelude::*;

use super::MixOps;
use crate::backend::gpu::{
    HasPlanes, MAX_CUBES, empty,
    fusion::{Call, register},
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
    fn join_rows(pieces: Vec<FloatTensor<Self>>) -> FloatTensor<Self> {
        join_rows(&pieces).unwrap_or_else(|| Self::float_cat(pieces, 0))
    }
}

impl<B: FusionBackend + MixOps + HasPlanes> MixOps for Fusion<B> {
    fn join_rows(pieces: Vec<FloatTensor<Self>>) -> FloatTensor<Self> {
        let rows = pieces.iter().map(|piece| piece.shape[0]).sum();
        let (shape, dtype) = ([rows, pieces[0].shape[1]], pieces[0].dtype);
        let [out] = register::<B, _, _>(JoinRows, pieces, [shape], dtype);
        out
    }
}

/// All inputs are pieces.
#[derive(Debug, Clone, Copy)]
struct JoinRows;

impl<B: MixOps> Call<B> for JoinRows {
    fn run(self, inputs: impl Iterator<Item = FloatTensor<B>>) -> Vec<FloatTensor<B>> {
        vec![B::join_rows(inputs.collect())]
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
    // The output is bound as well, and so are the tensors' shapes.
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
        let bound = pieces
            .iter()
            .map(|piece| into_contiguous(piece.clone()).into_tensor_arg());
        join::launch(
            &out.client,
            CubeCount::new_2d(across as u32, pieces.len() as u32),
            dim,
            bound.collect(),
            out.clone().into_tensor_arg(),
            start,
        );
        start += lengths.sum::<usize>();
    }
    Some(out)
}

/// Writes the pieces from `start` on one after the other to `out`. Cubes with the same second position copy one piece.
#[cube(launch)]
fn join(pieces: &Sequence<Tensor<f32>>, out: &mut Tensor<f32>, start: usize) {
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

//! Launches that give each element a unit, or each piece of neighbouring elements.

use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::{CubeCount, CubeDim, calculate_cube_count_elemwise};

/// The most values that a unit reads at once: 16 bytes of f32.
const PIECE: usize = 4;

/// Units for the elements of f32 tensors.
pub(in crate::backend) struct Elements {
    pub(in crate::backend) cubes: CubeCount,
    pub(in crate::backend) dim: CubeDim,
    /// Elements of a unit.
    pub(in crate::backend) piece: usize,
}

impl Elements {
    /// A unit for each element of the first tensor. Returns `None` if it is empty or a tensor is not f32.
    pub(in crate::backend) fn of<R: CubeRuntime>(tensors: &[&CubeTensor<R>]) -> Option<Self> {
        Self::in_pieces_of(tensors, 1)
    }

    /// A unit for each piece of the first tensor; all have its shape. Returns `None` as [`Elements::of`] does.
    pub(in crate::backend) fn in_pieces<R: CubeRuntime>(
        tensors: &[&CubeTensor<R>],
    ) -> Option<Self> {
        Self::in_pieces_of(tensors, piece_of(tensors.iter().copied()))
    }

    fn in_pieces_of<R: CubeRuntime>(tensors: &[&CubeTensor<R>], piece: usize) -> Option<Self> {
        let first = tensors.first()?;
        let count = first.meta.num_elements() / piece;
        let is_f32 = tensors.iter().all(|tensor| tensor.dtype == DType::F32);
        (is_f32 && count > 0).then_some(())?;
        let dim = CubeDim::new(&first.client, count);
        let cubes = calculate_cube_count_elemwise(&first.client, count, dim);
        Some(Self { cubes, dim, piece })
    }
}

/// The values that a unit can read at once from each of these tensors in row-major order: 4, or 1 if the last dimension of one is no multiple
/// of 4 or its memory does not start at one.
pub(in crate::backend) fn piece_of<'a, R: CubeRuntime>(
    mut tensors: impl Iterator<Item = &'a CubeTensor<R>>,
) -> usize {
    let bytes = (PIECE * size_of::<f32>()) as u64;
    let fits = tensors.all(|tensor| {
        let handle = &tensor.handle;
        let mut offsets = [handle.offset_start, handle.offset_end]
            .into_iter()
            .flatten();
        let is_aligned = offsets.all(|offset| offset.is_multiple_of(bytes));
        let is_whole = tensor
            .meta
            .shape()
            .last()
            .is_some_and(|d| d.is_multiple_of(PIECE));
        // A copy in row-major order starts where a piece does.
        is_whole && (is_aligned || !tensor.is_contiguous())
    });
    if fits { PIECE } else { 1 }
}

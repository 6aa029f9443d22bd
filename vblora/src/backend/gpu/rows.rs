//! Launches and kernels that give each row a plane.
#![allow(missing_docs, reason = "the macros make launch functions of these")]

use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{MAX_CUBES, PLANES, elements::piece_of, empty, fixed_plane};

/// The most pieces of a row that a unit asks for before it waits for the first of them.
const MAX_AHEAD: usize = 8;

/// The rows of some tensors of one shape `[.., d]`, and planes for them.
pub(in crate::backend) struct Rows {
    pub(in crate::backend) count: usize,
    pub(in crate::backend) d: usize,
    /// Values that a unit reads at once, a divisor of d.
    pub(in crate::backend) piece: usize,
    plane: u32,
}

impl Rows {
    /// Returns `None` if the device has no planes of one size, a tensor is not f32, or the tensors are empty.
    pub(in crate::backend) fn of<R: CubeRuntime>(tensors: &[&CubeTensor<R>]) -> Option<Self> {
        let first = tensors.first()?;
        let d = *first.meta.shape().last()?;
        let elements = first.meta.num_elements();
        let is_f32 = tensors.iter().all(|tensor| tensor.dtype == DType::F32);
        (is_f32 && elements > 0).then_some(())?;
        let wide = tensors.iter().copied();
        let wide = wide.filter(|tensor| tensor.meta.shape().last() == Some(&d));
        Some(Self {
            count: elements / d,
            d,
            piece: piece_of(wide),
            plane: fixed_plane(&first.client)?,
        })
    }

    /// Planes for as many rows in place of the tensors'.
    pub(in crate::backend) fn with_count(self, count: usize) -> Self {
        Self { count, ..self }
    }

    /// Values of a row that a unit asks for at a time, if it reads them one by one.
    pub(in crate::backend) fn values_ahead(&self) -> usize {
        ahead(self.d, self.plane)
    }

    /// Pieces of a row.
    pub(in crate::backend) fn pieces(&self) -> usize {
        self.d / self.piece
    }

    /// Pieces that a unit asks for at a time.
    pub(in crate::backend) fn ahead(&self) -> usize {
        ahead(self.pieces(), self.plane)
    }

    pub(in crate::backend) fn cubes(&self) -> CubeCount {
        let cubes = self.count.div_ceil(PLANES as usize);
        let down = cubes.div_ceil(MAX_CUBES);
        CubeCount::new_2d(cubes.div_ceil(down) as u32, down as u32)
    }

    pub(in crate::backend) fn dim(&self) -> CubeDim {
        CubeDim::new_2d(self.plane, PLANES)
    }
}

/// The pieces of a row that each unit of a plane asks for before it waits for the first of them.
pub(in crate::backend) fn ahead(pieces: usize, plane: u32) -> usize {
    pieces.div_ceil(plane as usize).min(MAX_AHEAD)
}

/// A tensor of the same shape, its values not yet written.
pub(in crate::backend) fn like<R: CubeRuntime>(tensor: &CubeTensor<R>) -> CubeTensor<R> {
    empty(tensor, tensor.meta.shape().clone())
}

/// The row of a unit's plane. Cubes are planes wide and several planes high; a plane without a row ends as a whole.
#[cube]
pub(in crate::backend) fn row() -> usize {
    CUBE_POS * CUBE_DIM_Y as usize + UNIT_POS_Y as usize
}

/// The sum of the values of a plane's pieces.
#[cube]
pub(in crate::backend) fn plane_total<V: Size>(piece: Vector<f32, V>) -> f32 {
    let mut sum = piece[0];
    #[unroll]
    for i in 1..V::value() {
        sum += piece[i];
    }
    plane_sum(sum)
}

/// A piece of zeros.
#[cube]
pub(in crate::backend) fn zeros<V: Size>() -> Vector<f32, V> {
    Vector::cast_from(0.0f32)
}

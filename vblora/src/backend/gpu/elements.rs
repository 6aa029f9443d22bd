//! Launches that give each element a unit.

use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::{CubeCount, CubeDim, calculate_cube_count_elemwise};

/// Units for the elements of f32 tensors.
pub(in crate::backend) struct Elements {
    pub(in crate::backend) cubes: CubeCount,
    pub(in crate::backend) dim: CubeDim,
}

impl Elements {
    /// A unit for each element of the first tensor. Returns `None` if it is empty or a tensor is not f32.
    pub(in crate::backend) fn of<R: CubeRuntime>(tensors: &[&CubeTensor<R>]) -> Option<Self> {
        let first = tensors.first()?;
        let count = first.meta.num_elements();
        let is_f32 = tensors.iter().all(|tensor| tensor.dtype == DType::F32);
        (is_f32 && count > 0).then_some(())?;
        let dim = CubeDim::new(&first.client, count);
        let cubes = calculate_cube_count_elemwise(&first.client, count, dim);
        Some(Self { cubes, dim })
    }
}

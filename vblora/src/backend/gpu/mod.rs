//! Pieces that the families share on the CubeCL backends: planes, launches, products on tensor cores, registration with operation fusion.

pub(super) mod fusion;
pub(super) mod product;
pub(super) mod rows;

use burn::tensor::{DType, Shape, backend::Backend, ops::Device};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement,
    ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor,
};
use burn_fusion::{Fusion, FusionBackend};
use cubecl::prelude::ComputeClient;

use super::{DropoutOps, VbLoraBackend};

/// WebGPU's limit of cubes in one dimension, and CUDA's in the second and third.
pub(super) const MAX_CUBES: usize = 65_535;
/// Planes of a cube, each with a row of its own.
pub(super) const PLANES: u32 = 8;

/// Backends that know their devices' planes.
pub(super) trait HasPlanes: Backend {
    /// True if the device has planes of one size. The kernels that give each row a plane need that.
    fn has_planes(device: &Device<Self>) -> bool;
}

impl<R, F, I, T> HasPlanes for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    fn has_planes(device: &Device<Self>) -> bool {
        fixed_plane(&R::client(device)).is_some()
    }
}

impl<R, F, I, T> VbLoraBackend for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    /// On wgpu this is WebGPU's guaranteed limit of a storage binding. Many devices allow more, but Burn has no way to ask. Software Vulkan
    /// allows no more, and an upload beyond the limit fails without an error.
    fn max_tensor_bytes(device: &Device<Self>) -> Option<usize> {
        R::name(&R::client(device))
            .contains("wgpu")
            .then_some(128 << 20)
    }
}

impl<B: FusionBackend + VbLoraBackend + HasPlanes> VbLoraBackend for Fusion<B> {
    fn max_tensor_bytes(device: &Device<Self>) -> Option<usize> {
        B::max_tensor_bytes(device)
    }
}

// The default bodies of dropout are plain tensor operations, which fusion turns into few kernels.

impl<R, F, I, T> DropoutOps for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
}

impl<B: FusionBackend + DropoutOps> DropoutOps for Fusion<B> {}

/// The device's plane size, if it has one size.
pub(super) fn fixed_plane<R: CubeRuntime>(client: &ComputeClient<R>) -> Option<u32> {
    let hardware = &client.properties().hardware;
    let size = hardware.plane_size_max;
    (size == hardware.plane_size_min && size > 1).then_some(size)
}

/// An f32 tensor of this shape on the device of `like`, its values not yet written.
pub(super) fn empty<R: CubeRuntime>(like: &CubeTensor<R>, shape: Shape) -> CubeTensor<R> {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape, DType::F32)
}

//! Pieces that the families share on the CubeCL backends: planes, launches, arguments, products on tensor cores.
//!
//! Burn's operation fusion is left out. Its bookkeeping took more of the host's time than the launches that it saves; kernels of our own save
//! most of them too (docs/performance.md).

#[cfg(any(feature = "cuda", test))]
pub(super) mod cache;
pub(super) mod cast;
pub(super) mod elements;
#[cfg(feature = "cuda")]
mod exchange;
pub(super) mod product;
mod reading;
pub(super) mod rows;

use burn::tensor::{DType, Shape, ops::Device};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, kernel::into_contiguous,
    ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor,
};
use cubecl::{
    prelude::{ArrayArg, ComputeClient},
    stream_id::StreamId,
};

use super::{MemoryMeter, ReadLater, VbLoraBackend};

/// GPUs through Vulkan, Metal or DX12, without operation fusion.
#[cfg(feature = "wgpu")]
pub type Wgpu = CubeBackend<burn::backend::wgpu::WgpuRuntime, f32, i32, u32>;

/// NVIDIA GPUs, without operation fusion.
#[cfg(feature = "cuda")]
pub type Cuda = CubeBackend<cubecl::cuda::CudaRuntime, f32, i32, u8>;

/// WebGPU's limit of cubes in one dimension, and CUDA's in the second and third.
pub(super) const MAX_CUBES: usize = 65_535;
/// Planes of a cube, each with a row of its own.
pub(super) const PLANES: u32 = 8;

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

    /// CubeCL counts by streams, and each thread has its own.
    fn memory_meter(device: &Device<Self>) -> Option<MemoryMeter> {
        let (client, stream) = (R::client(device), StreamId::current());
        Some(Box::new(move || {
            let usage = stream.executes(|| client.memory_usage());
            usage.ok().map(|usage| usage.bytes_in_use)
        }))
    }

    fn read_later() -> Option<ReadLater<Self>> {
        Some(reading::read_later)
    }

    #[cfg(feature = "cuda")]
    fn exchanges(device: &Device<Self>) -> Option<super::Exchanges<Self>> {
        exchange::exchanges(device)
    }
}

/// The device's plane size, if it has one size.
pub(super) fn fixed_plane<R: CubeRuntime>(client: &ComputeClient<R>) -> Option<u32> {
    let hardware = &client.properties().hardware;
    let size = hardware.plane_size_max;
    (size == hardware.plane_size_min && size > 1).then_some(size)
}

/// An f32 tensor of this shape on the device of `like`, its values not yet written.
pub(super) fn empty<R: CubeRuntime>(like: &CubeTensor<R>, shape: Shape) -> CubeTensor<R> {
    empty_of(like, shape, DType::F32)
}

/// [`empty`] of a dtype.
pub(super) fn empty_of<R: CubeRuntime>(
    like: &CubeTensor<R>,
    shape: Shape,
    dtype: DType,
) -> CubeTensor<R> {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape, dtype)
}

/// A tensor's values in row-major order, as an argument. Such an argument is a pointer and a length. A tensor's shape and strides would be
/// copied to the device for every launch.
pub(super) fn array<R: CubeRuntime>(tensor: &CubeTensor<R>) -> ArrayArg<R> {
    into_contiguous(tensor.clone()).into_array_arg()
}

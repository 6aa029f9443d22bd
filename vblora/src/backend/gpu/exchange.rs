//! Exchanges among NVIDIA GPUs, by NCCL.

use std::time::Duration;

use burn::tensor::{DType, TensorMetadata, ops::Device};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, kernel::into_contiguous,
    tensor::CubeTensor,
};
use vblora_nvidia::{Collective, Pair};

use super::empty;
use crate::backend::{Exchange, Exchanges, Joined};

type Backend<R, F, I, T> = CubeBackend<R, F, I, T>;

/// See [`VbLoraBackend::exchanges`](crate::backend::VbLoraBackend::exchanges). Only CUDA's devices have these.
pub(super) fn exchanges<R, F, I, T>(
    device: &Device<Backend<R, F, I, T>>,
) -> Option<Exchanges<Backend<R, F, I, T>>>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    let is_cuda = R::name(&R::client(device)) == "cuda";
    is_cuda.then_some(Exchanges {
        ready: Collective::ready,
        name: Collective::name,
        join: join::<R, F, I, T>,
    })
}

fn join<R, F, I, T>(
    device: &Device<Backend<R, F, I, T>>,
    name: &[u8],
    [rank, size]: [usize; 2],
    patience: Duration,
) -> Joined<Backend<R, F, I, T>>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    let joined = Collective::join(device, name, rank, size, patience)?;
    Ok(Box::new(joined))
}

impl<R, F, I, T> Exchange<Backend<R, F, I, T>> for Collective
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    fn broadcast(&self, tensors: Vec<CubeTensor<R>>) -> Vec<CubeTensor<R>> {
        over(tensors, |buffers| Collective::broadcast(self, buffers))
    }

    fn sum(&self, tensors: Vec<CubeTensor<R>>) -> Vec<CubeTensor<R>> {
        over(tensors, |buffers| Collective::sum(self, buffers))
    }

    fn check(&self) -> Result<(), String> {
        Collective::check(self)
    }
}

/// New tensors that `work` writes from these.
///
/// # Panics
/// A tensor is not of f32.
fn over<R: CubeRuntime>(
    tensors: Vec<CubeTensor<R>>,
    work: impl FnOnce(Vec<Pair>),
) -> Vec<CubeTensor<R>> {
    let (pairs, outputs) = tensors
        .into_iter()
        .map(|tensor| {
            assert_eq!(tensor.dtype, DType::F32, "exchanged values are f32");
            let tensor = into_contiguous(tensor);
            let out = empty(&tensor, tensor.shape());
            let pair = Pair {
                count: out.shape().num_elements(),
                input: tensor.handle.binding(),
                output: out.handle.clone().binding(),
            };
            (pair, out)
        })
        .unzip();
    work(pairs);
    outputs
}

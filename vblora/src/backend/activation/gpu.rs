//! Softmax on GPUs in one launch, with one plane per row. Plain tensor operations would take two reductions and fused kernels between them.
#![allow(missing_docs, reason = "the macros make launch functions of these")]

use burn::tensor::ops::FloatTensor;
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, kernel::into_contiguous,
    tensor::CubeTensor,
};
use burn_fusion::{Fusion, FusionBackend};
use cubecl::prelude::*;

use super::{ActivationOps, default};
use crate::backend::gpu::{
    HasPlanes,
    fusion::{Call, has_kernel, next, register_like},
    rows::{Rows, like, row},
};

impl<R, F, I, T> ActivationOps for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    fn row_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        softmax(&x).unwrap_or_else(|| default::row_softmax::<Self>(x))
    }

    fn row_softmax_backward(
        output: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        softmax_backward(&output, &grad)
            .unwrap_or_else(|| default::row_softmax_backward::<Self>(output, grad))
    }
}

impl<B: FusionBackend + ActivationOps + HasPlanes> ActivationOps for Fusion<B> {
    fn row_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if !has_kernel::<B>(&[&x]) {
            return default::row_softmax::<Self>(x);
        }
        register_like::<B, _>(Kernel::Softmax, vec![x])
    }

    fn row_softmax_backward(
        output: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if !has_kernel::<B>(&[&output, &grad]) {
            return default::row_softmax_backward::<Self>(output, grad);
        }
        register_like::<B, _>(Kernel::SoftmaxBackward, vec![output, grad])
    }
}

/// The operations that have a kernel. Each variant lists its inputs.
#[derive(Debug, Clone, Copy)]
enum Kernel {
    /// x.
    Softmax,
    /// The output and its gradient.
    SoftmaxBackward,
}

impl<B: ActivationOps> Call<B> for Kernel {
    fn run(self, mut inputs: impl Iterator<Item = FloatTensor<B>>) -> Vec<FloatTensor<B>> {
        let mut next = || next(&mut inputs);
        vec![match self {
            Self::Softmax => B::row_softmax(next()),
            Self::SoftmaxBackward => B::row_softmax_backward(next(), next()),
        }]
    }
}

/// Returns `None`, like the functions below, if [`Rows::of`] does.
fn softmax<R: CubeRuntime>(x: &CubeTensor<R>) -> Option<CubeTensor<R>> {
    let rows = Rows::of(&[x])?;
    let x = into_contiguous(x.clone());
    let out = like(&x);
    row_softmax::launch(
        &out.client,
        rows.cubes(),
        rows.dim(),
        x.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        rows.count,
        rows.d,
    );
    Some(out)
}

fn softmax_backward<R: CubeRuntime>(
    y: &CubeTensor<R>,
    grad: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let rows = Rows::of(&[y, grad])?;
    let [y, grad] = [y, grad].map(|x| into_contiguous(x.clone()));
    let out = like(&y);
    row_softmax_backward::launch(
        &out.client,
        rows.cubes(),
        rows.dim(),
        y.into_tensor_arg(),
        grad.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        rows.count,
        rows.d,
    );
    Some(out)
}

#[cube(launch)]
fn row_softmax(x: &Tensor<f32>, out: &mut Tensor<f32>, rows: usize, d: usize) {
    let row = row();
    if row >= rows {
        terminate!();
    }
    let start = row * d;
    // The maximum starts at a value of the row, because WGSL has no literal for infinity.
    let mut max = x[start];
    let mut j = UNIT_POS_X as usize;
    while j < d {
        max = max.max(x[start + j]);
        j += CUBE_DIM_X as usize;
    }
    let max = plane_max(max);
    let mut sum = 0.0f32;
    j = UNIT_POS_X as usize;
    while j < d {
        let value = (x[start + j] - max).exp();
        out[start + j] = value;
        sum += value;
        j += CUBE_DIM_X as usize;
    }
    let sum = plane_sum(sum);
    j = UNIT_POS_X as usize;
    while j < d {
        // Each unit reads what it wrote itself.
        out[start + j] = out[start + j] / sum;
        j += CUBE_DIM_X as usize;
    }
}

/// `y (g - sum(g y))`
#[cube(launch)]
fn row_softmax_backward(
    y: &Tensor<f32>,
    grad: &Tensor<f32>,
    out: &mut Tensor<f32>,
    rows: usize,
    d: usize,
) {
    let row = row();
    if row >= rows {
        terminate!();
    }
    let start = row * d;
    let mut along = 0.0f32;
    let mut j = UNIT_POS_X as usize;
    while j < d {
        along += y[start + j] * grad[start + j];
        j += CUBE_DIM_X as usize;
    }
    let along = plane_sum(along);
    j = UNIT_POS_X as usize;
    while j < d {
        out[start + j] = y[start + j] * (grad[start + j] - along);
        j += CUBE_DIM_X as usize;
    }
}

//! Softmax and normalisations, one plane a row, in one launch each: as tensor operations each is two reductions and what lies between them.
#![allow(missing_docs, reason = "the macros make launch functions of these")]

use burn::tensor::{DType, Shape};
use burn_cubecl::{CubeRuntime, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{MAX_CUBES, PLANES, empty, fixed_plane};

/// The rows of some tensors of one shape `[.., d]`, and planes for them.
struct Rows {
    count: usize,
    d: usize,
    plane: u32,
}

impl Rows {
    /// `None` where the device has no planes of one size, where a tensor is not f32 or where there is nothing in them.
    fn of<R: CubeRuntime>(tensors: &[&CubeTensor<R>]) -> Option<Self> {
        let first = tensors.first()?;
        let d = *first.meta.shape().last()?;
        let elements = first.meta.num_elements();
        let is_f32 = tensors.iter().all(|tensor| tensor.dtype == DType::F32);
        (is_f32 && elements > 0).then_some(())?;
        Some(Self {
            count: elements / d,
            d,
            plane: fixed_plane(&first.client)?,
        })
    }

    fn cubes(&self) -> CubeCount {
        let cubes = self.count.div_ceil(PLANES as usize);
        let down = cubes.div_ceil(MAX_CUBES);
        CubeCount::new_2d(cubes.div_ceil(down) as u32, down as u32)
    }

    fn dim(&self) -> CubeDim {
        CubeDim::new_2d(self.plane, PLANES)
    }
}

fn like<R: CubeRuntime>(tensor: &CubeTensor<R>) -> CubeTensor<R> {
    empty(tensor, tensor.meta.shape().clone())
}

/// `None`, here and below, as [`Rows::of`].
pub(super) fn softmax<R: CubeRuntime>(x: &CubeTensor<R>) -> Option<CubeTensor<R>> {
    let rows = Rows::of(&[x])?;
    let x = into_contiguous(x.clone());
    let out = like(&x);
    kernels::row_softmax::launch(
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

pub(super) fn softmax_backward<R: CubeRuntime>(
    y: &CubeTensor<R>,
    grad: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let rows = Rows::of(&[y, grad])?;
    let [y, grad] = [y, grad].map(|x| into_contiguous(x.clone()));
    let out = like(&y);
    kernels::row_softmax_backward::launch(
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

/// A layer normalisation, or one by the root mean square if there is no beta, and what rows were divided by.
pub(super) fn norm<R: CubeRuntime>(
    x: &CubeTensor<R>,
    gamma: &CubeTensor<R>,
    beta: Option<&CubeTensor<R>>,
    epsilon: f64,
) -> Option<(CubeTensor<R>, CubeTensor<R>)> {
    let any_beta = beta.unwrap_or(gamma);
    let rows = Rows::of(&[x, gamma, any_beta])?;
    let [x, gamma, any_beta] = [x, gamma, any_beta].map(|x| into_contiguous(x.clone()));
    let (out, deviations) = (like(&x), empty(&x, Shape::new([rows.count])));
    kernels::row_norm::launch(
        &out.client,
        rows.cubes(),
        rows.dim(),
        x.into_tensor_arg(),
        gamma.into_tensor_arg(),
        any_beta.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        deviations.clone().into_tensor_arg(),
        rows.count,
        rows.d,
        epsilon as f32,
        beta.is_some(),
    );
    Some((out, deviations))
}

/// The gradient of [`norm`] to x.
pub(super) fn norm_backward<R: CubeRuntime>(
    x: &CubeTensor<R>,
    gamma: &CubeTensor<R>,
    epsilon: f64,
    grad: &CubeTensor<R>,
    is_centred: bool,
) -> Option<CubeTensor<R>> {
    let rows = Rows::of(&[x, gamma, grad])?;
    let [x, gamma, grad] = [x, gamma, grad].map(|x| into_contiguous(x.clone()));
    let out = like(&x);
    kernels::row_norm_backward::launch(
        &out.client,
        rows.cubes(),
        rows.dim(),
        x.into_tensor_arg(),
        gamma.into_tensor_arg(),
        grad.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        rows.count,
        rows.d,
        epsilon as f32,
        is_centred,
    );
    Some(out)
}

/// The same from the output of a layer normalisation.
pub(super) fn invertible_norm_backward<R: CubeRuntime>(
    y: &CubeTensor<R>,
    [gamma, beta]: [&CubeTensor<R>; 2],
    deviations: &CubeTensor<R>,
    grad: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let tensors = [y, gamma, beta, deviations, grad];
    let rows = Rows::of(&tensors)?;
    let [y, gamma, beta, deviations, grad] = tensors.map(|x| into_contiguous(x.clone()));
    let out = like(&y);
    kernels::invertible_norm_backward::launch(
        &out.client,
        rows.cubes(),
        rows.dim(),
        y.into_tensor_arg(),
        gamma.into_tensor_arg(),
        beta.into_tensor_arg(),
        deviations.into_tensor_arg(),
        grad.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        rows.count,
        rows.d,
    );
    Some(out)
}

/// Cubes are planes wide and several planes high; a plane whose row there is none ends as a whole. CUDA has functions named `norm` and the like,
/// which a kernel must not be called.
mod kernels {
    use super::*;

    #[cube]
    fn row() -> usize {
        CUBE_POS * CUBE_DIM_Y as usize + UNIT_POS_Y as usize
    }

    #[cube(launch)]
    pub(super) fn row_softmax(x: &Tensor<f32>, out: &mut Tensor<f32>, rows: usize, d: usize) {
        let row = row();
        if row >= rows {
            terminate!();
        }
        let start = row * d;
        // Not infinity, which WGSL has no literal for.
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
    pub(super) fn row_softmax_backward(
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

    /// A row's mean, 0 if it is not to be taken off, and `sqrt(var + epsilon)`.
    #[cube]
    fn moments(
        x: &Tensor<f32>,
        start: usize,
        d: usize,
        epsilon: f32,
        #[comptime] is_centred: bool,
    ) -> (f32, f32) {
        let n = f32::cast_from(d);
        let mut mean = 0.0f32;
        if is_centred {
            let mut sum = 0.0f32;
            let mut j = UNIT_POS_X as usize;
            while j < d {
                sum += x[start + j];
                j += CUBE_DIM_X as usize;
            }
            mean = plane_sum(sum) / n;
        }
        let mut squares = 0.0f32;
        let mut j = UNIT_POS_X as usize;
        while j < d {
            let centred = x[start + j] - mean;
            squares += centred * centred;
            j += CUBE_DIM_X as usize;
        }
        (mean, (plane_sum(squares) / n + epsilon).sqrt())
    }

    #[cube(launch)]
    pub(super) fn row_norm(
        x: &Tensor<f32>,
        gamma: &Tensor<f32>,
        beta: &Tensor<f32>,
        out: &mut Tensor<f32>,
        deviations: &mut Tensor<f32>,
        rows: usize,
        d: usize,
        epsilon: f32,
        #[comptime] is_centred: bool,
    ) {
        let row = row();
        if row >= rows {
            terminate!();
        }
        let start = row * d;
        let (mean, deviation) = moments(x, start, d, epsilon, is_centred);
        if UNIT_POS_X == 0 {
            deviations[row] = deviation;
        }
        let mut j = UNIT_POS_X as usize;
        while j < d {
            let mut value = (x[start + j] - mean) / deviation * gamma[j];
            if is_centred {
                value += beta[j];
            }
            out[start + j] = value;
            j += CUBE_DIM_X as usize;
        }
    }

    /// With `n = (x - mean) / std` and `g = grad gamma`: `(g - mean(g) - n mean(g n)) / std`, without means if it is not centred.
    #[cube(launch)]
    pub(super) fn row_norm_backward(
        x: &Tensor<f32>,
        gamma: &Tensor<f32>,
        grad: &Tensor<f32>,
        out: &mut Tensor<f32>,
        rows: usize,
        d: usize,
        epsilon: f32,
        #[comptime] is_centred: bool,
    ) {
        let row = row();
        if row >= rows {
            terminate!();
        }
        let (start, n) = (row * d, f32::cast_from(d));
        let (mean, deviation) = moments(x, start, d, epsilon, is_centred);
        let mut sum = 0.0f32;
        let mut along = 0.0f32;
        let mut j = UNIT_POS_X as usize;
        while j < d {
            let g = grad[start + j] * gamma[j];
            sum += g;
            along += g * (x[start + j] - mean) / deviation;
            j += CUBE_DIM_X as usize;
        }
        let along = plane_sum(along) / n;
        let mut mean_grad = 0.0f32;
        if is_centred {
            mean_grad = plane_sum(sum) / n;
        }
        j = UNIT_POS_X as usize;
        while j < d {
            let normal = (x[start + j] - mean) / deviation;
            out[start + j] = (grad[start + j] * gamma[j] - mean_grad - normal * along) / deviation;
            j += CUBE_DIM_X as usize;
        }
    }

    /// The same with `n = (y - beta) / gamma`.
    #[cube(launch)]
    pub(super) fn invertible_norm_backward(
        y: &Tensor<f32>,
        gamma: &Tensor<f32>,
        beta: &Tensor<f32>,
        deviations: &Tensor<f32>,
        grad: &Tensor<f32>,
        out: &mut Tensor<f32>,
        rows: usize,
        d: usize,
    ) {
        let row = row();
        if row >= rows {
            terminate!();
        }
        let (start, n) = (row * d, f32::cast_from(d));
        let mut sum = 0.0f32;
        let mut along = 0.0f32;
        let mut j = UNIT_POS_X as usize;
        while j < d {
            let g = grad[start + j];
            sum += g * gamma[j];
            along += g * (y[start + j] - beta[j]);
            j += CUBE_DIM_X as usize;
        }
        let mean_grad = plane_sum(sum) / n;
        let along = plane_sum(along) / n;
        let deviation = deviations[row];
        j = UNIT_POS_X as usize;
        while j < d {
            let normal = (y[start + j] - beta[j]) / gamma[j];
            out[start + j] = (grad[start + j] * gamma[j] - mean_grad - normal * along) / deviation;
            j += CUBE_DIM_X as usize;
        }
    }
}

//! Normalisations on GPUs in one launch, with one plane per row. Plain tensor operations would take two reductions and fused kernels
//! between them.

mod kernels;

use burn::tensor::{Shape, ops::FloatTensor};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, tensor::CubeTensor,
};

use super::{NormGradients, NormOps, default};
use crate::backend::gpu::{
    array, empty,
    rows::{Rows, like},
};

impl<R, F, I, T> NormOps for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    fn row_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        match norm([&x], &gamma, Some(&beta), epsilon) {
            Some((y, _)) => y,
            None => default::row_norm::<Self>(x, gamma, beta, epsilon),
        }
    }

    fn row_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
        affine: bool,
    ) -> NormGradients<Self> {
        let found = (!affine).then(|| norm_backward(&x, &gamma, epsilon, &grad, true));
        match found.flatten() {
            Some(dx) => (dx, None),
            None => default::row_norm_backward::<Self>(x, gamma, epsilon, grad, affine),
        }
    }

    fn norm_and_deviation(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        norm([&x], &gamma, Some(&beta), epsilon)
            .unwrap_or_else(|| default::norm_and_deviation::<Self>(x, gamma, beta, epsilon))
    }

    fn sum_norm_and_deviation(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        norm([&x, &residual], &gamma, Some(&beta), epsilon).unwrap_or_else(|| {
            default::sum_norm_and_deviation::<Self>(x, residual, gamma, beta, epsilon)
        })
    }

    fn invertible_norm_backward(
        y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        deviation: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        invertible_backward(&y, [&gamma, &beta], &deviation, &grad).unwrap_or_else(|| {
            default::invertible_norm_backward::<Self>(y, [gamma, beta], deviation, grad)
        })
    }

    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        match norm([&x], &gamma, None, epsilon) {
            Some((y, _)) => y,
            None => default::rms_norm::<Self>(x, gamma, epsilon),
        }
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
        affine: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let found = (!affine).then(|| norm_backward(&x, &gamma, epsilon, &grad, false));
        match found.flatten() {
            Some(dx) => (dx, None),
            None => default::rms_norm_backward::<Self>(x, gamma, epsilon, grad, affine),
        }
    }
}

/// Layer normalisation, or root-mean-square normalisation if there is no beta, and the divisors of the rows. Two inputs are added first.
/// Returns `None`, like the functions below, if [`Rows::of`] does.
fn norm<R: CubeRuntime, const N: usize>(
    x: [&CubeTensor<R>; N],
    gamma: &CubeTensor<R>,
    beta: Option<&CubeTensor<R>>,
    epsilon: f64,
) -> Option<(CubeTensor<R>, CubeTensor<R>)> {
    let any_beta = beta.unwrap_or(gamma);
    let (first, last) = (x[0], x[N - 1]);
    let rows = Rows::of(&[first, last, gamma, any_beta])?;
    let (out, deviations) = (like(first), empty(first, Shape::new([rows.count])));
    kernels::row_norm::launch(
        &out.client,
        rows.cubes(),
        rows.dim(),
        array(first),
        array(last),
        array(gamma),
        array(any_beta),
        array(&out),
        array(&deviations),
        rows.count,
        rows.pieces(),
        epsilon as f32,
        beta.is_some(),
        N > 1,
        rows.ahead(),
        rows.piece,
    );
    Some((out, deviations))
}

/// The gradient of [`norm`] to x.
fn norm_backward<R: CubeRuntime>(
    x: &CubeTensor<R>,
    gamma: &CubeTensor<R>,
    epsilon: f64,
    grad: &CubeTensor<R>,
    is_centred: bool,
) -> Option<CubeTensor<R>> {
    let rows = Rows::of(&[x, gamma, grad])?;
    let out = like(x);
    kernels::row_norm_backward::launch(
        &out.client,
        rows.cubes(),
        rows.dim(),
        array(x),
        array(gamma),
        array(grad),
        array(&out),
        rows.count,
        rows.pieces(),
        epsilon as f32,
        is_centred,
        rows.ahead(),
        rows.piece,
    );
    Some(out)
}

/// [`norm_backward`] from the output of a layer normalisation.
fn invertible_backward<R: CubeRuntime>(
    y: &CubeTensor<R>,
    [gamma, beta]: [&CubeTensor<R>; 2],
    deviations: &CubeTensor<R>,
    grad: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let rows = Rows::of(&[y, gamma, beta, deviations, grad])?;
    let out = like(y);
    kernels::invertible_norm_backward::launch(
        &out.client,
        rows.cubes(),
        rows.dim(),
        array(y),
        array(gamma),
        array(beta),
        array(deviations),
        array(grad),
        array(&out),
        rows.count,
        rows.pieces(),
        rows.ahead(),
        rows.piece,
    );
    Some(out)
}

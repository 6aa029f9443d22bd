//! Normalisations on GPUs in one launch, with one plane per row. Plain tensor operations would take two reductions and fused kernels
//! between them.

mod kernels;

use burn::tensor::{DType, Shape, ops::FloatTensor};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, kernel::into_contiguous,
    tensor::CubeTensor,
};
use burn_fusion::{Fusion, FusionBackend};

use super::{NormGradients, NormOps, default};
use crate::backend::gpu::{
    HasPlanes, empty,
    fusion::{Call, has_kernel, next, register, register_like},
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
        match norm(&x, &gamma, Some(&beta), epsilon) {
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
        norm(&x, &gamma, Some(&beta), epsilon)
            .unwrap_or_else(|| default::norm_and_deviation::<Self>(x, gamma, beta, epsilon))
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
        match norm(&x, &gamma, None, epsilon) {
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

impl<B: FusionBackend + NormOps + HasPlanes> NormOps for Fusion<B> {
    fn row_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        if !has_kernel::<B>(&[&x, &gamma, &beta]) {
            return default::row_norm::<Self>(x, gamma, beta, epsilon);
        }
        register_like::<B, _>(Kernel::Norm { epsilon }, vec![x, gamma, beta])
    }

    fn row_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
        affine: bool,
    ) -> NormGradients<Self> {
        if affine || !has_kernel::<B>(&[&x, &gamma, &grad]) {
            return default::row_norm_backward::<Self>(x, gamma, epsilon, grad, affine);
        }
        let call = Kernel::NormBackward { epsilon };
        (register_like::<B, _>(call, vec![x, gamma, grad]), None)
    }

    fn norm_and_deviation(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !has_kernel::<B>(&[&x, &gamma, &beta]) {
            return default::norm_and_deviation::<Self>(x, gamma, beta, epsilon);
        }
        let shape = x.shape.clone();
        let rows = shape.num_elements() / gamma.shape[0].max(1);
        let call = Kernel::NormAndDeviation { epsilon };
        let inputs = vec![x, gamma, beta];
        let [y, deviation] =
            register::<B, _, _>(call, inputs, [shape, Shape::new([rows])], DType::F32);
        (y, deviation)
    }

    fn invertible_norm_backward(
        y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        deviation: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if !has_kernel::<B>(&[&y, &gamma, &beta, &deviation, &grad]) {
            return default::invertible_norm_backward::<Self>(y, [gamma, beta], deviation, grad);
        }
        let inputs = vec![y, gamma, beta, deviation, grad];
        register_like::<B, _>(Kernel::InvertibleBackward, inputs)
    }

    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        if !has_kernel::<B>(&[&x, &gamma]) {
            return default::rms_norm::<Self>(x, gamma, epsilon);
        }
        register_like::<B, _>(Kernel::Rms { epsilon }, vec![x, gamma])
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
        affine: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        if affine || !has_kernel::<B>(&[&x, &gamma, &grad]) {
            return default::rms_norm_backward::<Self>(x, gamma, epsilon, grad, affine);
        }
        let call = Kernel::RmsBackward { epsilon };
        (register_like::<B, _>(call, vec![x, gamma, grad]), None)
    }
}

/// The operations that have a kernel. Each variant lists its inputs.
#[derive(Debug, Clone, Copy)]
enum Kernel {
    /// x, gamma and beta.
    Norm { epsilon: f64 },
    /// x, gamma and the output's gradient.
    NormBackward { epsilon: f64 },
    /// x, gamma and beta, to the output and the divisors of the rows.
    NormAndDeviation { epsilon: f64 },
    /// The output, gamma, beta, the divisors of the rows and the output's gradient.
    InvertibleBackward,
    /// x and gamma.
    Rms { epsilon: f64 },
    /// x, gamma and the output's gradient.
    RmsBackward { epsilon: f64 },
}

impl<B: NormOps> Call<B> for Kernel {
    fn run(self, mut inputs: impl Iterator<Item = FloatTensor<B>>) -> Vec<FloatTensor<B>> {
        let mut next = || next(&mut inputs);
        vec![match self {
            Self::Norm { epsilon } => B::row_norm(next(), next(), next(), epsilon),
            Self::NormBackward { epsilon } => {
                B::row_norm_backward(next(), next(), epsilon, next(), false).0
            }
            Self::NormAndDeviation { epsilon } => {
                let (y, deviation) = B::norm_and_deviation(next(), next(), next(), epsilon);
                return vec![y, deviation];
            }
            Self::InvertibleBackward => {
                let y = next();
                let [gamma, beta, deviation, grad] = [next(), next(), next(), next()];
                B::invertible_norm_backward(y, gamma, beta, deviation, grad)
            }
            Self::Rms { epsilon } => B::rms_norm(next(), next(), epsilon),
            Self::RmsBackward { epsilon } => {
                B::rms_norm_backward(next(), next(), epsilon, next(), false).0
            }
        }]
    }
}

/// Layer normalisation, or root-mean-square normalisation if there is no beta, and the divisors of the rows. Returns `None`, like the
/// functions below, if [`Rows::of`] does.
fn norm<R: CubeRuntime>(
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
fn norm_backward<R: CubeRuntime>(
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

/// [`norm_backward`] from the output of a layer normalisation.
fn invertible_backward<R: CubeRuntime>(
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

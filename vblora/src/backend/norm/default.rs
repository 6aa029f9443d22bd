//! Normalisations in plain tensor operations.

use burn::tensor::{Tensor, TensorMetadata, backend::Backend, ops::FloatTensor};

use super::{NormGradients, NormOps};
use crate::backend::{float, primitive, rows};

pub(in crate::backend) fn row_norm<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    epsilon: f64,
) -> FloatTensor<B> {
    B::layer_norm(x, gamma, Some(beta), epsilon)
}

/// With `n = (x - mean) / std` and `g = grad gamma`: `dx = (g - mean(g) - n mean(g n)) / std`, `dgamma = sum(grad n)`, `dbeta = sum(grad)`.
pub(in crate::backend) fn row_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    epsilon: f64,
    grad: FloatTensor<B>,
    affine: bool,
) -> NormGradients<B> {
    let shape = x.shape();
    let (x, grad) = (rows::<B>(x), rows::<B>(grad));
    let centred = x.clone() - x.mean_dim(1);
    let variance = centred.clone().square().mean_dim(1);
    // The code divides because ndarray's `recip` is the processor's estimate: off by 6e-5 with AVX-512, by 4e-4 without.
    let deviation = variance.add_scalar(epsilon).sqrt();
    let normal = centred / deviation.clone();
    let affine = affine.then(|| {
        let d_gamma = (grad.clone() * normal.clone()).sum_dim(0);
        [d_gamma, grad.clone().sum_dim(0)].map(|sum| primitive(sum.squeeze_dim::<1>(0)))
    });
    let g = grad * float::<B, 1>(gamma).unsqueeze::<2>();
    let dx = through_norm(normal, g, deviation);
    (B::float_reshape(primitive(dx), shape), affine)
}

pub(in crate::backend) fn norm_and_deviation<B: NormOps>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    epsilon: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let deviation = row_deviation::<B>(x.clone(), epsilon);
    (B::row_norm(x, gamma, beta, epsilon), deviation)
}

pub(in crate::backend) fn sum_norm_and_deviation<B: NormOps>(
    x: FloatTensor<B>,
    residual: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    epsilon: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    B::norm_and_deviation(B::float_add(x, residual), gamma, beta, epsilon)
}

/// `sqrt(var + epsilon)` of each row.
pub(in crate::backend) fn row_deviation<B: Backend>(
    x: FloatTensor<B>,
    epsilon: f64,
) -> FloatTensor<B> {
    let x = rows::<B>(x);
    let [n, _] = x.dims();
    let mean = x.clone().mean_dim(1);
    let variance = (x - mean).square().mean_dim(1);
    primitive(variance.add_scalar(epsilon).sqrt().reshape([n]))
}

/// With `n = (x - mean) / std`, which is `(y - beta) / gamma`, as in [`row_norm_backward`].
pub(in crate::backend) fn invertible_norm_backward<B: Backend>(
    y: FloatTensor<B>,
    weights: [FloatTensor<B>; 2],
    deviation: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let shape = y.shape();
    let [gamma, beta] = weights.map(|x| float::<B, 1>(x).unsqueeze::<2>());
    let normal = (rows::<B>(y) - beta) / gamma.clone();
    let deviation = float::<B, 1>(deviation).unsqueeze_dim(1);
    let dx = through_norm(normal, rows::<B>(grad) * gamma, deviation);
    B::float_reshape(primitive(dx), shape)
}

/// `(g - mean(g) - n mean(g n)) / std` per row.
fn through_norm<B: Backend>(
    normal: Tensor<B, 2>,
    g: Tensor<B, 2>,
    deviation: Tensor<B, 2>,
) -> Tensor<B, 2> {
    let mean = g.clone().mean_dim(1);
    let along = (g.clone() * normal.clone()).mean_dim(1);
    (g - mean - normal * along) / deviation
}

pub(in crate::backend) fn rms_norm<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    epsilon: f64,
) -> FloatTensor<B> {
    let shape = x.shape();
    let x = rows::<B>(x);
    let normal = x.clone() / root_mean_square(x, epsilon);
    let y = normal * float::<B, 1>(gamma).unsqueeze::<2>();
    B::float_reshape(primitive(y), shape)
}

fn root_mean_square<B: Backend>(x: Tensor<B, 2>, epsilon: f64) -> Tensor<B, 2> {
    x.square().mean_dim(1).add_scalar(epsilon).sqrt()
}

/// With `n = x / rms` and `g = grad gamma`: `dx = (g - n mean(g n)) / rms`, `dgamma = sum(grad n)`.
pub(in crate::backend) fn rms_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    epsilon: f64,
    grad: FloatTensor<B>,
    affine: bool,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let shape = x.shape();
    let (x, grad) = (rows::<B>(x), rows::<B>(grad));
    let rms = root_mean_square(x.clone(), epsilon);
    let normal = x / rms.clone();
    let affine = affine.then(|| {
        let sum = (grad.clone() * normal.clone()).sum_dim(0);
        primitive(sum.squeeze_dim::<1>(0))
    });
    let g = grad * float::<B, 1>(gamma).unsqueeze::<2>();
    let along = (g.clone() * normal.clone()).mean_dim(1);
    let dx = (g - normal * along) / rms;
    (B::float_reshape(primitive(dx), shape), affine)
}

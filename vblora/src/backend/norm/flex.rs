//! Normalisations on flex, one pass over the rows.

use burn::{
    backend::flex::Flex,
    tensor::{Shape, TensorMetadata, ops::FloatTensor},
};
use pulp::Arch;
use rayon::prelude::*;

use super::{NormGradients, NormOps, default};
use crate::backend::{
    flex::{each_row_with, in_place, is_f32, mapped, tensor, width},
    kernels::{over_rows, run_length, sum_of},
};

impl NormOps for Flex {
    fn row_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let d = width(&x);
        if !is_f32(&[&x, &gamma, &beta]) || d == 0 {
            return default::row_norm::<Self>(x, gamma, beta, epsilon);
        }
        let [gamma, beta] = [gamma, beta].map(|x| x.to_contiguous());
        let (gamma, beta) = (gamma.storage::<f32>(), beta.storage::<f32>());
        mapped(x, d, |from, to| {
            norm_row(from, gamma, beta, epsilon as f32, to);
        })
    }

    fn row_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
        affine: bool,
    ) -> NormGradients<Self> {
        let d = width(&x);
        // Trained normalisations are for pretraining and full fine-tuning only.
        if affine || !is_f32(&[&x, &gamma, &grad]) || d == 0 {
            return default::row_norm_backward::<Self>(x, gamma, epsilon, grad, affine);
        }
        let gamma = gamma.to_contiguous();
        let gamma = gamma.storage::<f32>();
        let grad = each_row_with(grad, &x, d, |grad, x| {
            norm_row_backward(x, gamma, epsilon as f32, grad);
        });
        (grad, None)
    }

    fn norm_and_deviation(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let d = width(&x);
        if !is_f32(&[&x]) || d == 0 {
            return default::norm_and_deviation::<Self>(x, gamma, beta, epsilon);
        }
        let x = x.to_contiguous();
        let mut found = vec![0.0; x.shape().num_elements() / d];
        deviations(x.storage(), d, epsilon as f32, &mut found);
        let rows = found.len();
        let deviation = tensor(found, Shape::new([rows]));
        (Self::row_norm(x, gamma, beta, epsilon), deviation)
    }

    fn invertible_norm_backward(
        y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        deviation: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let d = width(&y);
        if !is_f32(&[&y, &gamma, &beta, &deviation, &grad]) || d == 0 {
            return default::invertible_norm_backward::<Self>(y, [gamma, beta], deviation, grad);
        }
        let [y, gamma, beta, deviation] = [y, gamma, beta, deviation].map(|x| x.to_contiguous());
        let weights = [gamma.storage::<f32>(), beta.storage::<f32>()];
        let (y, deviation) = (y.storage::<f32>(), deviation.storage::<f32>());
        in_place(grad, |grad| {
            over_rows(grad, d, |start, run| {
                let rows = y[start..].chunks_exact(d).zip(&deviation[start / d..]);
                for (grad, (y, deviation)) in run.chunks_exact_mut(d).zip(rows) {
                    invertible_norm_row_backward(y, weights, *deviation, grad);
                }
            });
        })
    }

    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let d = width(&x);
        if !is_f32(&[&x, &gamma]) || d == 0 {
            return default::rms_norm::<Self>(x, gamma, epsilon);
        }
        let gamma = gamma.to_contiguous();
        let gamma = gamma.storage::<f32>();
        mapped(x, d, |from, to| rms_row(from, gamma, epsilon as f32, to))
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
        affine: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let d = width(&x);
        // Trained normalisations are for full fine-tuning only.
        if affine || !is_f32(&[&x, &gamma, &grad]) || d == 0 {
            return default::rms_norm_backward::<Self>(x, gamma, epsilon, grad, affine);
        }
        let gamma = gamma.to_contiguous();
        let gamma = gamma.storage::<f32>();
        let grad = each_row_with(grad, &x, d, |grad, x| {
            rms_row_backward(x, gamma, epsilon as f32, grad);
        });
        (grad, None)
    }
}

/// A row's mean, and `sqrt(var + epsilon)`.
#[inline(always)]
fn mean_and_deviation(x: &[f32], epsilon: f32) -> (f32, f32) {
    let n = x.len();
    let mean = sum_of(n, |i| x[i]) / n as f32;
    let variance = sum_of(n, |i| (x[i] - mean) * (x[i] - mean)) / n as f32;
    (mean, (variance + epsilon).sqrt())
}

/// A row's layer normalisation.
#[inline(always)]
fn norm_row(x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32, out: &mut [f32]) {
    let n = x.len();
    let (gamma, beta, out) = (&gamma[..n], &beta[..n], &mut out[..n]);
    let (mean, deviation) = mean_and_deviation(x, epsilon);
    let inverse = 1.0 / deviation;
    for i in 0..n {
        out[i] = (x[i] - mean) * inverse * gamma[i] + beta[i];
    }
}

/// The gradient of a row's normalisation to the row, in place of the output's.
#[inline(always)]
fn norm_row_backward(x: &[f32], gamma: &[f32], epsilon: f32, grad: &mut [f32]) {
    let n = x.len();
    let (gamma, grad) = (&gamma[..n], &mut grad[..n]);
    let (mean, deviation) = mean_and_deviation(x, epsilon);
    let inverse = 1.0 / deviation;
    let mean_grad = sum_of(n, |i| grad[i] * gamma[i]) / n as f32;
    let along = sum_of(n, |i| grad[i] * gamma[i] * (x[i] - mean)) * inverse / n as f32;
    for i in 0..n {
        let normal = (x[i] - mean) * inverse;
        grad[i] = (grad[i] * gamma[i] - mean_grad - normal * along) * inverse;
    }
}

/// The divisor in [`norm_row`] of each row of `x`, `[n, d]`.
fn deviations(x: &[f32], d: usize, epsilon: f32, out: &mut [f32]) {
    // One number a row is written, so the length of a run is counted in elements that are read.
    let rows = run_length(x.len(), d).max(d) / d;
    let arch = Arch::new();
    out.par_chunks_mut(rows)
        .zip(x.par_chunks(rows * d))
        .for_each(|(out, x)| {
            arch.dispatch(|| {
                for (out, x) in out.iter_mut().zip(x.chunks_exact(d)) {
                    (_, *out) = mean_and_deviation(x, epsilon);
                }
            });
        });
}

/// [`norm_row_backward`] from the normalisation's output and the row's divisor.
#[inline(always)]
fn invertible_norm_row_backward(y: &[f32], weights: [&[f32]; 2], deviation: f32, grad: &mut [f32]) {
    let n = y.len();
    let ([gamma, beta], grad) = (weights.map(|w| &w[..n]), &mut grad[..n]);
    let inverse = 1.0 / deviation;
    let mean_grad = sum_of(n, |i| grad[i] * gamma[i]) / n as f32;
    // grad gamma (y - beta) / gamma
    let along = sum_of(n, |i| grad[i] * (y[i] - beta[i])) / n as f32;
    for i in 0..n {
        let normal = (y[i] - beta[i]) / gamma[i];
        grad[i] = (grad[i] * gamma[i] - mean_grad - normal * along) * inverse;
    }
}

/// A row's normalisation by its root mean square.
#[inline(always)]
fn rms_row(x: &[f32], gamma: &[f32], epsilon: f32, out: &mut [f32]) {
    let n = x.len();
    let (gamma, out) = (&gamma[..n], &mut out[..n]);
    let inverse = 1.0 / (sum_of(n, |i| x[i] * x[i]) / n as f32 + epsilon).sqrt();
    for i in 0..n {
        out[i] = x[i] * inverse * gamma[i];
    }
}

/// The gradient of [`rms_row`] to the row, in place of the output's.
#[inline(always)]
fn rms_row_backward(x: &[f32], gamma: &[f32], epsilon: f32, grad: &mut [f32]) {
    let n = x.len();
    let (gamma, grad) = (&gamma[..n], &mut grad[..n]);
    let inverse = 1.0 / (sum_of(n, |i| x[i] * x[i]) / n as f32 + epsilon).sqrt();
    let along = sum_of(n, |i| grad[i] * gamma[i] * x[i]) * inverse / n as f32;
    for i in 0..n {
        grad[i] = (grad[i] * gamma[i] - x[i] * inverse * along) * inverse;
    }
}

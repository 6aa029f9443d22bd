//! Normalisations, one pass over the rows.

use pulp::Arch;
use rayon::prelude::*;

use crate::{each_row_with, over_rows, run_length, sum_of};

/// Layer normalisation of each row.
///
/// # Shapes
/// - x, out: `[n, d]`; gamma, beta: `[d]`
pub fn layer_norm(x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32, out: &mut [f32]) {
    each_row_with(out, x, gamma.len(), |out, x| {
        norm_row(x, gamma, beta, epsilon, out);
    });
}

/// The gradient of [`layer_norm`] to x, in place of the output's.
pub fn layer_norm_backward(x: &[f32], gamma: &[f32], epsilon: f32, grad: &mut [f32]) {
    each_row_with(grad, x, gamma.len(), |grad, x| {
        norm_row_backward(x, gamma, epsilon, grad);
    });
}

/// [`layer_norm_backward`] from the normalisation's output and the rows' divisors.
///
/// # Shapes
/// - y, grad: `[n, d]`; gamma, beta: `[d]`; deviation: `[n]`
pub fn invertible_norm_backward(
    y: &[f32],
    [gamma, beta]: [&[f32]; 2],
    deviation: &[f32],
    grad: &mut [f32],
) {
    let d = gamma.len();
    over_rows(grad, d, |start, run| {
        let rows = y[start..].chunks_exact(d).zip(&deviation[start / d..]);
        for (grad, (y, deviation)) in run.chunks_exact_mut(d).zip(rows) {
            invertible_norm_row_backward(y, [gamma, beta], *deviation, grad);
        }
    });
}

/// Normalisation of each row by its root mean square.
///
/// # Shapes
/// - x, out: `[n, d]`; gamma: `[d]`
pub fn rms_norm(x: &[f32], gamma: &[f32], epsilon: f32, out: &mut [f32]) {
    each_row_with(out, x, gamma.len(), |out, x| {
        rms_row(x, gamma, epsilon, out);
    });
}

/// The gradient of [`rms_norm`] to x, in place of the output's.
pub fn rms_norm_backward(x: &[f32], gamma: &[f32], epsilon: f32, grad: &mut [f32]) {
    each_row_with(grad, x, gamma.len(), |grad, x| {
        rms_row_backward(x, gamma, epsilon, grad);
    });
}

/// The divisor of each row of `x`, `[n, d]`, in its normalisation: `sqrt(var + epsilon)`.
pub fn deviations(x: &[f32], d: usize, epsilon: f32, out: &mut [f32]) {
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

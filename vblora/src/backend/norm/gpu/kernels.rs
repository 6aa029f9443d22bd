//! The kernels of normalisations. CUDA has functions named `norm` and the like, so no kernel may have such a name.
#![allow(missing_docs, reason = "the macros make launch functions of these")]

use cubecl::prelude::*;

use crate::backend::gpu::rows::row;

/// A value of the row that is normalised.
#[cube]
fn value(x: &Array<f32>, residual: &Array<f32>, at: usize, #[comptime] is_sum: bool) -> f32 {
    let mut value = x[at];
    if is_sum {
        value += residual[at];
    }
    value
}

/// A row's mean, or 0 if it is not subtracted, and `sqrt(var + epsilon)`.
#[cube]
fn moments(
    x: &Array<f32>,
    residual: &Array<f32>,
    start: usize,
    d: usize,
    epsilon: f32,
    #[comptime] is_centred: bool,
    #[comptime] is_sum: bool,
) -> (f32, f32) {
    let n = f32::cast_from(d);
    let mut mean = 0.0f32;
    if is_centred {
        let mut sum = 0.0f32;
        let mut j = UNIT_POS_X as usize;
        while j < d {
            sum += value(x, residual, start + j, is_sum);
            j += CUBE_DIM_X as usize;
        }
        mean = plane_sum(sum) / n;
    }
    let mut squares = 0.0f32;
    let mut j = UNIT_POS_X as usize;
    while j < d {
        let centred = value(x, residual, start + j, is_sum) - mean;
        squares += centred * centred;
        j += CUBE_DIM_X as usize;
    }
    (mean, (plane_sum(squares) / n + epsilon).sqrt())
}

/// The norm of x, or of the sum of x and the residual.
#[cube(launch)]
pub(super) fn row_norm(
    x: &Array<f32>,
    residual: &Array<f32>,
    gamma: &Array<f32>,
    beta: &Array<f32>,
    out: &mut Array<f32>,
    deviations: &mut Array<f32>,
    rows: usize,
    d: usize,
    epsilon: f32,
    #[comptime] is_centred: bool,
    #[comptime] is_sum: bool,
) {
    let row = row();
    if row >= rows {
        terminate!();
    }
    let start = row * d;
    let (mean, deviation) = moments(x, residual, start, d, epsilon, is_centred, is_sum);
    if UNIT_POS_X == 0 {
        deviations[row] = deviation;
    }
    let mut j = UNIT_POS_X as usize;
    while j < d {
        let normal = (value(x, residual, start + j, is_sum) - mean) / deviation;
        let mut y = normal * gamma[j];
        if is_centred {
            y += beta[j];
        }
        out[start + j] = y;
        j += CUBE_DIM_X as usize;
    }
}

/// With `n = (x - mean) / std` and `g = grad gamma`: `(g - mean(g) - n mean(g n)) / std`. The means are left out if `is_centred` is false.
#[cube(launch)]
pub(super) fn row_norm_backward(
    x: &Array<f32>,
    gamma: &Array<f32>,
    grad: &Array<f32>,
    out: &mut Array<f32>,
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
    let (mean, deviation) = moments(x, x, start, d, epsilon, is_centred, false);
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

/// [`row_norm_backward`] with `n = (y - beta) / gamma`.
#[cube(launch)]
pub(super) fn invertible_norm_backward(
    y: &Array<f32>,
    gamma: &Array<f32>,
    beta: &Array<f32>,
    deviations: &Array<f32>,
    grad: &Array<f32>,
    out: &mut Array<f32>,
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

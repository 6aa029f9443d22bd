//! The kernels of activations.
#![allow(missing_docs, reason = "the macros make launch functions of these")]

use cubecl::prelude::*;

use crate::backend::gpu::rows::row;

/// `x Phi(x)`, or `x` times the share of tanh.
#[cube]
pub(in crate::backend) fn gelu(x: f32, #[comptime] is_tanh: bool) -> f32 {
    let share = if is_tanh {
        tanh_part(x)
    } else {
        Erf::erf(x * comptime!(std::f32::consts::FRAC_1_SQRT_2))
    };
    0.5f32 * x * (1.0f32 + share)
}

/// The derivative of [`gelu`].
#[cube]
fn gelu_slope(x: f32, #[comptime] is_tanh: bool) -> f32 {
    if is_tanh {
        let tanh = tanh_part(x);
        let inner = 0.797_884_6f32 * (1.0f32 + 0.134_145f32 * x * x);
        0.5f32 * (1.0f32 + tanh + x * (1.0f32 - tanh * tanh) * inner)
    } else {
        let erf = Erf::erf(x * comptime!(std::f32::consts::FRAC_1_SQRT_2));
        let density = 0.398_942_3f32 * (-0.5f32 * x * x).exp();
        0.5f32 * (1.0f32 + erf) + x * density
    }
}

/// `tanh(sqrt(2 / pi) (x + 0.044715 x^3))`
#[cube]
fn tanh_part(x: f32) -> f32 {
    tanh(0.797_884_6f32 * x * (1.0f32 + 0.044_715f32 * x * x))
}

/// tanh, which is 1 to rounding beyond 10. There some drivers divide an infinite exponential by another one.
#[cube]
fn tanh(x: f32) -> f32 {
    let mut value = x.tanh();
    if x > 10.0f32 {
        value = 1.0f32;
    }
    if x < -10.0f32 {
        value = -1.0f32;
    }
    value
}

/// `cap tanh(score / cap)`, if there is a cap.
#[cube]
pub(in crate::backend) fn capped(score: f32, cap: f32, #[comptime] has_cap: bool) -> f32 {
    if has_cap {
        tanh(score / cap) * cap
    } else {
        score
    }
}

#[cube]
fn sigmoid(x: f32) -> f32 {
    1.0f32 / (1.0f32 + (-x).exp())
}

#[cube(launch)]
pub(super) fn gelu_of_each(x: &Array<f32>, out: &mut Array<f32>, #[comptime] is_tanh: bool) {
    let at = ABSOLUTE_POS;
    if at >= out.len() {
        terminate!();
    }
    out[at] = gelu(x[at], is_tanh);
}

#[cube(launch)]
pub(super) fn gelu_backward_of_each(
    x: &Array<f32>,
    grad: &Array<f32>,
    out: &mut Array<f32>,
    #[comptime] is_tanh: bool,
) {
    let at = ABSOLUTE_POS;
    if at >= out.len() {
        terminate!();
    }
    out[at] = grad[at] * gelu_slope(x[at], is_tanh);
}

/// The gate's function is GELU by tanh, or `x sigmoid(x)`.
#[cube(launch)]
pub(super) fn gated_of_each(
    gate: &Array<f32>,
    up: &Array<f32>,
    out: &mut Array<f32>,
    #[comptime] is_gelu: bool,
) {
    let at = ABSOLUTE_POS;
    if at >= out.len() {
        terminate!();
    }
    let x = gate[at];
    let open = if is_gelu {
        gelu(x, true)
    } else {
        x * sigmoid(x)
    };
    out[at] = open * up[at];
}

#[cube(launch)]
pub(super) fn gated_backward_of_each(
    gate: &Array<f32>,
    up: &Array<f32>,
    grad: &Array<f32>,
    d_gate: &mut Array<f32>,
    d_up: &mut Array<f32>,
    #[comptime] is_gelu: bool,
) {
    let at = ABSOLUTE_POS;
    if at >= d_gate.len() {
        terminate!();
    }
    let x = gate[at];
    if is_gelu {
        d_gate[at] = grad[at] * up[at] * gelu_slope(x, true);
        d_up[at] = grad[at] * gelu(x, true);
    } else {
        let sigmoid = sigmoid(x);
        let slope = sigmoid * (1.0f32 + x * (1.0f32 - sigmoid));
        d_gate[at] = grad[at] * up[at] * slope;
        d_up[at] = grad[at] * x * sigmoid;
    }
}

#[cube(launch)]
pub(super) fn row_softmax(x: &Array<f32>, out: &mut Array<f32>, rows: usize, d: usize) {
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
pub(super) fn row_softmax_backward(
    y: &Array<f32>,
    grad: &Array<f32>,
    out: &mut Array<f32>,
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

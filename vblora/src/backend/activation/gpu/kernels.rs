//! The kernels of activations.
#![allow(missing_docs, reason = "the macros make launch functions of these")]

use cubecl::prelude::*;

use crate::backend::gpu::rows::{plane_total, row, zeros};

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
pub(super) fn gelu_of_each<V: Size>(
    x: &Array<Vector<f32, V>>,
    out: &mut Array<Vector<f32, V>>,
    #[comptime] is_tanh: bool,
    #[define(V)] _piece: usize,
) {
    let at = ABSOLUTE_POS;
    if at >= out.len() {
        terminate!();
    }
    let x = x[at];
    let mut y = Vector::<f32, V>::empty();
    #[unroll]
    for i in 0..V::value() {
        y[i] = gelu(x[i], is_tanh);
    }
    out[at] = y;
}

#[cube(launch)]
pub(super) fn gelu_backward_of_each<V: Size>(
    x: &Array<Vector<f32, V>>,
    grad: &Array<Vector<f32, V>>,
    out: &mut Array<Vector<f32, V>>,
    #[comptime] is_tanh: bool,
    #[define(V)] _piece: usize,
) {
    let at = ABSOLUTE_POS;
    if at >= out.len() {
        terminate!();
    }
    let x = x[at];
    let mut slope = Vector::<f32, V>::empty();
    #[unroll]
    for i in 0..V::value() {
        slope[i] = gelu_slope(x[i], is_tanh);
    }
    out[at] = grad[at] * slope;
}

/// The gate's function is GELU by tanh, or `x sigmoid(x)`.
#[cube(launch)]
pub(super) fn gated_of_each<V: Size>(
    gate: &Array<Vector<f32, V>>,
    up: &Array<Vector<f32, V>>,
    out: &mut Array<Vector<f32, V>>,
    #[comptime] is_gelu: bool,
    #[define(V)] _piece: usize,
) {
    let at = ABSOLUTE_POS;
    if at >= out.len() {
        terminate!();
    }
    let x = gate[at];
    let mut open = Vector::<f32, V>::empty();
    #[unroll]
    for i in 0..V::value() {
        open[i] = if is_gelu {
            gelu(x[i], true)
        } else {
            x[i] * sigmoid(x[i])
        };
    }
    out[at] = open * up[at];
}

#[cube(launch)]
pub(super) fn gated_backward_of_each<V: Size>(
    gate: &Array<Vector<f32, V>>,
    up: &Array<Vector<f32, V>>,
    grad: &Array<Vector<f32, V>>,
    d_gate: &mut Array<Vector<f32, V>>,
    d_up: &mut Array<Vector<f32, V>>,
    #[comptime] is_gelu: bool,
    #[define(V)] _piece: usize,
) {
    let at = ABSOLUTE_POS;
    if at >= d_gate.len() {
        terminate!();
    }
    let (x, up, grad) = (gate[at], up[at], grad[at]);
    let mut open = Vector::<f32, V>::empty();
    let mut slope = Vector::<f32, V>::empty();
    #[unroll]
    for i in 0..V::value() {
        let x = x[i];
        if is_gelu {
            open[i] = gelu(x, true);
            slope[i] = gelu_slope(x, true);
        } else {
            let sigmoid = sigmoid(x);
            open[i] = x * sigmoid;
            slope[i] = sigmoid * (1.0f32 + x * (1.0f32 - sigmoid));
        }
    }
    d_gate[at] = grad * up * slope;
    d_up[at] = grad * open;
}

/// A row's maximum, and the sum of `exp(x - maximum)`.
#[cube]
fn sum_of_exponentials<V: Size>(
    x: &Array<Vector<f32, V>>,
    start: usize,
    pieces: usize,
    #[comptime] ahead: usize,
) -> (f32, f32) {
    let plane = CUBE_DIM_X as usize;
    // The maximum starts at values of the row, because WGSL has no literal for infinity.
    let mut largest = x[start];
    let mut j = UNIT_POS_X as usize;
    while j < pieces {
        #[unroll]
        for i in 0..ahead {
            largest = largest.max(x[start + (j + i * plane).min(pieces - 1)]);
        }
        j += ahead * plane;
    }
    let mut max = largest[0];
    #[unroll]
    for i in 1..V::value() {
        max = max.max(largest[i]);
    }
    let max = plane_max(max);
    let mut sum = zeros::<V>();
    j = UNIT_POS_X as usize;
    while j < pieces {
        #[unroll]
        for i in 0..ahead {
            let at = j + i * plane;
            let value = (x[start + at.min(pieces - 1)] - Vector::cast_from(max)).exp();
            sum += select(at < pieces, value, zeros::<V>());
        }
        j += ahead * plane;
    }
    (max, plane_total(sum))
}

/// Softmax, or its logarithm. The exponentials are computed twice, because that takes less time than to write and read them.
#[cube(launch)]
pub(super) fn row_softmax<V: Size>(
    x: &Array<Vector<f32, V>>,
    out: &mut Array<Vector<f32, V>>,
    rows: usize,
    pieces: usize,
    #[comptime] is_log: bool,
    #[comptime] ahead: usize,
    #[define(V)] _piece: usize,
) {
    let row = row();
    if row >= rows {
        terminate!();
    }
    let start = row * pieces;
    let (max, sum) = sum_of_exponentials(x, start, pieces, ahead);
    let log = Vector::cast_from(sum.ln());
    let (max, inverse) = (Vector::cast_from(max), Vector::cast_from(1.0f32 / sum));
    let plane = CUBE_DIM_X as usize;
    let mut j = UNIT_POS_X as usize;
    while j < pieces {
        #[unroll]
        for i in 0..ahead {
            let at = j + i * plane;
            if at < pieces {
                let value = x[start + at] - max;
                if is_log {
                    out[start + at] = value - log;
                } else {
                    out[start + at] = value.exp() * inverse;
                }
            }
        }
        j += ahead * plane;
    }
}

/// `y (g - sum(g y))` given the output y, or `g - exp(y) sum(g)` given that of the logarithm. `out` may be `grad`.
#[cube(launch)]
pub(super) fn row_softmax_backward<V: Size>(
    y: &Array<Vector<f32, V>>,
    grad: &Array<Vector<f32, V>>,
    out: &mut Array<Vector<f32, V>>,
    rows: usize,
    pieces: usize,
    #[comptime] is_log: bool,
    #[comptime] ahead: usize,
    #[define(V)] _piece: usize,
) {
    let row = row();
    if row >= rows {
        terminate!();
    }
    let start = row * pieces;
    let plane = CUBE_DIM_X as usize;
    let mut along = zeros::<V>();
    let mut j = UNIT_POS_X as usize;
    while j < pieces {
        #[unroll]
        for i in 0..ahead {
            let at = j + i * plane;
            let from = start + at.min(pieces - 1);
            let mut value = grad[from];
            if !is_log {
                value *= y[from];
            }
            along += select(at < pieces, value, zeros::<V>());
        }
        j += ahead * plane;
    }
    let along = Vector::cast_from(plane_total(along));
    j = UNIT_POS_X as usize;
    while j < pieces {
        #[unroll]
        for i in 0..ahead {
            let at = j + i * plane;
            if at < pieces {
                let (y, grad) = (y[start + at], grad[start + at]);
                if is_log {
                    out[start + at] = grad - y.exp() * along;
                } else {
                    out[start + at] = y * (grad - along);
                }
            }
        }
        j += ahead * plane;
    }
}

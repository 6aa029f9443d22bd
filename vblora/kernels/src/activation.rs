//! Activations, element by element and row by row, in place.

use crate::{each, each_pair_with, each_row_with, each_with, erf, exp, largest, over_rows, sum_of};

/// A function of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// GELU, `x Phi(x)`.
    Gelu,
    /// GELU's approximation by tanh.
    TanhGelu,
    /// `x / (1 + e^-x)`
    Silu,
}

impl Curve {
    /// Each value becomes `f(value)`.
    pub fn apply(self, values: &mut [f32]) {
        match self {
            Self::Gelu => each(values, gelu),
            Self::TanhGelu => each(values, |x| tanh_gelu_both(x)[0]),
            Self::Silu => each(values, |x| silu_both(x)[0]),
        }
    }

    /// `values <- values f(x)`
    pub fn gate(self, x: &[f32], values: &mut [f32]) {
        match self {
            Self::Gelu => each_with(values, x, |value, x| value * gelu_both(x)[0]),
            Self::TanhGelu => each_with(values, x, |value, x| value * tanh_gelu_both(x)[0]),
            Self::Silu => each_with(values, x, |value, x| value * silu_both(x)[0]),
        }
    }

    /// `grad <- grad f'(x)`
    pub fn backward(self, x: &[f32], grad: &mut [f32]) {
        match self {
            Self::Gelu => each_with(grad, x, |grad, x| grad * gelu_both(x)[1]),
            Self::TanhGelu => each_with(grad, x, |grad, x| grad * tanh_gelu_both(x)[1]),
            Self::Silu => each_with(grad, x, |grad, x| grad * silu_both(x)[1]),
        }
    }

    /// The gradients of `f(gate) up`: that to gate is written, and that to up takes the place of `grad`. All have one length.
    pub fn gate_backward(self, gate: &[f32], up: &[f32], grad: &mut [f32], d_gate: &mut [f32]) {
        match self {
            Self::Gelu => gate_backward(gate, up, grad, d_gate, gelu_both),
            Self::TanhGelu => gate_backward(gate, up, grad, d_gate, tanh_gelu_both),
            Self::Silu => gate_backward(gate, up, grad, d_gate, silu_both),
        }
    }

    /// `f(values) gate` of rows that hold both side by side.
    ///
    /// # Shapes
    /// - both: `[rows, 2 d]`, out: `[rows, d]`
    pub fn gate_halves(self, both: &[f32], d: usize, out: &mut [f32]) {
        match self {
            Self::Gelu => halves(both, d, out, gelu),
            Self::TanhGelu => halves(both, d, out, |x| tanh_gelu_both(x)[0]),
            Self::Silu => halves(both, d, out, |x| silu_both(x)[0]),
        }
    }

    /// The gradients of [`gate_halves`](Self::gate_halves) to both, in their place.
    ///
    /// # Shapes
    /// - both: `[rows, 2 d]`, grad: `[rows, d]`
    pub fn gate_halves_backward(self, grad: &[f32], d: usize, both: &mut [f32]) {
        match self {
            Self::Gelu => halves_backward(both, d, grad, gelu_both),
            Self::TanhGelu => halves_backward(both, d, grad, tanh_gelu_both),
            Self::Silu => halves_backward(both, d, grad, silu_both),
        }
    }
}

fn gate_backward(
    gate: &[f32],
    up: &[f32],
    grad: &mut [f32],
    d_gate: &mut [f32],
    function: impl Fn(f32) -> [f32; 2] + Sync,
) {
    each_pair_with(grad, d_gate, [gate, up], |grad, _, [gate, up]| {
        let [open, slope] = function(gate);
        [grad * open, grad * up * slope]
    });
}

/// The softmax of each row of `d` values.
pub fn softmax(values: &mut [f32], d: usize) {
    over_rows(values, d, |_, run| {
        run.chunks_exact_mut(d).for_each(softmax_row);
    });
}

/// The gradient through [`softmax`], from its output `y`.
pub fn softmax_backward(y: &[f32], d: usize, grad: &mut [f32]) {
    each_row_with(grad, y, d, |grad, y| softmax_row_backward(y, grad));
}

fn halves(both: &[f32], d: usize, out: &mut [f32], function: impl Fn(f32) -> f32 + Sync) {
    over_rows(out, d, |start, run| {
        let rows = both[2 * start..].chunks_exact(2 * d);
        for (from, to) in rows.zip(run.chunks_exact_mut(d)) {
            let (values, gate) = from.split_at(d);
            for ((to, value), gate) in to.iter_mut().zip(values).zip(gate) {
                *to = function(*value) * gate;
            }
        }
    });
}

fn halves_backward(
    both: &mut [f32],
    d: usize,
    grad: &[f32],
    function: impl Fn(f32) -> [f32; 2] + Sync,
) {
    over_rows(both, 2 * d, |start, run| {
        let rows = run.chunks_exact_mut(2 * d);
        for (both, grad) in rows.zip(grad[start / 2..].chunks_exact(d)) {
            let (values, gate) = both.split_at_mut(d);
            for ((value, gate), grad) in values.iter_mut().zip(gate).zip(grad) {
                let [open, slope] = function(*value);
                *value = grad * *gate * slope;
                *gate = grad * open;
            }
        }
    });
}

/// `1 / sqrt(2 pi)`
const INV_SQRT_TAU: f32 = 0.398_942_3;

/// `x Phi(x)`
#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// GELU and its slope, `Phi(x) + x phi(x)`.
#[inline(always)]
pub(crate) fn gelu_both(x: f32) -> [f32; 2] {
    let cumulative = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    let density = exp(-0.5 * x * x) * INV_SQRT_TAU;
    [x * cumulative, cumulative + x * density]
}

/// `sqrt(2 / pi)` and the weight of the cube in GELU's approximation by tanh.
const TANH_GELU: [f32; 2] = [0.797_884_6, 0.044_715];

/// `1 / (1 + e^-x)`
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x sigmoid(x)` and its slope.
#[inline(always)]
pub(crate) fn silu_both(x: f32) -> [f32; 2] {
    let open = sigmoid(x);
    [x * open, open * (1.0 + x * (1.0 - open))]
}

/// GELU by tanh, which is `x sigmoid(2 u)` with tanh's argument u, and its slope.
#[inline(always)]
pub(crate) fn tanh_gelu_both(x: f32) -> [f32; 2] {
    let [scale, cube] = TANH_GELU;
    let square = x * x;
    let open = sigmoid(2.0 * scale * x * (1.0 + cube * square));
    let steep = 2.0 * scale * (1.0 + 3.0 * cube * square);
    [x * open, open * (1.0 + x * (1.0 - open) * steep)]
}

/// Softmax of one row in place.
#[inline(always)]
fn softmax_row(row: &mut [f32]) {
    let max = largest(row);
    for value in row.iter_mut() {
        *value = exp(*value - max);
    }
    let scale = 1.0 / sum_of(row.len(), |i| row[i]);
    for value in row {
        *value *= scale;
    }
}

/// `grad <- y (grad - sum(grad y))`
#[inline(always)]
pub(crate) fn softmax_row_backward(y: &[f32], grad: &mut [f32]) {
    let grad = &mut grad[..y.len()];
    let along = sum_of(y.len(), |i| y[i] * grad[i]);
    for (g, &y) in grad.iter_mut().zip(y) {
        *g = y * (*g - along);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_stays_none() {
        assert!(gelu(f32::NAN).is_nan() && gelu_both(f32::NAN)[1].is_nan());
        assert_eq!(gelu(f32::INFINITY), f32::INFINITY);
        let mut row = [1.0, f32::NAN, 2.0];
        softmax_row(&mut row);
        assert!(row.iter().all(|v| v.is_nan()));
        let mut row = [1.0, f32::NEG_INFINITY, 1.0];
        softmax_row(&mut row);
        assert_eq!(row, [0.5, 0.0, 0.5]);
    }
}

//! Activations on flex, and their formulas for one element or one row, which other kernels use too.

use burn::{
    backend::flex::{Flex, FlexTensor},
    tensor::{Shape, TensorMetadata, ops::FloatTensor},
};

use super::{ActivationOps, Gate, GeluForm, default};
use crate::backend::{
    flex::{each, each_row_with, each_with, in_place, is_f32, tensor, width},
    kernels::{erf, exp, largest, over_rows, sum_of, zeros},
};

impl ActivationOps for Flex {
    fn erf_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if !is_f32(&[&x]) {
            return default::erf_gelu::<Self>(x);
        }
        each(x, gelu)
    }

    fn erf_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        if !is_f32(&[&x, &grad]) {
            return default::erf_gelu_backward::<Self>(x, grad);
        }
        each_with(grad, &x, |grad, x| grad * gelu_slope(x))
    }

    fn tanh_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if !is_f32(&[&x]) {
            return default::tanh_gelu::<Self>(x);
        }
        each(x, |x| tanh_gelu_both(x)[0])
    }

    fn tanh_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        if !is_f32(&[&x, &grad]) {
            return default::tanh_gelu_backward::<Self>(x, grad);
        }
        each_with(grad, &x, |grad, x| grad * tanh_gelu_both(x)[1])
    }

    fn row_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let d = width(&x);
        if !is_f32(&[&x]) || d == 0 {
            return default::row_softmax::<Self>(x);
        }
        in_place(x, |values| {
            over_rows(values, d, |_, run| {
                run.chunks_exact_mut(d).for_each(softmax_row);
            });
        })
    }

    fn row_softmax_backward(
        output: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let d = width(&output);
        if !is_f32(&[&output, &grad]) || d == 0 {
            return default::row_softmax_backward::<Self>(output, grad);
        }
        each_row_with(grad, &output, d, |grad, y| {
            softmax_row_backward(y, grad);
        })
    }

    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, form: Gate) -> FloatTensor<Self> {
        if !is_f32(&[&gate, &up]) {
            return default::gated::<Self>(gate, up, form);
        }
        match form {
            Gate::Silu => each_with(up, &gate, |up, gate| up * silu_both(gate)[0]),
            Gate::GeluTanh => each_with(up, &gate, |up, gate| up * tanh_gelu_both(gate)[0]),
        }
    }

    fn gated_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        form: Gate,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2] {
        if !is_f32(&[&gate, &up, &grad]) {
            return default::gated_backward::<Self>(gate, up, form, grad);
        }
        match form {
            Gate::Silu => gradients(&gate, &up, grad, silu_both),
            Gate::GeluTanh => gradients(&gate, &up, grad, tanh_gelu_both),
        }
    }

    fn gated_halves(both: FloatTensor<Self>, form: GeluForm) -> FloatTensor<Self> {
        if !is_f32(&[&both]) || width(&both) == 0 {
            return default::gated_halves::<Self>(both, form);
        }
        match form {
            GeluForm::Erf => halves(&both, gelu),
            GeluForm::Tanh => halves(&both, |x| tanh_gelu_both(x)[0]),
        }
    }

    fn gated_halves_backward(
        both: FloatTensor<Self>,
        form: GeluForm,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if !is_f32(&[&both, &grad]) || width(&grad) == 0 {
            return default::gated_halves_backward::<Self>(both, form, grad);
        }
        match form {
            GeluForm::Erf => halves_backward(both, &grad, gelu_both),
            GeluForm::Tanh => halves_backward(both, &grad, tanh_gelu_both),
        }
    }
}

/// `f(values) gate` of rows that hold both side by side.
fn halves(both: &FlexTensor, function: impl Fn(f32) -> f32 + Sync) -> FlexTensor {
    let both = both.to_contiguous();
    let d = width(&both) / 2;
    let from = both.storage::<f32>();
    let mut out = zeros(from.len() / 2);
    over_rows(&mut out, d, |start, run| {
        for (from, to) in from[2 * start..]
            .chunks_exact(2 * d)
            .zip(run.chunks_exact_mut(d))
        {
            let (values, gate) = from.split_at(d);
            for ((to, value), gate) in to.iter_mut().zip(values).zip(gate) {
                *to = function(*value) * gate;
            }
        }
    });
    let mut dims: Vec<usize> = both.shape().iter().copied().collect();
    if let Some(last) = dims.last_mut() {
        *last = d;
    }
    tensor(out, Shape::from(dims))
}

/// The gradients of [`halves`] to both, in their place.
fn halves_backward(
    both: FlexTensor,
    grad: &FlexTensor,
    function: impl Fn(f32) -> [f32; 2] + Sync,
) -> FlexTensor {
    let (d, grad) = (width(grad), grad.to_contiguous());
    let grad = grad.storage::<f32>();
    in_place(both, |both| {
        over_rows(both, 2 * d, |start, run| {
            for (both, grad) in run
                .chunks_exact_mut(2 * d)
                .zip(grad[start / 2..].chunks_exact(d))
            {
                let (values, gate) = both.split_at_mut(d);
                for ((value, gate), grad) in values.iter_mut().zip(gate).zip(grad) {
                    let [open, slope] = function(*value);
                    *value = grad * *gate * slope;
                    *gate = grad * open;
                }
            }
        });
    })
}

/// `grad up f'(gate)` and `grad f(gate)`.
fn gradients(
    gate: &FlexTensor,
    up: &FlexTensor,
    grad: FlexTensor,
    both: impl Fn(f32) -> [f32; 2] + Sync,
) -> [FlexTensor; 2] {
    let d_gate = each_with(grad.clone(), up, |grad, up| grad * up);
    [
        each_with(d_gate, gate, |grad, gate| grad * both(gate)[1]),
        each_with(grad, gate, |grad, gate| grad * both(gate)[0]),
    ]
}

/// `1 / sqrt(2 pi)`
const INV_SQRT_TAU: f32 = 0.398_942_3;

/// `x Phi(x)`
#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `Phi(x) + x phi(x)`
#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    gelu_both(x)[1]
}

/// GELU and its slope.
#[inline(always)]
pub(in crate::backend) fn gelu_both(x: f32) -> [f32; 2] {
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
fn silu_both(x: f32) -> [f32; 2] {
    let open = sigmoid(x);
    [x * open, open * (1.0 + x * (1.0 - open))]
}

/// GELU by tanh, which is `x sigmoid(2 u)` with tanh's argument u, and its slope.
#[inline(always)]
pub(in crate::backend) fn tanh_gelu_both(x: f32) -> [f32; 2] {
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
pub(in crate::backend) fn softmax_row_backward(y: &[f32], grad: &mut [f32]) {
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
        assert!(gelu(f32::NAN).is_nan() && gelu_slope(f32::NAN).is_nan());
        assert_eq!(gelu(f32::INFINITY), f32::INFINITY);
        let mut row = [1.0, f32::NAN, 2.0];
        softmax_row(&mut row);
        assert!(row.iter().all(|v| v.is_nan()));
        let mut row = [1.0, f32::NEG_INFINITY, 1.0];
        softmax_row(&mut row);
        assert_eq!(row, [0.5, 0.0, 0.5]);
    }
}

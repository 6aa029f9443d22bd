//! A decoder block's operations: one pass each, in place where nothing else holds the tensor.

use burn::{
    backend::flex::{Flex, FlexTensor},
    tensor::{TensorMetadata, ops::FloatTensor},
};

use super::{each, each_row_with, each_with, in_place, is_f32, mapped, width};
use crate::backend::{
    Gate, defaults,
    kernels::{self, over_rows, silu_both, tanh_gelu_both},
};

pub(super) fn rms_norm(
    x: FloatTensor<Flex>,
    gamma: FloatTensor<Flex>,
    epsilon: f64,
) -> FloatTensor<Flex> {
    let d = width(&x);
    if !is_f32(&[&x, &gamma]) || d == 0 {
        return defaults::decoder::rms_norm::<Flex>(x, gamma, epsilon);
    }
    let gamma = gamma.to_contiguous();
    let gamma = gamma.storage::<f32>();
    mapped(x, d, |from, to| {
        kernels::rms_row(from, gamma, epsilon as f32, to)
    })
}

pub(super) fn rms_norm_backward(
    x: FloatTensor<Flex>,
    gamma: FloatTensor<Flex>,
    epsilon: f64,
    grad: FloatTensor<Flex>,
    affine: bool,
) -> (FloatTensor<Flex>, Option<FloatTensor<Flex>>) {
    let d = width(&x);
    // Trained normalisations are for full fine-tuning only.
    if affine || !is_f32(&[&x, &gamma, &grad]) || d == 0 {
        return defaults::decoder::rms_norm_backward::<Flex>(x, gamma, epsilon, grad, affine);
    }
    let gamma = gamma.to_contiguous();
    let gamma = gamma.storage::<f32>();
    let grad = each_row_with(grad, &x, d, |grad, x| {
        kernels::rms_row_backward(x, gamma, epsilon as f32, grad);
    });
    (grad, None)
}

pub(super) fn tanh_gelu(x: FloatTensor<Flex>) -> FloatTensor<Flex> {
    if !is_f32(&[&x]) {
        return defaults::decoder::tanh_gelu::<Flex>(x);
    }
    each(x, |x| tanh_gelu_both(x)[0])
}

pub(super) fn tanh_gelu_backward(
    x: FloatTensor<Flex>,
    grad: FloatTensor<Flex>,
) -> FloatTensor<Flex> {
    if !is_f32(&[&x, &grad]) {
        return defaults::decoder::tanh_gelu_backward::<Flex>(x, grad);
    }
    each_with(grad, &x, |grad, x| grad * tanh_gelu_both(x)[1])
}

pub(super) fn gated(
    gate: FloatTensor<Flex>,
    up: FloatTensor<Flex>,
    form: Gate,
) -> FloatTensor<Flex> {
    if !is_f32(&[&gate, &up]) {
        return defaults::decoder::gated::<Flex>(gate, up, form);
    }
    match form {
        Gate::Silu => each_with(up, &gate, |up, gate| up * silu_both(gate)[0]),
        Gate::GeluTanh => each_with(up, &gate, |up, gate| up * tanh_gelu_both(gate)[0]),
    }
}

pub(super) fn gated_backward(
    gate: FloatTensor<Flex>,
    up: FloatTensor<Flex>,
    form: Gate,
    grad: FloatTensor<Flex>,
) -> [FloatTensor<Flex>; 2] {
    if !is_f32(&[&gate, &up, &grad]) {
        return defaults::decoder::gated_backward::<Flex>(gate, up, form, grad);
    }
    match form {
        Gate::Silu => gradients(&gate, &up, grad, silu_both),
        Gate::GeluTanh => gradients(&gate, &up, grad, tanh_gelu_both),
    }
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

pub(super) fn rotate(
    x: FloatTensor<Flex>,
    cos: FloatTensor<Flex>,
    sin: FloatTensor<Flex>,
) -> FloatTensor<Flex> {
    let (d, half) = (width(&x), width(&cos));
    if !is_f32(&[&x, &cos, &sin]) || d == 0 || half == 0 || cos.shape()[0] != x.shape()[0] {
        return defaults::decoder::rotate::<Flex>(x, cos, sin);
    }
    let [cos, sin] = [cos, sin].map(|angles| angles.to_contiguous());
    let (cos, sin) = (cos.storage::<f32>(), sin.storage::<f32>());
    in_place(x, |values| {
        over_rows(values, d, |start, run| {
            for (row, values) in run.chunks_exact_mut(d).enumerate() {
                let at = (start / d + row) * half;
                kernels::rotate_row(&cos[at..][..half], &sin[at..][..half], values);
            }
        });
    })
}

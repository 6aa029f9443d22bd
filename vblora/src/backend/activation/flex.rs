//! Activations on flex.

use burn::{
    backend::flex::Flex,
    tensor::{
        DType, Shape, TensorMetadata,
        ops::{FloatTensor, IntTensor},
    },
};
use vblora_kernels::{
    activation::{Curve, softmax, softmax_backward},
    loss::{cross_entropy, cross_entropy_backward},
    zeros,
};

use super::{ActivationOps, Gate, GeluForm, default};
use crate::backend::flex::{in_place, in_place_with, is_f32, tensor, width, with_width};

impl ActivationOps for Flex {
    fn erf_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if !is_f32(&[&x]) {
            return default::erf_gelu::<Self>(x);
        }
        in_place(x, |values| Curve::Gelu.apply(values))
    }

    fn erf_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        if !is_f32(&[&x, &grad]) {
            return default::erf_gelu_backward::<Self>(x, grad);
        }
        in_place_with(grad, &x, |grad, x| Curve::Gelu.backward(x, grad))
    }

    fn tanh_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if !is_f32(&[&x]) {
            return default::tanh_gelu::<Self>(x);
        }
        in_place(x, |values| Curve::TanhGelu.apply(values))
    }

    fn tanh_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        if !is_f32(&[&x, &grad]) {
            return default::tanh_gelu_backward::<Self>(x, grad);
        }
        in_place_with(grad, &x, |grad, x| Curve::TanhGelu.backward(x, grad))
    }

    fn row_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let d = width(&x);
        if !is_f32(&[&x]) || d == 0 {
            return default::row_softmax::<Self>(x);
        }
        in_place(x, |values| softmax(values, d))
    }

    fn row_softmax_backward(
        output: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let d = width(&output);
        if !is_f32(&[&output, &grad]) || d == 0 {
            return default::row_softmax_backward::<Self>(output, grad);
        }
        in_place_with(grad, &output, |grad, y| softmax_backward(y, d, grad))
    }

    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, form: Gate) -> FloatTensor<Self> {
        if !is_f32(&[&gate, &up]) {
            return default::gated::<Self>(gate, up, form);
        }
        in_place_with(up, &gate, |up, gate| form.curve().gate(gate, up))
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
        let [gate, up] = [gate, up].map(|x| x.to_contiguous());
        let (values, shape) = (gate.storage::<f32>(), gate.shape());
        let mut d_gate = zeros(values.len());
        let d_up = in_place_with(grad, &up, |grad, up| {
            form.curve().gate_backward(values, up, grad, &mut d_gate);
        });
        [tensor(d_gate, shape), d_up]
    }

    fn cross_entropy_forward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        smoothing: f64,
    ) -> [FloatTensor<Self>; 2] {
        if !is_f32(&[&logits]) || targets.dtype() != DType::I32 {
            return default::cross_entropy::<Self>(logits, targets, smoothing);
        }
        let (classes, targets) = (width(&logits), targets.to_contiguous());
        let targets = targets.storage::<i32>();
        let mut losses = vec![0.0; targets.len()];
        let probabilities = in_place(logits, |logits| {
            cross_entropy(logits, classes, targets, smoothing as f32, &mut losses);
        });
        let shape = Shape::new([losses.len()]);
        [tensor(losses, shape), probabilities]
    }

    fn cross_entropy_backward(
        kept: FloatTensor<Self>,
        targets: IntTensor<Self>,
        smoothing: f64,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if !is_f32(&[&kept, &grad]) || targets.dtype() != DType::I32 {
            return default::cross_entropy_backward::<Self>(kept, targets, smoothing, grad);
        }
        let (classes, targets) = (width(&kept), targets.to_contiguous());
        let targets = targets.storage::<i32>();
        in_place_with(kept, &grad, |kept, grad| {
            cross_entropy_backward(kept, classes, targets, smoothing as f32, grad);
        })
    }

    fn gated_halves(both: FloatTensor<Self>, form: GeluForm) -> FloatTensor<Self> {
        if !is_f32(&[&both]) || width(&both) == 0 {
            return default::gated_halves::<Self>(both, form);
        }
        let both = both.to_contiguous();
        let d = width(&both) / 2;
        let from = both.storage::<f32>();
        let mut out = zeros(from.len() / 2);
        form.curve().gate_halves(from, d, &mut out);
        tensor(out, with_width(&both, d))
    }

    fn gated_halves_backward(
        both: FloatTensor<Self>,
        form: GeluForm,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if !is_f32(&[&both, &grad]) || width(&grad) == 0 {
            return default::gated_halves_backward::<Self>(both, form, grad);
        }
        let d = width(&grad);
        in_place_with(both, &grad, |both, grad| {
            form.curve().gate_halves_backward(grad, d, both);
        })
    }
}

impl GeluForm {
    /// The function of the kernels.
    pub(in crate::backend) fn curve(self) -> Curve {
        match self {
            Self::Erf => Curve::Gelu,
            Self::Tanh => Curve::TanhGelu,
        }
    }
}

impl Gate {
    /// The function of the kernels.
    fn curve(self) -> Curve {
        match self {
            Self::Silu => Curve::Silu,
            Self::GeluTanh => Curve::TanhGelu,
        }
    }
}

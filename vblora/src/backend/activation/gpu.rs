//! Activations on GPUs in one launch each. Softmax has one plane per row, the others one unit per element.

mod kernels;

use burn::tensor::ops::FloatTensor;
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, tensor::CubeTensor,
};

use super::{ActivationOps, Gate, default};
use crate::backend::gpu::{
    array,
    elements::Elements,
    rows::{Rows, like},
};

impl<R, F, I, T> ActivationOps for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    fn erf_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        gelu(&x, false).unwrap_or_else(|| default::erf_gelu::<Self>(x))
    }

    fn erf_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        gelu_backward(&x, &grad, false)
            .unwrap_or_else(|| default::erf_gelu_backward::<Self>(x, grad))
    }

    fn tanh_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        gelu(&x, true).unwrap_or_else(|| default::tanh_gelu::<Self>(x))
    }

    fn tanh_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        gelu_backward(&x, &grad, true)
            .unwrap_or_else(|| default::tanh_gelu_backward::<Self>(x, grad))
    }

    fn row_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        softmax(&x).unwrap_or_else(|| default::row_softmax::<Self>(x))
    }

    fn row_softmax_backward(
        output: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        softmax_backward(&output, &grad)
            .unwrap_or_else(|| default::row_softmax_backward::<Self>(output, grad))
    }

    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, form: Gate) -> FloatTensor<Self> {
        gated(&gate, &up, form).unwrap_or_else(|| default::gated::<Self>(gate, up, form))
    }

    fn gated_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        form: Gate,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2] {
        gated_backward([&gate, &up, &grad], form)
            .unwrap_or_else(|| default::gated_backward::<Self>(gate, up, form, grad))
    }
}

/// GELU in either form. Returns `None`, like its gradient and the gated units below, if [`Elements::of`] does.
fn gelu<R: CubeRuntime>(x: &CubeTensor<R>, is_tanh: bool) -> Option<CubeTensor<R>> {
    let elements = Elements::of(&[x])?;
    let out = like(x);
    kernels::gelu_of_each::launch(
        &out.client,
        elements.cubes,
        elements.dim,
        array(x),
        array(&out),
        is_tanh,
    );
    Some(out)
}

fn gelu_backward<R: CubeRuntime>(
    x: &CubeTensor<R>,
    grad: &CubeTensor<R>,
    is_tanh: bool,
) -> Option<CubeTensor<R>> {
    let elements = Elements::of(&[x, grad])?;
    let out = like(x);
    kernels::gelu_backward_of_each::launch(
        &out.client,
        elements.cubes,
        elements.dim,
        array(x),
        array(grad),
        array(&out),
        is_tanh,
    );
    Some(out)
}

fn gated<R: CubeRuntime>(
    gate: &CubeTensor<R>,
    up: &CubeTensor<R>,
    form: Gate,
) -> Option<CubeTensor<R>> {
    let elements = Elements::of(&[gate, up])?;
    let out = like(gate);
    kernels::gated_of_each::launch(
        &out.client,
        elements.cubes,
        elements.dim,
        array(gate),
        array(up),
        array(&out),
        form == Gate::GeluTanh,
    );
    Some(out)
}

fn gated_backward<R: CubeRuntime>(
    [gate, up, grad]: [&CubeTensor<R>; 3],
    form: Gate,
) -> Option<[CubeTensor<R>; 2]> {
    let elements = Elements::of(&[gate, up, grad])?;
    let [d_gate, d_up] = [like(gate), like(up)];
    kernels::gated_backward_of_each::launch(
        &d_gate.client,
        elements.cubes,
        elements.dim,
        array(gate),
        array(up),
        array(grad),
        array(&d_gate),
        array(&d_up),
        form == Gate::GeluTanh,
    );
    Some([d_gate, d_up])
}

/// Returns `None`, like the function below, if [`Rows::of`] does.
fn softmax<R: CubeRuntime>(x: &CubeTensor<R>) -> Option<CubeTensor<R>> {
    let rows = Rows::of(&[x])?;
    let out = like(x);
    kernels::row_softmax::launch(
        &out.client,
        rows.cubes(),
        rows.dim(),
        array(x),
        array(&out),
        rows.count,
        rows.d,
    );
    Some(out)
}

fn softmax_backward<R: CubeRuntime>(
    y: &CubeTensor<R>,
    grad: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let rows = Rows::of(&[y, grad])?;
    let out = like(y);
    kernels::row_softmax_backward::launch(
        &out.client,
        rows.cubes(),
        rows.dim(),
        array(y),
        array(grad),
        array(&out),
        rows.count,
        rows.d,
    );
    Some(out)
}

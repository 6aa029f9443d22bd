//! Activations on GPUs in one launch each. Softmax has one plane per row, the others one unit per piece of elements.

pub(in crate::backend) mod kernels;

use burn::tensor::ops::FloatTensor;
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, tensor::CubeTensor,
};
use cubecl::prelude::ArrayArg;

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
        softmax(&x, false).unwrap_or_else(|| default::row_softmax::<Self>(x))
    }

    fn row_softmax_backward(
        output: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        match Rows::of(&[&output, &grad]) {
            Some(rows) => softmax_backward(&output, grad, &rows, false),
            None => default::row_softmax_backward::<Self>(output, grad),
        }
    }

    fn row_log_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        softmax(&x, true).unwrap_or_else(|| default::row_log_softmax::<Self>(x))
    }

    fn row_log_softmax_backward(
        output: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        match Rows::of(&[&output, &grad]) {
            Some(rows) => softmax_backward(&output, grad, &rows, true),
            None => default::row_log_softmax_backward::<Self>(output, grad),
        }
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
        match Elements::in_pieces(&[&gate, &up, &grad]) {
            Some(elements) => gated_backward([gate, up], &grad, form, elements),
            None => default::gated_backward::<Self>(gate, up, form, grad),
        }
    }
}

/// GELU in either form. Returns `None`, like its gradient and the gated unit below, if [`Elements::in_pieces`] does.
fn gelu<R: CubeRuntime>(x: &CubeTensor<R>, is_tanh: bool) -> Option<CubeTensor<R>> {
    let elements = Elements::in_pieces(&[x])?;
    let out = like(x);
    kernels::gelu_of_each::launch(
        &out.client,
        elements.cubes,
        elements.dim,
        array(x),
        array(&out),
        is_tanh,
        elements.piece,
    );
    Some(out)
}

fn gelu_backward<R: CubeRuntime>(
    x: &CubeTensor<R>,
    grad: &CubeTensor<R>,
    is_tanh: bool,
) -> Option<CubeTensor<R>> {
    let elements = Elements::in_pieces(&[x, grad])?;
    let out = like(x);
    kernels::gelu_backward_of_each::launch(
        &out.client,
        elements.cubes,
        elements.dim,
        array(x),
        array(grad),
        array(&out),
        is_tanh,
        elements.piece,
    );
    Some(out)
}

fn gated<R: CubeRuntime>(
    gate: &CubeTensor<R>,
    up: &CubeTensor<R>,
    form: Gate,
) -> Option<CubeTensor<R>> {
    let elements = Elements::in_pieces(&[gate, up])?;
    let out = like(gate);
    kernels::gated_of_each::launch(
        &out.client,
        elements.cubes,
        elements.dim,
        array(gate),
        array(up),
        array(&out),
        form == Gate::GeluTanh,
        elements.piece,
    );
    Some(out)
}

/// The gradients take the places of gate and up, if nothing else needs those.
fn gated_backward<R: CubeRuntime>(
    inputs: [CubeTensor<R>; 2],
    grad: &CubeTensor<R>,
    form: Gate,
    elements: Elements,
) -> [CubeTensor<R>; 2] {
    let outputs = inputs.each_ref().map(in_place_of);
    let [gate, up] = inputs.each_ref().map(array);
    let [d_gate, d_up] = [0, 1].map(|i| output(&outputs[i], &inputs[i], i));
    kernels::gated_backward_of_each::launch(
        &grad.client,
        elements.cubes,
        elements.dim,
        gate,
        up,
        array(grad),
        d_gate,
        d_up,
        form == Gate::GeluTanh,
        elements.piece,
    );
    let mut inputs = inputs.into_iter();
    outputs.map(|own| {
        let input = inputs.next().expect("one for each output");
        own.unwrap_or(input)
    })
}

/// An output of a tensor's shape. `None` if it may take the tensor's place.
fn in_place_of<R: CubeRuntime>(input: &CubeTensor<R>) -> Option<CubeTensor<R>> {
    let is_free = input.can_mut() && input.is_contiguous();
    (!is_free).then(|| like(input))
}

/// The argument for an output, which is `own` or takes the place of the input numbered `at`.
fn output<R: CubeRuntime>(
    own: &Option<CubeTensor<R>>,
    input: &CubeTensor<R>,
    at: usize,
) -> ArrayArg<R> {
    match own {
        Some(own) => array(own),
        None => ArrayArg::Alias {
            input_pos: at,
            length: [input.meta.num_elements()],
        },
    }
}

/// Softmax, or its logarithm. Returns `None` if [`Rows::of`] does.
fn softmax<R: CubeRuntime>(x: &CubeTensor<R>, is_log: bool) -> Option<CubeTensor<R>> {
    let rows = Rows::of(&[x])?;
    let out = like(x);
    kernels::row_softmax::launch(
        &out.client,
        rows.cubes(),
        rows.dim(),
        array(x),
        array(&out),
        rows.count,
        rows.pieces(),
        is_log,
        rows.ahead(),
        rows.piece,
    );
    Some(out)
}

/// The gradient takes the place of `grad`, if nothing else needs that.
fn softmax_backward<R: CubeRuntime>(
    y: &CubeTensor<R>,
    grad: CubeTensor<R>,
    rows: &Rows,
    is_log: bool,
) -> CubeTensor<R> {
    let own = in_place_of(&grad);
    let (input, out) = (array(&grad), output(&own, &grad, 1));
    kernels::row_softmax_backward::launch(
        &y.client,
        rows.cubes(),
        rows.dim(),
        array(y),
        input,
        out,
        rows.count,
        rows.pieces(),
        is_log,
        rows.ahead(),
        rows.piece,
    );
    own.unwrap_or(grad)
}

//! Activations in plain tensor operations.

use burn::tensor::{
    IndexingUpdateOp, Int, Shape, Tensor, TensorMetadata, activation,
    backend::Backend,
    ops::{FloatTensor, IntTensor},
};

use super::{ActivationOps, Gate, GeluForm};
use crate::backend::{float, primitive, rows};

pub(super) fn erf_gelu<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::gelu(x)
}

pub(in crate::backend) fn erf_gelu_backward<B: Backend>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let shape = x.shape();
    let x = rows::<B>(x);
    let phi = x
        .clone()
        .square()
        .mul_scalar(-0.5)
        .exp()
        .mul_scalar(1.0 / std::f64::consts::TAU.sqrt());
    let cumulative = x
        .clone()
        .mul_scalar(std::f64::consts::FRAC_1_SQRT_2)
        .erf()
        .add_scalar(1.0)
        .mul_scalar(0.5);
    B::float_reshape(primitive(rows::<B>(grad) * (cumulative + x * phi)), shape)
}

/// `sqrt(2 / pi)` and the weight of the cube in GELU's approximation by tanh.
const TANH_GELU: [f64; 2] = [0.797_884_560_802_865_4, 0.044_715];

pub(in crate::backend) fn tanh_gelu<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = x.shape();
    B::float_reshape(primitive(tanh_gelu_rows(rows::<B>(x))), shape)
}

fn tanh_gelu_rows<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    let tanh = tanh_part(x.clone());
    x.mul_scalar(0.5) * tanh.add_scalar(1.0)
}

fn tanh_part<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    let [scale, cube] = TANH_GELU;
    let inner = x.clone() * x.square().mul_scalar(cube).add_scalar(1.0);
    inner.mul_scalar(scale).tanh()
}

pub(in crate::backend) fn tanh_gelu_backward<B: Backend>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let shape = x.shape();
    let slope = tanh_gelu_slope(rows::<B>(x));
    B::float_reshape(primitive(rows::<B>(grad) * slope), shape)
}

fn tanh_gelu_slope<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    let [scale, cube] = TANH_GELU;
    let tanh = tanh_part(x.clone());
    let inner = x.clone().square().mul_scalar(3.0 * cube).add_scalar(1.0);
    let steep = tanh.clone().square().neg().add_scalar(1.0) * inner.mul_scalar(scale);
    (tanh.add_scalar(1.0) + x * steep).mul_scalar(0.5)
}

pub(in crate::backend) fn row_softmax<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let last = x.shape().num_dims() - 1;
    B::softmax(x, last)
}

/// `y (g - sum(g y))` per row.
pub(in crate::backend) fn row_softmax_backward<B: Backend>(
    output: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let shape = output.shape();
    let (y, grad) = (rows::<B>(output), rows::<B>(grad));
    let sum = (y.clone() * grad.clone()).sum_dim(1);
    B::float_reshape(primitive(y * (grad - sum)), shape)
}

pub(super) fn row_log_softmax<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let last = x.shape().num_dims() - 1;
    B::log_softmax(x, last)
}

/// `g - exp(log y) sum(g)` per row, given the output `log y`.
pub(super) fn row_log_softmax_backward<B: Backend>(
    output: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let shape = output.shape();
    let (output, grad) = (rows::<B>(output), rows::<B>(grad));
    let sum = grad.clone().sum_dim(1);
    B::float_reshape(primitive(grad - output.exp() * sum), shape)
}

/// The losses, and the log-probabilities.
pub(in crate::backend) fn cross_entropy<B: ActivationOps>(
    logits: FloatTensor<B>,
    targets: IntTensor<B>,
    smoothing: f64,
) -> [FloatTensor<B>; 2] {
    let log = B::row_log_softmax(logits);
    let rows = float::<B, 2>(log.clone());
    let targets = Tensor::<B, 1, Int>::from_primitive(targets).unsqueeze_dim(1);
    let hit = rows.clone().gather(1, targets).neg();
    let losses = match smoothing {
        0.0 => hit,
        share => hit.mul_scalar(1.0 - share) - rows.mean_dim(1).mul_scalar(share),
    };
    [primitive(losses.squeeze_dim::<1>(1)), log]
}

/// The gradient to the logits, from the log-probabilities.
pub(in crate::backend) fn cross_entropy_backward<B: ActivationOps>(
    log: FloatTensor<B>,
    targets: IntTensor<B>,
    smoothing: f64,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let grad = float::<B, 1>(grad).unsqueeze_dim::<2>(1);
    let [rows, classes] = log.shape().dims::<2>();
    let even = match smoothing {
        0.0 => Tensor::zeros([rows, classes], &grad.device()),
        share => grad
            .clone()
            .mul_scalar(-share / classes as f64)
            .expand([rows, classes]),
    };
    let targets = Tensor::<B, 1, Int>::from_primitive(targets).unsqueeze_dim(1);
    let hit = grad.mul_scalar(smoothing - 1.0);
    let to_log = even.scatter(1, targets, hit, IndexingUpdateOp::Add);
    B::row_log_softmax_backward(log, primitive(to_log))
}

pub(in crate::backend) fn gated<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    form: Gate,
) -> FloatTensor<B> {
    let shape = gate.shape();
    let gate = rows::<B>(gate);
    let open = match form {
        Gate::Silu => gate.clone() * activation::sigmoid(gate),
        Gate::GeluTanh => tanh_gelu_rows(gate),
    };
    B::float_reshape(primitive(open * rows::<B>(up)), shape)
}

pub(in crate::backend) fn gated_backward<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    form: Gate,
    grad: FloatTensor<B>,
) -> [FloatTensor<B>; 2] {
    let shape = gate.shape();
    let [gate, up, grad] = [gate, up, grad].map(rows::<B>);
    let (open, slope) = match form {
        Gate::Silu => {
            let sigmoid = activation::sigmoid(gate.clone());
            let falling = sigmoid.clone().neg().add_scalar(1.0) * gate.clone();
            (gate * sigmoid.clone(), sigmoid * falling.add_scalar(1.0))
        }
        Gate::GeluTanh => (tanh_gelu_rows(gate.clone()), tanh_gelu_slope(gate)),
    };
    [grad.clone() * up * slope, grad * open]
        .map(|grad| B::float_reshape(primitive(grad), shape.clone()))
}

/// The values and the gate of rows that hold them side by side, `[n, d]` each.
fn halves<B: Backend>(both: FloatTensor<B>) -> [FloatTensor<B>; 2] {
    let both = rows::<B>(both);
    let d = both.dims()[1] / 2;
    [0, d].map(|start| primitive(both.clone().narrow(1, start, d)))
}

/// A shape with another last dimension.
fn with_width(shape: &Shape, d: usize) -> Shape {
    let mut dims: Vec<usize> = shape.iter().copied().collect();
    if let Some(last) = dims.last_mut() {
        *last = d;
    }
    Shape::from(dims)
}

pub(in crate::backend) fn gated_halves<B: ActivationOps>(
    both: FloatTensor<B>,
    form: GeluForm,
) -> FloatTensor<B> {
    let shape = both.shape();
    let [values, gate] = halves::<B>(both);
    let units = float::<B, 2>(form.apply::<B>(values)) * float::<B, 2>(gate);
    let d = units.dims()[1];
    B::float_reshape(primitive(units), with_width(&shape, d))
}

pub(in crate::backend) fn gated_halves_backward<B: ActivationOps>(
    both: FloatTensor<B>,
    form: GeluForm,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let shape = both.shape();
    let ([values, gate], grad) = (halves::<B>(both), rows::<B>(grad));
    let open = float::<B, 2>(form.apply::<B>(values.clone()));
    let d_values = form.backward::<B>(values, primitive(grad.clone() * float(gate)));
    let all = Tensor::cat(vec![float::<B, 2>(d_values), grad * open], 1);
    B::float_reshape(primitive(all), shape)
}

//! Default bodies of a decoder block's operations.

use burn::tensor::{
    Bool, Int, Tensor, TensorMetadata, activation,
    backend::Backend,
    ops::{FloatTensor, IntTensor},
};

use super::{drop_weights, join, split};
use crate::backend::{CausalSettings, Gate, VbLoraBackend, float, matmul, primitive, rows};

/// What takes a key out of a softmax: far below every score.
const HIDDEN: f32 = -1e30;

pub(in crate::backend) fn rms_norm<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    epsilon: f64,
) -> FloatTensor<B> {
    let shape = x.shape();
    let x = rows::<B>(x);
    let normal = x.clone() / root_mean_square(x, epsilon);
    let y = normal * float::<B, 1>(gamma).unsqueeze::<2>();
    B::float_reshape(primitive(y), shape)
}

fn root_mean_square<B: Backend>(x: Tensor<B, 2>, epsilon: f64) -> Tensor<B, 2> {
    x.square().mean_dim(1).add_scalar(epsilon).sqrt()
}

/// With `n = x / rms` and `g = grad gamma`: `dx = (g - n mean(g n)) / rms`, `dgamma = sum(grad n)`.
pub(in crate::backend) fn rms_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    epsilon: f64,
    grad: FloatTensor<B>,
    affine: bool,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let shape = x.shape();
    let (x, grad) = (rows::<B>(x), rows::<B>(grad));
    let rms = root_mean_square(x.clone(), epsilon);
    let normal = x / rms.clone();
    let affine = affine.then(|| {
        let sum = (grad.clone() * normal.clone()).sum_dim(0);
        primitive(sum.squeeze_dim::<1>(0))
    });
    let g = grad * float::<B, 1>(gamma).unsqueeze::<2>();
    let along = (g.clone() * normal.clone()).mean_dim(1);
    let dx = (g - normal * along) / rms;
    (B::float_reshape(primitive(dx), shape), affine)
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

pub(in crate::backend) fn rotate<B: Backend>(
    x: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
) -> FloatTensor<B> {
    let (x, cos, sin) = (float::<B, 3>(x), float::<B, 3>(cos), float::<B, 3>(sin));
    let ([n, t, d], [_, _, half]) = (x.dims(), cos.dims());
    let x = x.reshape([n, t, d / (2 * half), 2 * half]);
    let [first, second] = [0, half].map(|start| x.clone().narrow(3, start, half));
    let [cos, sin] = [cos, sin].map(|angles| angles.unsqueeze_dim::<4>(2));
    let turned = Tensor::cat(
        vec![
            first.clone() * cos.clone() - second.clone() * sin.clone(),
            second * cos + first * sin,
        ],
        3,
    );
    primitive(turned.reshape([n, t, d]))
}

/// The keys that each query does not see, `[n, 1, t, T]`.
fn hidden_keys<B: Backend>(
    first: Option<IntTensor<B>>,
    [n, t, all]: [usize; 3],
    settings: CausalSettings,
    device: &B::Device,
) -> Tensor<B, 4, Bool> {
    let range = |start: usize, len: usize| {
        Tensor::<B, 1, Int>::arange(start as i64..(start + len) as i64, device)
    };
    let key = range(0, all).reshape([1, 1, all]);
    let own = range(settings.offset, t).reshape([1, t, 1]);
    // How far behind its query a key stands; negative in front.
    let behind = own.expand([1, t, all]) - key.clone().expand([1, t, all]);
    let mut hidden = behind.clone().lower_elem(0);
    if let Some(window) = settings.window {
        hidden = hidden.bool_or(behind.greater_equal_elem(window as i64));
    }
    if let Some(first) = first {
        let first = Tensor::<B, 2, Int>::from_primitive(first).reshape([n, t, 1]);
        let early = key.expand([n, t, all]).lower(first.expand([n, t, all]));
        hidden = hidden.expand([n, t, all]).bool_or(early);
    }
    let rows = hidden.dims()[0];
    hidden.reshape([rows, 1, t, all])
}

/// The heads of queries `[n, t, heads size] -> [n, kv_heads, group t, size]`: those of one group, which share a key head, one after another.
fn group<B: Backend>(q: Tensor<B, 3>, settings: CausalSettings) -> Tensor<B, 4> {
    let [n, t, d] = q.dims();
    let CausalSettings {
        heads, kv_heads, ..
    } = settings;
    split(q, heads).reshape([n, kv_heads, heads / kv_heads * t, d / heads])
}

/// `[n, kv_heads, group t, size] -> [n, t, heads size]`
fn ungroup<B: Backend>(x: Tensor<B, 4>, t: usize, settings: CausalSettings) -> Tensor<B, 3> {
    let [n, _, _, size] = x.dims();
    join(x.reshape([n, settings.heads, t, size]))
}

/// The keys or values that queries may see, without the room behind them.
fn seen<B: Backend>(x: FloatTensor<B>, len: usize) -> Tensor<B, 3> {
    let x = float::<B, 3>(x);
    if x.dims()[1] == len {
        x
    } else {
        x.narrow(1, 0, len)
    }
}

pub(in crate::backend) fn causal_attention<B: VbLoraBackend>(
    [q, k, v]: [FloatTensor<B>; 3],
    first: Option<IntTensor<B>>,
    settings: CausalSettings,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let q = float::<B, 3>(q);
    let ([n, t, d], device) = (q.dims(), q.device());
    let CausalSettings {
        heads,
        kv_heads,
        offset,
        ..
    } = settings;
    let all = offset + t;
    let [k, v] = [k, v].map(|x| split(seen::<B>(x, all), kv_heads));
    let scale = 1.0 / ((d / heads) as f64).sqrt();
    let scores = matmul(group(q.mul_scalar(scale), settings), k.swap_dims(2, 3));
    let scores = scores.reshape([n, heads, t, all]);
    let hidden = hidden_keys::<B>(first, [n, t, all], settings, &device);
    let scores = scores.mask_fill(hidden.expand([n, heads, t, all]), HIDDEN);
    let weights = B::row_softmax(primitive(scores));
    let dropped = drop_weights(float::<B, 4>(weights.clone()), settings.dropout);
    let output = matmul(dropped.reshape([n, kv_heads, heads / kv_heads * t, all]), v);
    (primitive(ungroup(output, t, settings)), weights)
}

pub(in crate::backend) fn causal_attention_backward<B: VbLoraBackend>(
    [q, k, v]: [FloatTensor<B>; 3],
    weights: FloatTensor<B>,
    settings: CausalSettings,
    grad: FloatTensor<B>,
) -> [FloatTensor<B>; 3] {
    let CausalSettings {
        heads,
        kv_heads,
        dropout,
        ..
    } = settings;
    let q = float::<B, 3>(q);
    let [n, t, d] = q.dims();
    let grouped = [n, kv_heads, heads / kv_heads * t, t];
    let scale = 1.0 / ((d / heads) as f64).sqrt();
    let q = group(q, settings);
    let grad = group(float::<B, 3>(grad), settings);
    let [k, v] = [k, v].map(|x| split(float::<B, 3>(x), kv_heads));
    let dropped = drop_weights(float::<B, 4>(weights.clone()), dropout).reshape(grouped);
    let dv = matmul(dropped.swap_dims(2, 3), grad.clone());
    let d_weights = matmul(grad, v.swap_dims(2, 3)).reshape([n, heads, t, t]);
    let d_weights = drop_weights(d_weights, dropout);
    let d_scores: Tensor<B, 4> = float(B::row_softmax_backward(weights, primitive(d_weights)));
    let d_scores = d_scores.mul_scalar(scale).reshape(grouped);
    let dq = matmul(d_scores.clone(), k);
    let dk = matmul(d_scores.swap_dims(2, 3), q);
    [
        primitive(ungroup(dq, t, settings)),
        primitive(join(dk)),
        primitive(join(dv)),
    ]
}

//! The default bodies: plain tensor operations, right on every backend, and what every fast path is held to.

pub(super) mod decoder;
pub(super) mod packed;

use burn::tensor::{
    DType, IndexingUpdateOp, Int, Tensor, TensorMetadata,
    backend::Backend,
    ops::{FloatTensor, IntTensor},
};

use super::{
    AdaptedGradients, AttentionSettings, FrozenMap, GeluForm, HeadForm, HeadProduct, NormGradients,
    Update, VbLoraBackend, float, mask, matmul, primitive, rows,
};

/// `k` passes of max, compare and mask: no sort (Burn's is unstable), no read-back. Rows must be finite: a masked entry is -inf.
pub(super) fn top_k<B: Backend>(logits: FloatTensor<B>, k: usize) -> IntTensor<B> {
    let mut logits = float::<B, 2>(logits);
    let [_, h] = logits.dims();
    let column = Tensor::<B, 1, Int>::arange(0..h as i64, &logits.device()).unsqueeze::<2>();
    let mut picked = Vec::with_capacity(k);
    for _ in 0..k {
        // The lowest index among the maxima, whatever the backend's argmax does with ties.
        let is_max = logits
            .clone()
            .equal(logits.clone().max_dim(1).expand(logits.dims()));
        let index = column
            .clone()
            .expand(logits.dims())
            .mask_fill(is_max.bool_not(), h as i64)
            .min_dim(1);
        let taken = column
            .clone()
            .expand(logits.dims())
            .equal(index.clone().expand(logits.dims()));
        logits = logits.mask_fill(taken, f32::NEG_INFINITY);
        picked.push(index);
    }
    Tensor::cat(picked, 1).into_primitive()
}

pub(super) fn mix<B: Backend>(
    bank: FloatTensor<B>,
    weights: FloatTensor<B>,
    indices: IntTensor<B>,
) -> FloatTensor<B> {
    let (bank, weights) = (float::<B, 2>(bank), float::<B, 2>(weights));
    let ([s, k], [_, b]) = (weights.dims(), bank.dims());
    let flat = Tensor::<B, 2, Int>::from_primitive(indices).reshape([s * k]);
    let rows = bank.select(0, flat).reshape([s, k, b]);
    let mixed = (rows * weights.unsqueeze_dim::<3>(2)).sum_dim(1);
    primitive(mixed.reshape([s, b]))
}

pub(super) fn mix_backward<B: Backend>(
    bank: FloatTensor<B>,
    weights: FloatTensor<B>,
    indices: IntTensor<B>,
    grad: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (bank, weights) = (float::<B, 2>(bank), float::<B, 2>(weights));
    let ([s, k], [h, b]) = (weights.dims(), bank.dims());
    let flat = Tensor::<B, 2, Int>::from_primitive(indices).reshape([s * k]);
    let rows = bank.select(0, flat.clone()).reshape([s, k, b]);
    let grad = float::<B, 2>(grad);
    let d_weights = (rows * grad.clone().unsqueeze_dim::<3>(1)).sum_dim(2);
    let d_bank = bank_gradient(weights, flat.reshape([s, k]), grad, h);
    (primitive(d_bank), primitive(d_weights.reshape([s, k])))
}

/// The most that the dense form of some rows of weights takes, within what every device holds in one tensor.
const DENSE_BYTES: usize = 64 << 20;

/// `W^T grad` with W the weights at their indices, `[S, h]`, made dense for so many rows at a time. (Adding rows at indices, the obvious
/// way, runs on GPUs as one thread a column over all S k rows.)
///
/// # Shapes
/// - weights and indices: `[S, k]`, grad: `[S, b]`; output: `[h, b]`
fn bank_gradient<B: Backend>(
    weights: Tensor<B, 2>,
    indices: Tensor<B, 2, Int>,
    grad: Tensor<B, 2>,
    h: usize,
) -> Tensor<B, 2> {
    let ([s, _], [_, b]) = (weights.dims(), grad.dims());
    let step = (DENSE_BYTES / (4 * h.max(1))).max(1);
    let device = grad.device();
    let products = (0..s).step_by(step).map(|start| {
        let rows = start..(start + step).min(s);
        let part = rows.len();
        let dense = Tensor::<B, 2>::zeros([part, h], &device).scatter(
            1,
            indices.clone().slice([rows.clone()]),
            weights.clone().slice([rows.clone()]),
            IndexingUpdateOp::Add,
        );
        matmul(dense.transpose(), grad.clone().slice([rows]))
    });
    products
        .reduce(|a, b| a + b)
        .unwrap_or_else(|| Tensor::zeros([h, b], &device))
}

pub(super) fn frozen_linear<B: VbLoraBackend>(
    x: FloatTensor<B>,
    map: FrozenMap<FloatTensor<B>>,
) -> FloatTensor<B> {
    if x.dtype() == map.weight.dtype() {
        return B::linear(x, map.weight, map.bias);
    }
    rounded_linear::<B>(x, map)
}

/// `x W + b` as a product in the weight's dtype between casts.
pub(super) fn rounded_linear<B: VbLoraBackend>(
    x: FloatTensor<B>,
    map: FrozenMap<FloatTensor<B>>,
) -> FloatTensor<B> {
    let (held, wanted) = (map.weight.dtype(), x.dtype());
    let y = B::frozen_product(cast::<B>(x, held), map);
    cast::<B>(y, wanted)
}

/// A cast to the tensor's own dtype is a copy on some backends.
fn cast<B: Backend>(x: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    match x.dtype() == dtype {
        true => x,
        false => B::float_cast(x, dtype.into()),
    }
}

/// What a frozen product of operands in `held` is given out in.
pub(super) fn product_dtype(held: DType) -> DType {
    match held {
        DType::F16 | DType::BF16 => DType::F32,
        other => other,
    }
}

pub(super) fn frozen_product<B: Backend>(
    x: FloatTensor<B>,
    map: FrozenMap<FloatTensor<B>>,
) -> FloatTensor<B> {
    let dtype = product_dtype(x.dtype());
    let y = cast::<B>(B::float_matmul(x, map.weight), dtype);
    match map.bias {
        Some(bias) => primitive(float::<B, 2>(y) + float::<B, 1>(bias).unsqueeze()),
        None => y,
    }
}

pub(super) fn adapted_linear<B: VbLoraBackend>(
    x: FloatTensor<B>,
    map: FrozenMap<FloatTensor<B>>,
    update: Update<FloatTensor<B>>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let y = float::<B, 2>(B::frozen_linear(x.clone(), map));
    let x = float::<B, 2>(x);
    // The scale goes on the narrow side: r columns instead of d_out.
    let narrow = scaled(matmul(x, float(update.down)), update.scale);
    let y = y + matmul(narrow.clone(), float(update.up));
    (primitive(y), primitive(narrow))
}

pub(super) fn mixed_linear<B: VbLoraBackend>(
    x: FloatTensor<B>,
    map: FrozenMap<FloatTensor<B>>,
    [down, up]: [FloatTensor<B>; 2],
    scales: FloatTensor<B>,
) -> FloatTensor<B> {
    let y = float::<B, 2>(B::frozen_linear(x.clone(), map));
    let narrow = matmul(float::<B, 2>(x), float(down)) * float(scales);
    primitive(y + matmul(narrow, float(up)))
}

pub(super) fn adapted_linear_backward<B: VbLoraBackend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    update: Update<FloatTensor<B>>,
    narrow: FloatTensor<B>,
    grad: FloatTensor<B>,
    needs_x: bool,
) -> AdaptedGradients<FloatTensor<B>> {
    let (x, grad) = (float::<B, 2>(x), float::<B, 2>(grad));
    let [down, up] = [update.down, update.up].map(float::<B, 2>);
    let d_up = matmul(float::<B, 2>(narrow).transpose(), grad.clone());
    let d_narrow = scaled(matmul(grad.clone(), up.transpose()), update.scale);
    let d_down = matmul(x.transpose(), d_narrow.clone());
    let dx = needs_x.then(|| {
        let through_map = float::<B, 2>(through_map::<B>(primitive(grad), weight));
        primitive(through_map + matmul(d_narrow, down.transpose()))
    });
    AdaptedGradients {
        x: dx,
        down: primitive(d_down),
        up: primitive(d_up),
    }
}

pub(super) fn gelu_linear_backward<B: VbLoraBackend>(
    h: FloatTensor<B>,
    form: GeluForm,
    weight: FloatTensor<B>,
    update: Update<FloatTensor<B>>,
    narrow: FloatTensor<B>,
    grad: FloatTensor<B>,
    needs_h: bool,
) -> AdaptedGradients<FloatTensor<B>> {
    let x = form.apply::<B>(h.clone());
    let found = B::adapted_linear_backward(x, weight, update, narrow, grad, needs_h);
    AdaptedGradients {
        x: found.x.map(|dx| form.backward::<B>(h, dx)),
        ..found
    }
}

/// The gradient of a frozen map's input, `grad W^T`.
pub(super) fn through_map<B: VbLoraBackend>(
    grad: FloatTensor<B>,
    weight: FloatTensor<B>,
) -> FloatTensor<B> {
    let map = FrozenMap {
        weight: B::float_swap_dims(weight, 0, 1),
        bias: None,
    };
    B::frozen_linear(grad, map)
}

fn scaled<B: Backend>(x: Tensor<B, 2>, scale: f64) -> Tensor<B, 2> {
    if scale == 1.0 { x } else { x.mul_scalar(scale) }
}

pub(super) fn erf_gelu_backward<B: Backend>(
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

pub(super) fn row_softmax<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let last = x.shape().num_dims() - 1;
    B::softmax(x, last)
}

/// `y (g - sum(g y))` per row.
pub(super) fn row_softmax_backward<B: Backend>(
    output: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let shape = output.shape();
    let (y, grad) = (rows::<B>(output), rows::<B>(grad));
    let sum = (y.clone() * grad.clone()).sum_dim(1);
    B::float_reshape(primitive(y * (grad - sum)), shape)
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

pub(super) fn row_norm<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    epsilon: f64,
) -> FloatTensor<B> {
    B::layer_norm(x, gamma, Some(beta), epsilon)
}

pub(super) fn norm_and_deviation<B: VbLoraBackend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    epsilon: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let deviation = row_deviation::<B>(x.clone(), epsilon);
    (B::row_norm(x, gamma, beta, epsilon), deviation)
}

/// `sqrt(var + epsilon)` of each row.
pub(super) fn row_deviation<B: Backend>(x: FloatTensor<B>, epsilon: f64) -> FloatTensor<B> {
    let x = rows::<B>(x);
    let [n, _] = x.dims();
    let mean = x.clone().mean_dim(1);
    let variance = (x - mean).square().mean_dim(1);
    primitive(variance.add_scalar(epsilon).sqrt().reshape([n]))
}

/// With `n = (x - mean) / std`, which is `(y - beta) / gamma`, as in [`row_norm_backward`].
pub(super) fn invertible_norm_backward<B: Backend>(
    y: FloatTensor<B>,
    weights: [FloatTensor<B>; 2],
    deviation: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let shape = y.shape();
    let [gamma, beta] = weights.map(|x| float::<B, 1>(x).unsqueeze::<2>());
    let normal = (rows::<B>(y) - beta) / gamma.clone();
    let deviation = float::<B, 1>(deviation).unsqueeze_dim(1);
    let dx = through_norm(normal, rows::<B>(grad) * gamma, deviation);
    B::float_reshape(primitive(dx), shape)
}

/// `(g - mean(g) - n mean(g n)) / std` per row.
fn through_norm<B: Backend>(
    normal: Tensor<B, 2>,
    g: Tensor<B, 2>,
    deviation: Tensor<B, 2>,
) -> Tensor<B, 2> {
    let mean = g.clone().mean_dim(1);
    let along = (g.clone() * normal.clone()).mean_dim(1);
    (g - mean - normal * along) / deviation
}

/// With `n = (x - mean) / std` and `g = grad gamma`: `dx = (g - mean(g) - n mean(g n)) / std`, `dgamma = sum(grad n)`, `dbeta = sum(grad)`.
pub(super) fn row_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    epsilon: f64,
    grad: FloatTensor<B>,
    affine: bool,
) -> NormGradients<B> {
    let shape = x.shape();
    let (x, grad) = (rows::<B>(x), rows::<B>(grad));
    let centred = x.clone() - x.mean_dim(1);
    let variance = centred.clone().square().mean_dim(1);
    // Divided by, since ndarray's `recip` is the processor's estimate: off by 6e-5 with AVX-512, by 4e-4 without.
    let deviation = variance.add_scalar(epsilon).sqrt();
    let normal = centred / deviation.clone();
    let affine = affine.then(|| {
        let d_gamma = (grad.clone() * normal.clone()).sum_dim(0);
        [d_gamma, grad.clone().sum_dim(0)].map(|sum| primitive(sum.squeeze_dim::<1>(0)))
    });
    let g = grad * float::<B, 1>(gamma).unsqueeze::<2>();
    let dx = through_norm(normal, g, deviation);
    (B::float_reshape(primitive(dx), shape), affine)
}

pub(super) fn dropout<B: Backend>(x: FloatTensor<B>, key: u64, p: f64) -> FloatTensor<B> {
    let shape = x.shape();
    let mask = mask::on_device::<B>(shape.num_elements(), &B::float_device(&x), key, p);
    B::float_mul(x, B::float_reshape(primitive(mask), shape))
}

/// `[n, t, d] -> [n, heads, t, d / heads]`
fn split<B: Backend>(x: Tensor<B, 3>, heads: usize) -> Tensor<B, 4> {
    let [n, t, d] = x.dims();
    if heads == 1 {
        // Not by swapping: a dimension of one would be left with a stride of its own, which CubeCL's tuned products take for that from row
        // to row of the batch.
        return x.reshape([n, 1, t, d]);
    }
    x.reshape([n, t, heads, d / heads]).swap_dims(1, 2)
}

/// `[n, heads, t, size] -> [n, t, heads size]`
fn join<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 3> {
    let [n, heads, t, size] = x.dims();
    x.swap_dims(1, 2).reshape([n, t, heads * size])
}

fn drop_weights<B: VbLoraBackend>(x: Tensor<B, 4>, dropout: Option<(u64, f64)>) -> Tensor<B, 4> {
    match dropout {
        Some((key, p)) => float(B::dropout(primitive(x), key, p)),
        None => x,
    }
}

pub(super) fn head_product<B: VbLoraBackend>(
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    mask: Option<FloatTensor<B>>,
    product: HeadProduct,
) -> FloatTensor<B> {
    let HeadProduct { form, heads, scale } = product;
    // The scale goes on b, which has fewer values than the weights.
    let scaled = |x| match scale == 1.0 {
        true => float::<B, 3>(x),
        false => float::<B, 3>(x).mul_scalar(scale),
    };
    let b = split(scaled(b), heads);
    let out = match form {
        HeadForm::Scores => {
            let scores = matmul(split(float::<B, 3>(a), heads), b.swap_dims(2, 3));
            let [n, _, _, u] = scores.dims();
            return primitive(match mask {
                Some(mask) => scores + float::<B, 2>(mask).reshape([n, 1, 1, u]),
                None => scores,
            });
        }
        HeadForm::Mixed => matmul(float::<B, 4>(a), b),
        HeadForm::MixedBack => matmul(float::<B, 4>(a).swap_dims(2, 3), b),
    };
    primitive(join(out))
}

/// The head products of an attention, but for their tensors.
fn products(settings: AttentionSettings, scale: f64) -> impl Fn(HeadForm) -> HeadProduct {
    move |form| HeadProduct {
        form,
        heads: settings.heads,
        scale,
    }
}

/// What scores are multiplied by, `1 / sqrt(d / heads)`.
fn score_scale<B: Backend>(q: &FloatTensor<B>, settings: AttentionSettings) -> f64 {
    let [_, _, d] = q.shape().dims();
    1.0 / ((d / settings.heads) as f64).sqrt()
}

pub(super) fn attention<B: VbLoraBackend>(
    [q, k, v]: [FloatTensor<B>; 3],
    mask: Option<FloatTensor<B>>,
    settings: AttentionSettings,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let scaled = products(settings, score_scale::<B>(&q, settings));
    let scores = B::head_product(q, k, mask, scaled(HeadForm::Scores));
    let weights = B::row_softmax(scores);
    let dropped = primitive(drop_weights(
        float::<B, 4>(weights.clone()),
        settings.dropout,
    ));
    let plain = products(settings, 1.0);
    let output = B::head_product(dropped, v, None, plain(HeadForm::Mixed));
    (output, weights)
}

pub(super) fn attention_backward<B: VbLoraBackend>(
    [q, k, v]: [FloatTensor<B>; 3],
    weights: FloatTensor<B>,
    settings: AttentionSettings,
    grad: FloatTensor<B>,
) -> [FloatTensor<B>; 3] {
    let scaled = products(settings, score_scale::<B>(&q, settings));
    let plain = products(settings, 1.0);
    let product = |a, b, product| B::head_product(a, b, None, product);
    let dropped = |weights| primitive(drop_weights(float::<B, 4>(weights), settings.dropout));
    let dv = product(
        dropped(weights.clone()),
        grad.clone(),
        plain(HeadForm::MixedBack),
    );
    let d_weights = dropped(product(grad, v, plain(HeadForm::Scores)));
    let d_scores = B::row_softmax_backward(weights, d_weights);
    let dq = product(d_scores.clone(), k, scaled(HeadForm::Mixed));
    let dk = product(d_scores, q, scaled(HeadForm::MixedBack));
    [dq, dk, dv]
}

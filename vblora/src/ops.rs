//! The operations of [`VbLoraBackend`] that model ports use, on tensors.

use burn::{
    backend::Autodiff,
    tensor::{Int, Tensor, TensorPrimitive, backend::AutodiffBackend, ops::FloatTensor},
};

use crate::{
    Noise, Unpadded,
    backend::{
        AdamWStep, AttentionSettings, CausalSettings, Clip, FrozenMap, RelativeTables,
        RotarySettings, StepPlaces, Texts, VbLoraBackend, primitive, seed,
    },
};

pub use crate::backend::{Gate, GeluForm, StepNorm, matmul};

/// The product with a frozen matrix, which may be in half precision.
///
/// # Shapes
/// - x: `[n, d_in]`, weight: `[d_in, d_out]`; output: `[n, d_out]`
pub fn frozen_product<B: VbLoraBackend>(x: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    let map = FrozenMap::dense(primitive(weight), None);
    Tensor::from_primitive(TensorPrimitive::Float(B::frozen_linear(primitive(x), map)))
}

/// Matrices of one width, at least one, joined along their rows. The result is outside any graph.
///
/// # Shapes
/// - pieces: `[n_i, m]`; output: `[sum of n_i, m]`
pub fn join_rows<B: VbLoraBackend>(mut pieces: Vec<Tensor<B, 2>>) -> Tensor<B, 2> {
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    let pieces = pieces.into_iter().map(primitive);
    Tensor::from_primitive(TensorPrimitive::Float(B::join_rows(pieces.collect())))
}

/// A backward pass that starts from the gradient of a tensor.
///
/// # Shapes
/// - tensor and gradient: the same
pub fn backward_from<B: VbLoraBackend, const D: usize>(
    tensor: Tensor<Autodiff<B>, D>,
    gradient: Tensor<B, D>,
) -> <Autodiff<B> as AutodiffBackend>::Gradients {
    let root = Tensor::zeros([1], &tensor.device());
    seed(root, tensor, gradient).backward()
}

/// A parameter's value and its moments after a step of AdamW. The results are outside any graph.
///
/// # Shapes
/// - all the same, but `[1]` for the norm of the clipping
pub fn adamw<B: VbLoraBackend, const D: usize>(
    value: Tensor<B, D>,
    grad: Tensor<B, D>,
    moments: Option<[Tensor<B, D>; 2]>,
    step: AdamWStep,
    clip: Option<Clip<Tensor<B, 1>>>,
) -> (Tensor<B, D>, [Tensor<B, D>; 2]) {
    let moments = moments.map(|moments| moments.map(primitive));
    let clip = clip.map(|Clip { norm, limit }| Clip {
        norm: primitive(norm),
        limit,
    });
    let (value, moments) = B::adamw(primitive(value), primitive(grad), moments, step, clip);
    let tensor = |x| Tensor::from_primitive(TensorPrimitive::Float(x));
    (tensor(value), moments.map(tensor))
}

/// GELU by the error function.
pub fn gelu<B: VbLoraBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::erf_gelu(primitive(x))))
}

/// Softmax over the last dimension.
pub fn softmax<B: VbLoraBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::row_softmax(primitive(x))))
}

/// Log-softmax over the last dimension.
pub fn log_softmax<B: VbLoraBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::row_log_softmax(primitive(x))))
}

/// The cross entropy of each row's target, as torch's `CrossEntropyLoss` without reduction. A share of `smoothing` of each target's
/// probability is spread evenly over the classes.
///
/// # Shapes
/// - logits: `[rows, classes]`, targets: `[rows]`; output: `[rows]`
pub fn cross_entropy<B: VbLoraBackend>(
    logits: Tensor<B, 2>,
    targets: Tensor<B, 1, Int>,
    smoothing: f64,
) -> Tensor<B, 1> {
    let losses = B::cross_entropy(primitive(logits), targets.into_primitive(), smoothing);
    Tensor::from_primitive(TensorPrimitive::Float(losses))
}

/// Layer normalisation over the last dimension.
///
/// # Shapes
/// - x and output: `[.., d]`; gamma, beta: `[d]`
pub fn layer_norm<B: VbLoraBackend, const D: usize>(
    x: Tensor<B, D>,
    gamma: Tensor<B, 1>,
    beta: Tensor<B, 1>,
    epsilon: f64,
) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::row_norm(
        primitive(x),
        primitive(gamma),
        primitive(beta),
        epsilon,
    )))
}

/// Softmax attention of every head, `dropout(softmax(q k^T / sqrt(d / heads) + mask)) v`. With noise, the weights are dropped by the mask of
/// `place`.
///
/// # Shapes
/// - q, k, v and output: `[n, t, d]`, `heads` a divisor of d
/// - mask: `[n, t]`, added to the scores of each key
pub fn attention<B: VbLoraBackend>(
    qkv: [Tensor<B, 3>; 3],
    mask: Option<Tensor<B, 2>>,
    heads: usize,
    dropout: f64,
    noise: Option<Noise>,
    place: &str,
) -> Tensor<B, 3> {
    let settings = AttentionSettings::new(heads, dropout, noise, place);
    let (output, _) = B::head_attention(qkv.map(primitive), mask.map(primitive), settings);
    Tensor::from_primitive(TensorPrimitive::Float(output))
}

/// Causal attention of one token a row over a cache, which the token's key and value are written to. The cache comes back, changed in
/// place if nothing else holds it.
///
/// Queries and keys are turned by the angles, cos and sin. `query_scale` multiplies scores beside `1 / sqrt(size)`.
///
/// # Shapes
/// - qkv: `[n, (heads + 2 kv_heads) size]`; cache: keys and values, `[n, capacity, kv_heads size]`; output: `[n, heads size]`
/// - angles: `[n, 1, turning / 2]`; first: `[n, 1]`
pub fn step_attention<B: VbLoraBackend>(
    qkv: Tensor<B, 2>,
    cache: [Tensor<B, 3>; 2],
    angles: Option<[Tensor<B, 3>; 2]>,
    first: Option<Tensor<B, 2, Int>>,
    query_scale: f64,
    settings: CausalSettings,
) -> (Tensor<B, 2>, [Tensor<B, 3>; 2]) {
    let places = StepPlaces {
        angles: angles.map(|angles| angles.map(primitive)),
        first: first.map(Tensor::into_primitive),
        query_scale,
    };
    let (output, cache) = B::step_attention(primitive(qkv), cache.map(primitive), places, settings);
    let cache = cache.map(|cache| Tensor::from_primitive(TensorPrimitive::Float(cache)));
    (
        Tensor::from_primitive(TensorPrimitive::Float(output)),
        cache,
    )
}

/// [`attention`] of a batch without its padding.
///
/// # Shapes
/// - q, k, v and output: `[N, d]`, `heads` a divisor of d
pub fn unpadded_attention<B: VbLoraBackend>(
    qkv: [Tensor<B, 2>; 3],
    unpadded: &Unpadded,
    heads: usize,
    dropout: f64,
    noise: Option<Noise>,
    place: &str,
) -> Tensor<B, 2> {
    let settings = AttentionSettings::new(heads, dropout, noise, place);
    let (output, _) = B::unpadded_attention(qkv.map(primitive), unpadded, settings);
    Tensor::from_primitive(TensorPrimitive::Float(output))
}

/// [`layer_norm`] with frozen weights that are not zero. Its backward pass needs the output in place of the input.
///
/// # Shapes
/// - as in [`layer_norm`]
pub fn invertible_norm<B: VbLoraBackend, const D: usize>(
    x: Tensor<B, D>,
    gamma: Tensor<B, 1>,
    beta: Tensor<B, 1>,
    epsilon: f64,
) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::invertible_norm(
        primitive(x),
        primitive(gamma),
        primitive(beta),
        epsilon,
    )))
}

/// [`invertible_norm`] of the sum of x and a residual of its shape.
///
/// # Shapes
/// - as in [`layer_norm`]
pub fn invertible_sum_norm<B: VbLoraBackend, const D: usize>(
    x: Tensor<B, D>,
    residual: Tensor<B, D>,
    gamma: Tensor<B, 1>,
    beta: Tensor<B, 1>,
    epsilon: f64,
) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::invertible_sum_norm(
        primitive(x),
        primitive(residual),
        primitive(gamma),
        primitive(beta),
        epsilon,
    )))
}

/// GELU by its approximation with tanh.
pub fn tanh_gelu<B: VbLoraBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::tanh_gelu(primitive(x))))
}

/// Root-mean-square normalisation over the last dimension.
///
/// # Shapes
/// - x and output: `[.., d]`; gamma: `[d]`
pub fn rms_norm<B: VbLoraBackend, const D: usize>(
    x: Tensor<B, D>,
    gamma: Tensor<B, 1>,
    epsilon: f64,
) -> Tensor<B, D> {
    let y = B::rms_norm(primitive(x), primitive(gamma), epsilon);
    Tensor::from_primitive(TensorPrimitive::Float(y))
}

/// A gated unit, `f(gate) up`.
///
/// # Shapes
/// - gate, up and output: the same
pub fn gated<B: VbLoraBackend, const D: usize>(
    gate: Tensor<B, D>,
    up: Tensor<B, D>,
    form: Gate,
) -> Tensor<B, D> {
    let y = B::gated(primitive(gate), primitive(up), form);
    Tensor::from_primitive(TensorPrimitive::Float(y))
}

/// Rotary position embedding of every head: element i of a head turns with element i + size / 2.
///
/// # Shapes
/// - x and output: `[n, t, heads size]`; cos, sin: `[n, t, size / 2]`
pub fn rotate<B: VbLoraBackend>(
    x: Tensor<B, 3>,
    cos: Tensor<B, 3>,
    sin: Tensor<B, 3>,
) -> Tensor<B, 3> {
    let y = B::rotate(primitive(x), primitive(cos), primitive(sin));
    Tensor::from_primitive(TensorPrimitive::Float(y))
}

/// Causal softmax attention. [`AttentionOps::causal_attention`](crate::backend::AttentionOps::causal_attention) says which keys a query sees.
///
/// # Shapes
/// - q and output: `[n, t, heads size]`; k, v: `[n, T, kv_heads size]`, `T >= offset + t`; first: `[n, t]`
pub fn causal_attention<B: VbLoraBackend>(
    qkv: [Tensor<B, 3>; 3],
    first: Option<Tensor<B, 2, Int>>,
    settings: CausalSettings,
) -> Tensor<B, 3> {
    let first = first.map(Tensor::into_primitive);
    let (output, _) = B::causal_attention(qkv.map(primitive), first, settings);
    Tensor::from_primitive(TensorPrimitive::Float(output))
}

/// A gated unit of values and gate that lie side by side, `gelu(values) gate`.
///
/// # Shapes
/// - both: `[.., 2 d]`, the values first; output: `[.., d]`
pub fn gated_halves<B: VbLoraBackend, const D: usize>(
    both: Tensor<B, D>,
    form: GeluForm,
) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(B::gated_halves(
        primitive(both),
        form,
    )))
}

/// Attention with rotary positions of queries, keys and values that lie side by side. A token sees those at most `reach` places away.
///
/// # Shapes
/// - qkv: `[n, t, 3 d]`, or `[N, 1, 3 d]` for texts without padding; cos, sin: `[.., d / heads / 2]`, as qkv lies; output: `[.., d]`
pub fn rotary_attention<B: VbLoraBackend>(
    qkv: Tensor<B, 3>,
    angles: [Tensor<B, 3>; 2],
    texts: &Texts<B>,
    settings: RotarySettings,
) -> Tensor<B, 3> {
    let angles = angles.map(|x| flat(x, texts));
    let (output, _) = B::rotary_attention(flat(qkv, texts), angles, texts, settings);
    lying(output, texts)
}

/// Attention with scores of content and of relative positions.
/// [`PositionOps::disentangled_attention`](crate::backend::PositionOps::disentangled_attention) has the equation.
///
/// # Shapes
/// - q, k, v and output: `[n, t, d]`, or `[N, 1, d]` for texts without padding; the tables: `[1 or n, 2 t - 1, d]`
pub fn disentangled_attention<B: VbLoraBackend>(
    qkv: [Tensor<B, 3>; 3],
    relative: RelativeTables<Tensor<B, 3>>,
    texts: &Texts<B>,
    settings: AttentionSettings,
) -> Tensor<B, 3> {
    let relative = RelativeTables {
        of_query: primitive(relative.of_query),
        of_key: primitive(relative.of_key),
    };
    let qkv = qkv.map(|x| flat(x, texts));
    let (output, _) = B::disentangled_attention(qkv, relative, texts, settings);
    lying(output, texts)
}

/// Hidden states as the operations on texts take them.
fn flat<B: VbLoraBackend>(x: Tensor<B, 3>, texts: &Texts<B>) -> FloatTensor<B> {
    match texts {
        Texts::Padded(_) => primitive(x),
        Texts::Unpadded(_) => primitive(x.squeeze_dim::<2>(1)),
    }
}

/// The reverse of [`flat`].
fn lying<B: VbLoraBackend>(x: FloatTensor<B>, texts: &Texts<B>) -> Tensor<B, 3> {
    let x = TensorPrimitive::Float(x);
    match texts {
        Texts::Padded(_) => Tensor::from_primitive(x),
        Texts::Unpadded(_) => Tensor::<B, 2>::from_primitive(x).unsqueeze_dim(1),
    }
}

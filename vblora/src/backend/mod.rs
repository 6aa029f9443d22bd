//! What the library asks of a backend beyond Burn's `Backend`: one extension trait whose default bodies are plain tensor operations, the
//! fast paths of single backends, and the choice of a backend by name.

mod autodiff;
mod choice;
mod defaults;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "gpu")]
mod gpu;
#[cfg(feature = "flex")]
mod kernels;
mod mask;
#[cfg(feature = "ndarray")]
mod ndarray;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod select;

use burn::tensor::{
    Shape, Tensor, TensorMetadata, TensorPrimitive,
    backend::Backend,
    ops::{Device, FloatTensor, IntTensor},
};

pub(crate) use autodiff::seed;
pub use choice::{BackendJob, BackendKind, DEFAULT_BACKEND};

use crate::{Noise, Packing};

/// Burn's `Backend` with the operations of the top-k admixture, keyed dropout, and the operations of a transformer block for which
/// Burn's autodiff keeps several full-size tensors (GELU, softmax, layer norm, attention), here with a backward of their own.
///
/// Every method has a default body, so `impl VbLoraBackend for MyBackend {}` is enough for another backend; an override must give the
/// same indices and masks to the bit and the same sums to rounding (`tests/suite` holds the shipped ones to that).
pub trait VbLoraBackend: Backend {
    /// The largest tensor that is safe on the device, where the backend does not say so itself but reads back garbage.
    fn max_tensor_bytes(_device: &Device<Self>) -> Option<usize> {
        None
    }

    /// Indices of the `k` largest logits of each row, largest first, ties to the lowest index. Not differentiable.
    ///
    /// # Shapes
    /// - logits: `[S, h]`, finite, `1 <= k <= h`
    /// - output: `[S, k]`
    fn top_k_indices(logits: FloatTensor<Self>, k: usize) -> IntTensor<Self> {
        defaults::top_k::<Self>(logits, k)
    }

    /// `out[s, :] = sum_j weights[s, j] * bank[indices[s, j], :]`, differentiable in bank and weights.
    ///
    /// # Shapes
    /// - bank: `[h, b]`, weights and indices: `[S, k]`
    /// - output: `[S, b]`
    fn mix(
        bank: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        indices: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        defaults::mix::<Self>(bank, weights, indices)
    }

    /// The gradients of [`mix`](Self::mix) to bank and weights (paper notes 1.3). Called on the inner backend only.
    ///
    /// # Shapes
    /// - grad: `[S, b]`; outputs: `[h, b]` and `[S, k]`
    fn mix_backward(
        bank: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        indices: IntTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        defaults::mix_backward::<Self>(bank, weights, indices, grad)
    }

    /// The product of `x` with a frozen weight of the same dtype, and the bias: `x W + b`. What leaves it is f32 where they are in half
    /// precision.
    ///
    /// # Shapes
    /// - x: `[n, d_in]`; output: `[n, d_out]`
    fn frozen_product(
        x: FloatTensor<Self>,
        map: FrozenMap<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        defaults::frozen_product::<Self>(x, map)
    }

    /// A frozen linear map, `x W + b`. A weight in half precision multiplies a rounded `x`; sums outside the product stay in the dtype of
    /// `x`. Weight and bias get no gradient.
    ///
    /// # Shapes
    /// - x: `[n, d_in]`; output: `[n, d_out]`
    fn frozen_linear(x: FloatTensor<Self>, map: FrozenMap<FloatTensor<Self>>) -> FloatTensor<Self> {
        defaults::frozen_linear::<Self>(x, map)
    }

    /// A frozen linear map with its update, `x W + b + (s x A) B`, and `s x A`, which the backward pass needs. The latter is not
    /// differentiable; weight and bias get no gradient.
    ///
    /// # Shapes
    /// - x: `[n, d_in]`; outputs: `[n, d_out]` and `[n, r]`
    fn adapted_linear(
        x: FloatTensor<Self>,
        map: FrozenMap<FloatTensor<Self>>,
        update: Update<FloatTensor<Self>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        defaults::adapted_linear::<Self>(x, map, update)
    }

    /// The gradients of [`adapted_linear`](Self::adapted_linear) to x, if asked for, and to both factors, given `s x A`. Called on the
    /// inner backend only.
    ///
    /// # Shapes
    /// - x: `[n, d_in]`, weight: `[d_in, d_out]`, narrow: `[n, r]`, grad: `[n, d_out]`
    fn adapted_linear_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        update: Update<FloatTensor<Self>>,
        narrow: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        needs_x: bool,
    ) -> AdaptedGradients<FloatTensor<Self>> {
        defaults::adapted_linear_backward::<Self>(x, weight, update, narrow, grad, needs_x)
    }

    /// A frozen linear map whose rows have updates of their own, `x W + b + (scales (x A)) B`: the factors of several adapters side by side,
    /// and of their R columns the scale of each in each row, 0 for those that are not the row's.
    ///
    /// # Shapes
    /// - x: `[n, d_in]`, down: `[d_in, R]`, up: `[R, d_out]`, scales: `[n, R]`; output: `[n, d_out]`
    fn mixed_linear(
        x: FloatTensor<Self>,
        map: FrozenMap<FloatTensor<Self>>,
        [down, up]: [FloatTensor<Self>; 2],
        scales: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        defaults::mixed_linear::<Self>(x, map, [down, up], scales)
    }

    /// [`adapted_linear`](Self::adapted_linear) of `x = gelu(h)`, which is not kept for the backward pass.
    ///
    /// # Shapes
    /// - h: `[n, d_in]`; outputs: `[n, d_out]` and `[n, r]`
    fn gelu_linear(
        h: FloatTensor<Self>,
        form: GeluForm,
        map: FrozenMap<FloatTensor<Self>>,
        update: Update<FloatTensor<Self>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        Self::adapted_linear(form.apply::<Self>(h), map, update)
    }

    /// The gradients of [`gelu_linear`](Self::gelu_linear) to h, if asked for, and to both factors. Called on the inner backend only.
    ///
    /// # Shapes
    /// - as in [`adapted_linear_backward`](Self::adapted_linear_backward), with h for x
    fn gelu_linear_backward(
        h: FloatTensor<Self>,
        form: GeluForm,
        weight: FloatTensor<Self>,
        update: Update<FloatTensor<Self>>,
        narrow: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        needs_h: bool,
    ) -> AdaptedGradients<FloatTensor<Self>> {
        defaults::gelu_linear_backward::<Self>(h, form, weight, update, narrow, grad, needs_h)
    }

    /// GELU by the error function, `x Phi(x)`. Burn's own has the derivative of the tanh form on most backends.
    fn erf_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu(x)
    }

    /// The gradient of [`erf_gelu`](Self::erf_gelu): `grad (Phi(x) + x phi(x))`. Called on the inner backend only.
    fn erf_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        defaults::erf_gelu_backward::<Self>(x, grad)
    }

    /// Softmax over the last dimension.
    fn row_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        defaults::row_softmax::<Self>(x)
    }

    /// The gradient of [`row_softmax`](Self::row_softmax) given its output. Called on the inner backend only.
    fn row_softmax_backward(
        output: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        defaults::row_softmax_backward::<Self>(output, grad)
    }

    /// Log-softmax over the last dimension. Its gradient is `grad - softmax(x) sum(grad)`.
    fn row_log_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let last = x.shape().num_dims() - 1;
        Self::log_softmax(x, last)
    }

    /// Layer normalisation over the last dimension, `gamma (x - mean) / sqrt(var + epsilon) + beta`.
    ///
    /// # Shapes
    /// - x and output: `[.., d]`; gamma, beta: `[d]`
    fn row_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        defaults::row_norm::<Self>(x, gamma, beta, epsilon)
    }

    /// The gradients of [`row_norm`](Self::row_norm) to x, gamma and beta; the latter two only if asked for. Called on the inner backend
    /// only.
    fn row_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
        affine: bool,
    ) -> NormGradients<Self> {
        defaults::row_norm_backward::<Self>(x, gamma, epsilon, grad, affine)
    }

    /// [`row_norm`](Self::row_norm) with weights that can be divided by and get no gradient. Under autodiff the backward pass then needs the
    /// output, which the maps behind it keep anyway, in place of the input.
    fn invertible_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        Self::row_norm(x, gamma, beta, epsilon)
    }

    /// [`row_norm`](Self::row_norm), and what it divides each row by, `sqrt(var + epsilon)`. Called on the inner backend only.
    ///
    /// # Shapes
    /// - x and first output: `[.., d]`; gamma, beta: `[d]`; second output: `[n]`, n the number of rows
    fn norm_and_deviation(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        defaults::norm_and_deviation::<Self>(x, gamma, beta, epsilon)
    }

    /// The gradient of [`invertible_norm`](Self::invertible_norm) to x, from its output and what rows were divided by. Called on the inner backend only.
    ///
    /// # Shapes
    /// - y, grad and output: `[.., d]`; gamma, beta: `[d]`; deviation: `[n]`
    fn invertible_norm_backward(
        y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        deviation: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        defaults::invertible_norm_backward::<Self>(y, [gamma, beta], deviation, grad)
    }

    /// Inverted dropout: element `i` in row-major order is zeroed with probability `p`, else divided by `1 - p`, by `key` and `i` alone.
    /// Its gradient is the same dropout of the gradient.
    fn dropout(x: FloatTensor<Self>, key: u64, p: f64) -> FloatTensor<Self> {
        defaults::dropout::<Self>(x, key, p)
    }

    /// A product of each head's matrices, of which attention is made where a backend has it not in one piece. Called on the inner backend only.
    ///
    /// # Shapes
    /// - a, b and output: those of the [`HeadForm`]
    /// - mask, which scores alone may have: `[n, u]`, added to the scores of each key
    fn head_product(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        mask: Option<FloatTensor<Self>>,
        product: HeadProduct,
    ) -> FloatTensor<Self> {
        defaults::head_product::<Self>(a, b, mask, product)
    }

    /// Softmax attention of every head, `dropout(softmax(q k^T / sqrt(d / heads) + mask)) v`, and what the backward pass needs beside the
    /// inputs, which is not differentiable.
    ///
    /// # Shapes
    /// - q, k, v and output: `[n, t, d]`; mask: `[n, t]`, added to the scores of each key
    /// - the second output is the backend's own affair; by default the weights before dropout, `[n, heads, t, t]`
    fn head_attention(
        qkv: [FloatTensor<Self>; 3],
        mask: Option<FloatTensor<Self>>,
        settings: AttentionSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        defaults::attention::<Self>(qkv, mask, settings)
    }

    /// The gradients of [`head_attention`](Self::head_attention) to q, k and v. `mask` and `saved` are what went in and came out there.
    /// Called on the inner backend only.
    ///
    /// # Shapes
    /// - grad and outputs: `[n, t, d]`
    fn head_attention_backward(
        qkv: [FloatTensor<Self>; 3],
        _mask: Option<FloatTensor<Self>>,
        saved: FloatTensor<Self>,
        settings: AttentionSettings,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        defaults::attention_backward::<Self>(qkv, saved, settings, grad)
    }

    /// Whether batches are better given to the backend without their padding, so that [`packed_attention`](Self::packed_attention) and
    /// [`packed_dropout`](Self::packed_dropout) are fast.
    fn skips_padding() -> bool {
        false
    }

    /// [`dropout`](Self::dropout) of the tokens of a batch without its padding, each by the mask of its place in the batch.
    ///
    /// # Shapes
    /// - x and output: `[N, d]`
    fn packed_dropout(
        x: FloatTensor<Self>,
        packing: &Packing,
        key: u64,
        p: f64,
    ) -> FloatTensor<Self> {
        defaults::packed::dropout::<Self>(x, packing, key, p)
    }

    /// [`head_attention`](Self::head_attention) of a batch without its padding.
    ///
    /// # Shapes
    /// - q, k, v and output: `[N, d]`; the second output is the backend's own affair, by default that of `head_attention`
    fn packed_attention(
        qkv: [FloatTensor<Self>; 3],
        packing: &Packing,
        settings: AttentionSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        defaults::packed::attention::<Self>(qkv, packing, settings)
    }

    /// The gradients of [`packed_attention`](Self::packed_attention) to q, k and v. `saved` is what came out there. Called on the inner
    /// backend only.
    ///
    /// # Shapes
    /// - grad and outputs: `[N, d]`
    fn packed_attention_backward(
        qkv: [FloatTensor<Self>; 3],
        packing: &Packing,
        saved: FloatTensor<Self>,
        settings: AttentionSettings,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        defaults::packed::attention_backward::<Self>(qkv, packing, saved, settings, grad)
    }

    /// Tensors of one dtype and width one below the other. Called on the inner backend only.
    ///
    /// # Shapes
    /// - pieces, at least one: `[n_i, m]`; output: `[sum of n_i, m]`
    fn join_rows(pieces: Vec<FloatTensor<Self>>) -> FloatTensor<Self> {
        Self::float_cat(pieces, 0)
    }

    /// Root-mean-square normalisation over the last dimension, `gamma x / sqrt(mean(x^2) + epsilon)` (arXiv 1910.07467).
    ///
    /// # Shapes
    /// - x and output: `[.., d]`; gamma: `[d]`
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        defaults::decoder::rms_norm::<Self>(x, gamma, epsilon)
    }

    /// The gradients of [`rms_norm`](Self::rms_norm) to x and, only if asked for, to gamma. Called on the inner backend only.
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
        affine: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        defaults::decoder::rms_norm_backward::<Self>(x, gamma, epsilon, grad, affine)
    }

    /// GELU by its approximation with tanh.
    fn tanh_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        defaults::decoder::tanh_gelu::<Self>(x)
    }

    /// The gradient of [`tanh_gelu`](Self::tanh_gelu) at x. Called on the inner backend only.
    fn tanh_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        defaults::decoder::tanh_gelu_backward::<Self>(x, grad)
    }

    /// A gated unit, `f(gate) up` (arXiv 2002.05202).
    ///
    /// # Shapes
    /// - gate, up and output: the same
    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, form: Gate) -> FloatTensor<Self> {
        defaults::decoder::gated::<Self>(gate, up, form)
    }

    /// The gradients of [`gated`](Self::gated) to gate and up. Called on the inner backend only.
    fn gated_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        form: Gate,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2] {
        defaults::decoder::gated_backward::<Self>(gate, up, form, grad)
    }

    /// Rotary position embedding (arXiv 2104.09864) in Hugging Face's order: element i of a head turns with element i + size / 2. Its
    /// gradient is the rotation of the gradient by `cos` and `-sin`. The angles get no gradient.
    ///
    /// # Shapes
    /// - x and output: `[n, t, heads size]`; cos, sin: `[n, t, size / 2]`
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        defaults::decoder::rotate::<Self>(x, cos, sin)
    }

    /// Causal softmax attention, `dropout(softmax(q k^T / sqrt(size))) v`, whose heads may share keys in groups of `heads / kv_heads`.
    /// Query i of a row stands at key `offset + i` and sees the keys from `first` (0 without it) to its own, of these the last `window`;
    /// keys behind the last query are room for later ones. Gives the output and what the backward pass needs beside the inputs, which is
    /// not differentiable.
    ///
    /// # Shapes
    /// - q and output: `[n, t, heads size]`; k, v: `[n, T, kv_heads size]`, `T >= offset + t`; first: `[n, t]`, at most `offset + i`
    /// - the second output is the backend's own affair; by default the weights before dropout, `[n, heads, t, offset + t]`
    fn causal_attention(
        qkv: [FloatTensor<Self>; 3],
        first: Option<IntTensor<Self>>,
        settings: CausalSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        defaults::decoder::causal_attention::<Self>(qkv, first, settings)
    }

    /// The gradients of [`causal_attention`](Self::causal_attention) to q, k and v, for offset 0 and no room behind the keys. `first` and
    /// `saved` are what went in and came out there. Called on the inner backend only.
    fn causal_attention_backward(
        qkv: [FloatTensor<Self>; 3],
        _first: Option<IntTensor<Self>>,
        saved: FloatTensor<Self>,
        settings: CausalSettings,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        defaults::decoder::causal_attention_backward::<Self>(qkv, saved, settings, grad)
    }
}

/// How GELU is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GeluForm {
    /// By the error function.
    Erf,
    /// By its approximation with tanh.
    Tanh,
}

impl GeluForm {
    pub(crate) fn apply<B: VbLoraBackend>(self, x: FloatTensor<B>) -> FloatTensor<B> {
        match self {
            Self::Erf => B::erf_gelu(x),
            Self::Tanh => B::tanh_gelu(x),
        }
    }

    fn backward<B: VbLoraBackend>(self, x: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
        match self {
            Self::Erf => B::erf_gelu_backward(x, grad),
            Self::Tanh => B::tanh_gelu_backward(x, grad),
        }
    }
}

/// The function of a gated unit's gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// `x sigmoid(x)`: SwiGLU.
    Silu,
    /// GELU by tanh: GeGLU.
    GeluTanh,
}

/// What a causal attention is besides its tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CausalSettings {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values, a divisor of `heads`.
    pub kv_heads: usize,
    /// The key at which the first query stands.
    pub offset: usize,
    /// How many keys a query sees at most, its own among them (Mistral's sliding window).
    pub window: Option<usize>,
    /// Key and probability of the dropout of the weights; `None` outside training.
    pub dropout: Option<(u64, f64)>,
}

/// A frozen linear map: its weight `[d_in, d_out]`, perhaps in half precision, and its bias `[d_out]`.
#[derive(Debug, Clone)]
pub struct FrozenMap<T> {
    /// `[d_in, d_out]`
    pub weight: T,
    /// `[d_out]`
    pub bias: Option<T>,
}

/// A low-rank update of a linear map, `scale * down up`.
#[derive(Debug, Clone)]
pub struct Update<T> {
    /// `[d_in, r]`
    pub down: T,
    /// `[r, d_out]`
    pub up: T,
    /// The factor on the product.
    pub scale: f64,
}

/// What [`adapted_linear_backward`](VbLoraBackend::adapted_linear_backward) gives.
#[derive(Debug)]
pub struct AdaptedGradients<T> {
    /// `[n, d_in]`; `None` where nobody asked.
    pub x: Option<T>,
    /// `[d_in, r]`
    pub down: T,
    /// `[r, d_out]`
    pub up: T,
}

/// The gradients of [`row_norm`](VbLoraBackend::row_norm) to x and, if asked for, to gamma and beta.
pub type NormGradients<B> = (FloatTensor<B>, Option<[FloatTensor<B>; 2]>);

/// What a [`head_product`](VbLoraBackend::head_product) is besides its tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadProduct {
    /// Which product.
    pub form: HeadForm,
    /// Heads, a divisor of d.
    pub heads: usize,
    /// The factor on it.
    pub scale: f64,
}

/// The forms of [`head_product`](VbLoraBackend::head_product). A tensor `[n, t, d]` has its heads side by side in d.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadForm {
    /// `a b^T`, a: `[n, t, d]`, b: `[n, u, d]`, output: `[n, heads, t, u]`
    Scores,
    /// `a b`, a: `[n, heads, t, u]`, b: `[n, u, d]`, output: `[n, t, d]`
    Mixed,
    /// `a^T b`, a: `[n, heads, t, u]`, b: `[n, t, d]`, output: `[n, u, d]`
    MixedBack,
}

impl HeadProduct {
    /// The output's shape.
    #[cfg(feature = "gpu")]
    fn shape(self, a: &Shape, b: &Shape) -> Shape {
        match self.form {
            HeadForm::Scores => Shape::new([a[0], self.heads, a[1], b[1]]),
            HeadForm::Mixed => Shape::new([a[0], a[2], b[2]]),
            HeadForm::MixedBack => Shape::new([a[0], a[3], b[2]]),
        }
    }
}

/// What an attention is besides its tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSettings {
    /// Heads, a divisor of d.
    pub heads: usize,
    /// Key and probability of the dropout of its weights; `None` outside training.
    pub dropout: Option<(u64, f64)>,
}

impl AttentionSettings {
    /// Heads, and dropout by the mask of `place` where there is noise.
    pub(crate) fn new(heads: usize, dropout: f64, noise: Option<Noise>, place: &str) -> Self {
        let noise = noise.filter(|_| dropout > 0.0);
        Self {
            heads,
            dropout: noise.map(|noise| (noise.key(place), dropout)),
        }
    }
}

/// A tensor from its primitive.
fn float<B: Backend, const D: usize>(tensor: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(tensor))
}

/// A tensor of any rank as its rows `[.., d] -> [n, d]`.
fn rows<B: Backend>(tensor: FloatTensor<B>) -> Tensor<B, 2> {
    let shape = tensor.shape();
    let d = shape[shape.num_dims() - 1];
    let n = shape.num_elements() / d.max(1);
    float(B::float_reshape(tensor, Shape::new([n, d])))
}

/// A float tensor's primitive.
pub(crate) fn primitive<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

/// The matrix product of `a` and `b`, of each pair of matrices in a batch.
///
/// One column, and an inner dimension of one, are multiplied and summed element by element, forward and backward: where Burn's products are both
/// fused and tuned, the kernels tried for one column are wrong (Burn 0.21, issue 5122).
///
/// # Shapes
/// - a: `[.., m, k]`, b: `[.., k, n]`; output: `[.., m, n]`
pub fn matmul<B: Backend, const D: usize>(a: Tensor<B, D>, b: Tensor<B, D>) -> Tensor<B, D> {
    match b.dims()[D - 2..] {
        [1, _] => a * b,
        [_, 1] => (a * b.swap_dims(D - 2, D - 1)).sum_dim(D - 1),
        _ => a.matmul(b),
    }
}

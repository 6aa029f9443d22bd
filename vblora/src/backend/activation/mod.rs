//! GELU in two forms, softmax and cross entropy over rows, gated units.

mod autodiff;
pub(super) mod default;
#[cfg(feature = "flex")]
pub(super) mod flex;
#[cfg(feature = "gpu")]
pub(super) mod gpu;

use burn::tensor::{
    backend::Backend,
    ops::{FloatTensor, IntTensor},
};

/// Activations, with backward passes that keep one tensor each.
pub trait ActivationOps: Backend {
    /// GELU by the error function, `x Phi(x)`. Burn's own has the derivative of the tanh form on most backends.
    fn erf_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        default::erf_gelu::<Self>(x)
    }

    /// The gradient of [`erf_gelu`](Self::erf_gelu): `grad (Phi(x) + x phi(x))`. Called on the inner backend only.
    fn erf_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        default::erf_gelu_backward::<Self>(x, grad)
    }

    /// GELU by its approximation with tanh.
    fn tanh_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        default::tanh_gelu::<Self>(x)
    }

    /// The gradient of [`tanh_gelu`](Self::tanh_gelu) at x. Called on the inner backend only.
    fn tanh_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        default::tanh_gelu_backward::<Self>(x, grad)
    }

    /// Softmax over the last dimension.
    fn row_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        default::row_softmax::<Self>(x)
    }

    /// The gradient of [`row_softmax`](Self::row_softmax) given its output. Called on the inner backend only.
    fn row_softmax_backward(
        output: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        default::row_softmax_backward::<Self>(output, grad)
    }

    /// Log-softmax over the last dimension.
    fn row_log_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        default::row_log_softmax::<Self>(x)
    }

    /// The gradient of [`row_log_softmax`](Self::row_log_softmax) given its output: `grad - exp(output) sum(grad)`. Called on the inner
    /// backend only.
    fn row_log_softmax_backward(
        output: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        default::row_log_softmax_backward::<Self>(output, grad)
    }

    /// The cross entropy of each row's target, with label smoothing as in torch: a share of `smoothing` of the target's probability is spread
    /// evenly over all classes.
    ///
    /// # Shapes
    /// - logits: `[rows, classes]`, targets: `[rows]`; output: `[rows]`
    fn cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        smoothing: f64,
    ) -> FloatTensor<Self> {
        let [losses, _] = Self::cross_entropy_forward(logits, targets, smoothing);
        losses
    }

    /// The output of [`cross_entropy`](Self::cross_entropy), and `[rows, classes]` that its backward pass takes: log-probabilities, or what
    /// the backend has in their place. Called on the inner backend only.
    fn cross_entropy_forward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        smoothing: f64,
    ) -> [FloatTensor<Self>; 2] {
        default::cross_entropy::<Self>(logits, targets, smoothing)
    }

    /// The gradient of [`cross_entropy`](Self::cross_entropy) to the logits. Called on the inner backend only.
    ///
    /// # Shapes
    /// - kept and output: `[rows, classes]`, targets and grad: `[rows]`
    fn cross_entropy_backward(
        kept: FloatTensor<Self>,
        targets: IntTensor<Self>,
        smoothing: f64,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        default::cross_entropy_backward::<Self>(kept, targets, smoothing, grad)
    }

    /// A gated unit, `f(gate) up` (arXiv 2002.05202).
    ///
    /// # Shapes
    /// - gate, up and output: the same
    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, form: Gate) -> FloatTensor<Self> {
        default::gated::<Self>(gate, up, form)
    }

    /// The gradients of [`gated`](Self::gated) to gate and up. Called on the inner backend only.
    fn gated_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        form: Gate,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2] {
        default::gated_backward::<Self>(gate, up, form, grad)
    }

    /// A gated unit of values and gate that lie side by side, `gelu(values) gate`.
    ///
    /// # Shapes
    /// - both: `[.., 2 d]`, the values first; output: `[.., d]`
    fn gated_halves(both: FloatTensor<Self>, form: GeluForm) -> FloatTensor<Self> {
        default::gated_halves::<Self>(both, form)
    }

    /// The gradient of [`gated_halves`](Self::gated_halves). Called on the inner backend only.
    ///
    /// # Shapes
    /// - both and output: `[.., 2 d]`; grad: `[.., d]`
    fn gated_halves_backward(
        both: FloatTensor<Self>,
        form: GeluForm,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        default::gated_halves_backward::<Self>(both, form, grad)
    }
}

/// The formula of GELU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GeluForm {
    /// By the error function.
    Erf,
    /// By its approximation with tanh.
    Tanh,
}

impl GeluForm {
    pub(crate) fn apply<B: ActivationOps>(self, x: FloatTensor<B>) -> FloatTensor<B> {
        match self {
            Self::Erf => B::erf_gelu(x),
            Self::Tanh => B::tanh_gelu(x),
        }
    }

    pub(super) fn backward<B: ActivationOps>(
        self,
        x: FloatTensor<B>,
        grad: FloatTensor<B>,
    ) -> FloatTensor<B> {
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

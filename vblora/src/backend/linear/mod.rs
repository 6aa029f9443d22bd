//! Frozen linear maps and their low-rank updates.

mod autodiff;
pub(super) mod default;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "gpu")]
pub(super) mod gpu;
mod map;
mod nf4;

use burn::tensor::ops::FloatTensor;

use super::{ActivationOps, GeluForm};

pub(super) use autodiff::{frozen, inner};
pub use map::{AdaptedGradients, FrozenMap, HeldWeight, Update};
pub use nf4::Nf4Weight;

/// Linear maps whose weight and bias get no gradient.
pub trait LinearOps: ActivationOps {
    /// The values of a weight in 4 bits, rounded once to its compute dtype. Not differentiable.
    ///
    /// # Shapes
    /// - output: `[d_in, d_out]`
    fn decoded(weight: Nf4Weight<Self>) -> FloatTensor<Self> {
        weight.dequantised()
    }

    /// The product of `x` with a frozen weight of the same dtype, and the bias: `x W + b`. The output of operands in half precision is f32.
    ///
    /// # Shapes
    /// - x: `[n, d_in]`; output: `[n, d_out]`
    fn frozen_product(x: FloatTensor<Self>, map: FrozenMap<Self>) -> FloatTensor<Self> {
        default::frozen_product::<Self>(x, map)
    }

    /// A frozen linear map, `x W + b`. A weight in half precision multiplies a rounded `x`; sums outside the product stay in the dtype of
    /// `x`. Weight and bias get no gradient.
    ///
    /// # Shapes
    /// - x: `[n, d_in]`; output: `[n, d_out]`
    fn frozen_linear(x: FloatTensor<Self>, map: FrozenMap<Self>) -> FloatTensor<Self> {
        default::frozen_linear::<Self>(x, map)
    }

    /// The gradient of [`frozen_linear`](Self::frozen_linear) to x, `grad W^T`. Called on the inner backend only.
    ///
    /// # Shapes
    /// - grad: `[n, d_out]`, weight: `[d_in, d_out]`; output: `[n, d_in]`
    fn frozen_linear_backward(
        grad: FloatTensor<Self>,
        weight: HeldWeight<Self>,
    ) -> FloatTensor<Self> {
        default::through_map::<Self>(grad, weight)
    }

    /// A frozen linear map with its update, `x W + b + (s x A) B`. The second output is `s x A`, which the backward pass needs; it is not
    /// differentiable. Weight and bias get no gradient.
    ///
    /// # Shapes
    /// - x: `[n, d_in]`; outputs: `[n, d_out]` and `[n, r]`
    fn adapted_linear(
        x: FloatTensor<Self>,
        map: FrozenMap<Self>,
        update: Update<FloatTensor<Self>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        default::adapted_linear::<Self>(x, map, update)
    }

    /// The gradients of [`adapted_linear`](Self::adapted_linear) to both factors, and to x if `needs_x` asks for it. `narrow` is `s x A`.
    /// Called on the inner backend only.
    ///
    /// # Shapes
    /// - x: `[n, d_in]`, weight: `[d_in, d_out]`, narrow: `[n, r]`, grad: `[n, d_out]`
    fn adapted_linear_backward(
        x: FloatTensor<Self>,
        weight: HeldWeight<Self>,
        update: Update<FloatTensor<Self>>,
        narrow: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        needs_x: bool,
    ) -> AdaptedGradients<FloatTensor<Self>> {
        default::adapted_linear_backward::<Self>(x, weight, update, narrow, grad, needs_x)
    }

    /// A frozen linear map whose rows have updates of their own, `x W + b + (scales (x A)) B`.
    ///
    /// A and B are the factors of several adapters side by side, with R columns in all. `scales` has the scale of each column in each row;
    /// it is 0 for the columns of other rows' adapters.
    ///
    /// # Shapes
    /// - x: `[n, d_in]`, down: `[d_in, R]`, up: `[R, d_out]`, scales: `[n, R]`; output: `[n, d_out]`
    fn stacked_linear(
        x: FloatTensor<Self>,
        map: FrozenMap<Self>,
        [down, up]: [FloatTensor<Self>; 2],
        scales: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        default::stacked_linear::<Self>(x, map, [down, up], scales)
    }

    /// [`adapted_linear`](Self::adapted_linear) of x or of its GELU, for x of any rank, without the second output.
    ///
    /// # Shapes
    /// - x: `[.., d_in]`; output: `[.., d_out]`
    fn adapted_rows(
        x: FloatTensor<Self>,
        form: Option<GeluForm>,
        map: FrozenMap<Self>,
        update: Update<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        default::adapted_rows::<Self>(x, form, map, update)
    }

    /// [`adapted_linear`](Self::adapted_linear) of `x = gelu(h)`, which is not kept for the backward pass.
    ///
    /// # Shapes
    /// - h: `[n, d_in]`; outputs: `[n, d_out]` and `[n, r]`
    fn gelu_linear(
        h: FloatTensor<Self>,
        form: GeluForm,
        map: FrozenMap<Self>,
        update: Update<FloatTensor<Self>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        Self::adapted_linear(form.apply::<Self>(h), map, update)
    }

    /// The gradients of [`gelu_linear`](Self::gelu_linear) to both factors, and to h if `needs_h` asks for it. Called on the inner backend
    /// only.
    ///
    /// # Shapes
    /// - as in [`adapted_linear_backward`](Self::adapted_linear_backward), with h for x
    fn gelu_linear_backward(
        h: FloatTensor<Self>,
        form: GeluForm,
        weight: HeldWeight<Self>,
        update: Update<FloatTensor<Self>>,
        narrow: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        needs_h: bool,
    ) -> AdaptedGradients<FloatTensor<Self>> {
        default::gelu_linear_backward::<Self>(h, form, weight, update, narrow, grad, needs_h)
    }
}

//! The tensors of a frozen map and of its update, as the operations take them.

use burn::tensor::{DType, TensorMetadata, backend::Backend, ops::FloatTensor};

use super::{LinearOps, Nf4Weight};

/// A frozen linear map.
#[derive(Debug, Clone)]
pub struct FrozenMap<B: Backend> {
    /// `[d_in, d_out]`
    pub weight: HeldWeight<B>,
    /// `[d_out]`
    pub bias: Option<FloatTensor<B>>,
}

impl<B: Backend> FrozenMap<B> {
    /// A map whose weight is a matrix of floats.
    ///
    /// # Shapes
    /// - weight: `[d_in, d_out]`, perhaps in half precision; bias: `[d_out]`
    pub fn dense(weight: FloatTensor<B>, bias: Option<FloatTensor<B>>) -> Self {
        Self {
            weight: HeldWeight::Dense(weight),
            bias,
        }
    }
}

/// A frozen weight `[d_in, d_out]` in the form that the device holds.
///
/// A fast path asks for the form that it reads ([`as_dense`](Self::as_dense)) and leaves the others to the default body. Default bodies
/// take any form as a matrix of floats ([`into_dense`](Self::into_dense)). So another form is a variant here and in
/// [`FrozenWeight`](crate::FrozenWeight), and works on every backend; fast paths can follow one by one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum HeldWeight<B: Backend> {
    /// A matrix of floats, perhaps in half precision.
    Dense(FloatTensor<B>),
    /// A matrix in 4 bits.
    Nf4(Nf4Weight<B>),
}

impl<B: Backend> HeldWeight<B> {
    /// The matrix of floats, if that is the form.
    pub fn as_dense(&self) -> Option<&FloatTensor<B>> {
        match self {
            Self::Dense(weight) => Some(weight),
            Self::Nf4(_) => None,
        }
    }

    /// `[d_in, d_out]`
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.shape().dims(),
            Self::Nf4(weight) => weight.dims(),
        }
    }

    /// The dtype that products with the weight are computed in.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Dense(weight) => weight.dtype(),
            Self::Nf4(weight) => weight.dtype(),
        }
    }
}

impl<B: LinearOps> HeldWeight<B> {
    /// The weight as a matrix of floats in its dtype. A dense weight is returned unchanged; one in 4 bits is decoded, and should be let go
    /// after one product.
    pub fn into_dense(self) -> FloatTensor<B> {
        match self {
            Self::Dense(weight) => weight,
            Self::Nf4(weight) => B::decoded(weight),
        }
    }
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

/// The result of [`adapted_linear_backward`](super::LinearOps::adapted_linear_backward).
#[derive(Debug)]
pub struct AdaptedGradients<T> {
    /// `[n, d_in]`; `None` if it was not asked for.
    pub x: Option<T>,
    /// `[d_in, r]`
    pub down: T,
    /// `[r, d_out]`
    pub up: T,
}

//! The operations that the library adds to Burn's `Backend`: a trait for each family, and their sum, [`VbLoraBackend`].
//!
//! | trait | operations |
//! | --- | --- |
//! | [`MixOps`] | top-k selection, the mixture of bank vectors, joined rows |
//! | [`LinearOps`] | frozen linear maps and their low-rank updates |
//! | [`NormOps`] | layer normalisation, normalisation by the root mean square |
//! | [`ActivationOps`] | GELU, softmax, gated units |
//! | [`AttentionOps`] | attention of padded, unpadded and causal batches, rotary positions |
//! | [`PositionOps`] | attention with rotary or relative positions over whole texts |
//! | [`DropoutOps`] | dropout by a key |
//! | [`OptimizerOps`] | the update of AdamW |
//! | [`BlockOps`] | several maps of one input, with attention or a gated unit |
//! | [`StepOps`] | a block of a decoder on one token a row |
//!
//! A family is a folder. `mod.rs` is the contract, `default.rs` has the bodies in plain tensor operations, `autodiff.rs` the hand-written
//! backward passes. `flex.rs`, `ndarray.rs` and `gpu.rs` have the fast forms of single backends. Other files hold the pieces that several
//! families share, and the choice of a backend by name.

mod activation;
mod attention;
mod autodiff;
mod block;
mod choice;
mod dropout;
mod exchange;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "gpu")]
mod gpu;
mod linear;
mod mix;
#[cfg(feature = "ndarray")]
mod ndarray;
mod norm;
mod optimizer;
mod positions;
mod step;

use burn::tensor::{
    Shape, Tensor, TensorData, TensorMetadata, TensorPrimitive,
    backend::Backend,
    ops::{Device, FloatTensor, IntTensor},
};

pub use activation::{ActivationOps, Gate, GeluForm};
pub use attention::{AttentionOps, AttentionSettings, CausalSettings, HeadForm, HeadProduct};
pub(crate) use autodiff::seed;
pub use block::{BlockOps, JoinedGradients, SelfAttention, Updates};
pub use choice::{BackendJob, BackendKind, DEFAULT_BACKEND};
pub use dropout::DropoutOps;
pub use exchange::{Exchange, Exchanges, Join, Joined};
#[cfg(feature = "cuda")]
pub use gpu::Cuda;
#[cfg(feature = "wgpu")]
pub use gpu::Wgpu;
pub use linear::{AdaptedGradients, FrozenMap, HeldWeight, LinearOps, Nf4Weight, Update};
pub use mix::MixOps;
pub use norm::{NormGradients, NormOps};
pub use optimizer::{AdamWStep, Clip, OptimizerOps};
pub use positions::{PositionOps, RelativeTables, RotarySettings, Texts};
pub use step::{StepForm, StepMap, StepNorm, StepOps, StepPlaces};

/// Burn's `Backend` with every family of operations that the library adds to it.
///
/// The families hold the top-k admixture, keyed dropout and the operations of a transformer block. Burn's autodiff keeps several full-size
/// tensors for each of the latter (GELU, softmax, normalisation, attention). So they have backward passes of their own here.
///
/// Every method has a default body: another backend needs an empty `impl` of each family and of this trait. An override must give the
/// same indices and masks to the bit, and the same sums to rounding. `tests/suite` holds the shipped backends to that.
pub trait VbLoraBackend:
    MixOps
    + LinearOps
    + NormOps
    + ActivationOps
    + AttentionOps
    + PositionOps
    + DropoutOps
    + BlockOps
    + StepOps
    + OptimizerOps
{
    /// The size in bytes of the largest tensor that is safe on the device. `None` if the backend reports larger ones as errors. Some
    /// backends read back garbage instead.
    fn max_tensor_bytes(_device: &Device<Self>) -> Option<usize> {
        None
    }

    /// A meter of the bytes that this thread's tensors take on the device now, without what its allocator keeps for later. `None` if the
    /// backend does not count them.
    fn memory_meter(_device: &Device<Self>) -> Option<MemoryMeter> {
        None
    }

    /// A function that asks for the values of tensors now, to wait for them later. Work that is asked for in between does not delay them.
    /// `None` if the host does the device's work itself, so that it gains nothing by asking early.
    fn read_later() -> Option<ReadLater<Self>> {
        None
    }

    /// How several processes with devices like this one exchange tensors without their hosts. `None` if they cannot.
    fn exchanges(_device: &Device<Self>) -> Option<Exchanges<Self>> {
        None
    }
}

/// Asks for the values of float tensors and int tensors.
pub type ReadLater<B> = fn(Vec<FloatTensor<B>>, Vec<IntTensor<B>>) -> Reading;

/// Waits for the values that were asked for, in their order, floats first. Without them it says why the device failed.
pub type Reading = Box<dyn FnOnce() -> Result<Vec<TensorData>, String>>;

/// Reads a number of bytes, from any thread. It has none if the device fails.
pub type MemoryMeter = Box<dyn Fn() -> Option<u64> + Send>;

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
/// A matrix of one column, or an inner dimension of one, is multiplied and summed element by element, forward and backward. Burn 0.21 is
/// wrong there when its products are both fused and tuned: it tries kernels for one column that give other values (issue 5122).
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

//! Views of tensors, which backends on a CPU walk value by value.

use burn::tensor::Tensor;
use vblora::backend::VbLoraBackend;

/// The same values one after the other in memory, for operations on each value. Backends that fuse such operations keep the view.
pub(super) fn in_order<B: VbLoraBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    if !is_eager::<B>() {
        return x;
    }
    let dims = x.dims();
    let size = dims.iter().product::<usize>();
    x.reshape([size]).reshape(dims)
}

/// Returns true for the backends on a CPU, which compute each operation as it is called. They are those that skip padding.
pub(super) fn is_eager<B: VbLoraBackend>() -> bool {
    B::skips_padding()
}

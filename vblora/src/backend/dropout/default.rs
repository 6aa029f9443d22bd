//! Dropout in plain tensor operations.

use burn::tensor::{TensorMetadata, backend::Backend, ops::FloatTensor};

use super::{DropoutOps, mask};
use crate::{
    Unpadded,
    backend::{float, primitive},
};

pub(super) fn dropout<B: Backend>(x: FloatTensor<B>, key: u64, p: f64) -> FloatTensor<B> {
    let shape = x.shape();
    let mask = mask::on_device::<B>(shape.num_elements(), &B::float_device(&x), key, p);
    B::float_mul(x, B::float_reshape(primitive(mask), shape))
}

/// Pads the batch, applies dropout and removes the padding again.
pub(in crate::backend) fn unpadded_dropout<B: DropoutOps>(
    x: FloatTensor<B>,
    unpadded: &Unpadded,
    key: u64,
    p: f64,
) -> FloatTensor<B> {
    let padded = primitive(unpadded.padded(float::<B, 2>(x)));
    primitive(unpadded.unpadded(float::<B, 3>(B::dropout(padded, key, p))))
}

//! Direct access to flex's memory, for the fast paths of the families.
//!
//! A fast path makes one pass instead of a tensor per step. It works in place if nothing else holds the tensor. For element types other
//! than f32 it falls back to the default body.

#[cfg(test)]
mod tests;

use burn::{
    backend::flex::{Flex, FlexTensor},
    tensor::{DType, Shape, TensorData, TensorMetadata},
};

use vblora_kernels::zeros;

use super::VbLoraBackend;

impl VbLoraBackend for Flex {}

pub(super) fn is_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32)
}

/// The last dimension.
pub(super) fn width(x: &FlexTensor) -> usize {
    let shape = x.shape();
    shape[shape.num_dims() - 1]
}

/// The shape of a tensor with another last dimension.
pub(super) fn with_width(x: &FlexTensor, d: usize) -> Shape {
    let mut dims = x.shape().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = d;
    }
    Shape::from(dims)
}

/// A tensor of these values.
pub(super) fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The tensor's elements in row-major order, changed by `change`.
pub(super) fn in_place(x: FlexTensor, change: impl FnOnce(&mut [f32])) -> FlexTensor {
    // Row-major over the whole buffer, so the buffer is the tensor.
    let contiguous = x.to_contiguous();
    // After this drop the contiguous tensor may be the last holder of its buffer, which can then change in place.
    drop(x);
    let mut x = contiguous;
    change(x.storage_mut::<f32>());
    x
}

/// A tensor of the same shape. `body(elements, elements of the result)` reads and writes all of them in row-major order.
pub(super) fn mapped(x: FlexTensor, body: impl FnOnce(&[f32], &mut [f32])) -> FlexTensor {
    let x = x.to_contiguous();
    let from = x.storage::<f32>();
    let mut out = zeros(from.len());
    body(from, &mut out);
    tensor(out, x.shape())
}

/// The tensor's elements in row-major order, changed by `change(values, others)`.
pub(super) fn in_place_with(
    values: FlexTensor,
    others: &FlexTensor,
    change: impl FnOnce(&mut [f32], &[f32]),
) -> FlexTensor {
    let others = others.to_contiguous();
    in_place(values, |values| change(values, others.storage::<f32>()))
}

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

use super::{
    VbLoraBackend,
    kernels::{over_rows, zeros},
};

impl VbLoraBackend for Flex {}

/// Least number of elements in a run of elementwise work.
pub(in crate::backend) const RUN: usize = 1024;

pub(super) fn is_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32)
}

/// The last dimension.
pub(super) fn width(x: &FlexTensor) -> usize {
    let shape = x.shape();
    shape[shape.num_dims() - 1]
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

/// A tensor of the same shape. `body(row of x, row of the result)` writes each of its rows of `d` elements.
pub(super) fn mapped(
    x: FlexTensor,
    d: usize,
    body: impl Fn(&[f32], &mut [f32]) + Sync,
) -> FlexTensor {
    let x = x.to_contiguous();
    let from = x.storage::<f32>();
    let mut out = zeros(from.len());
    over_rows(&mut out, d, |start, run| {
        for (from, to) in from[start..].chunks_exact(d).zip(run.chunks_exact_mut(d)) {
            body(from, to);
        }
    });
    tensor(out, x.shape())
}

/// Each element becomes `change(value)`.
pub(super) fn each(values: FlexTensor, change: impl Fn(f32) -> f32 + Sync) -> FlexTensor {
    in_place(values, |values| {
        over_rows(values, RUN.min(values.len()), |_, run| {
            for value in run {
                *value = change(*value);
            }
        });
    })
}

/// Each element becomes `change(value, other)`.
pub(super) fn each_with(
    values: FlexTensor,
    other: &FlexTensor,
    change: impl Fn(f32, f32) -> f32 + Sync,
) -> FlexTensor {
    let other = other.to_contiguous();
    let other = other.storage::<f32>();
    in_place(values, |values| {
        over_rows(values, RUN.min(values.len()), |start, run| {
            for (value, &other) in run.iter_mut().zip(&other[start..]) {
                *value = change(*value, other);
            }
        });
    })
}

/// Each row of `d` elements is changed by `change(row, other)`.
pub(super) fn each_row_with(
    rows: FlexTensor,
    other: &FlexTensor,
    d: usize,
    change: impl Fn(&mut [f32], &[f32]) + Sync,
) -> FlexTensor {
    let other = other.to_contiguous();
    let other = other.storage::<f32>();
    in_place(rows, |rows| {
        over_rows(rows, d, |start, run| {
            for (row, other) in run.chunks_exact_mut(d).zip(other[start..].chunks_exact(d)) {
                change(row, other);
            }
        });
    })
}

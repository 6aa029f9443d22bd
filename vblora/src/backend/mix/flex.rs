//! Selection and mixture on flex, in one pass over the rows.

use burn::{
    backend::flex::{Flex, FlexTensor},
    tensor::{
        DType, Shape, TensorData, TensorMetadata,
        ops::{FloatTensor, IntTensor},
    },
};
use pulp::Arch;

use super::{MixOps, default, select::top_k_rows};
use crate::backend::{
    flex::{is_f32, tensor},
    kernels::{over_rows, sum_of},
};

impl MixOps for Flex {
    fn top_k_indices(logits: FloatTensor<Self>, k: usize) -> IntTensor<Self> {
        if !is_f32(&[&logits]) {
            return default::top_k_indices::<Self>(logits, k);
        }
        let [s, h] = logits.shape().dims::<2>();
        let logits = logits.to_contiguous();
        // Flex reads indices as i32.
        let picked: Vec<i32> = top_k_rows(logits.storage::<f32>(), h, k)
            .map(|i| i as i32)
            .collect();
        FlexTensor::from_data(TensorData::new(picked, [s, k]))
    }

    fn mix(
        bank: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        indices: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        if !is_f32(&[&bank, &weights]) || indices.dtype() != DType::I32 {
            return default::mix::<Self>(bank, weights, indices);
        }
        let ([s, k], [_, b]) = (weights.shape().dims::<2>(), bank.shape().dims::<2>());
        let [bank, weights, indices] = [bank, weights, indices].map(|x| x.to_contiguous());
        let (bank, weights) = (bank.storage::<f32>(), weights.storage::<f32>());
        let indices = indices.storage::<i32>();
        let mut out = vec![0.0; s * b];
        over_rows(&mut out, b, |start, run| {
            for (row, out) in run.chunks_exact_mut(b).enumerate() {
                let at = (start / b + row) * k;
                mix_row(bank, &weights[at..][..k], &indices[at..][..k], out);
            }
        });
        tensor(out, Shape::new([s, b]))
    }

    fn mix_backward(
        bank: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        indices: IntTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !is_f32(&[&bank, &weights, &grad]) || indices.dtype() != DType::I32 {
            return default::mix_backward::<Self>(bank, weights, indices, grad);
        }
        let ([s, k], [h, b]) = (weights.shape().dims::<2>(), bank.shape().dims::<2>());
        let [bank, weights, indices, grad] =
            [bank, weights, indices, grad].map(|x| x.to_contiguous());
        let (mut d_bank, mut d_weights) = (vec![0.0; h * b], vec![0.0; s * k]);
        gradients(
            bank.storage(),
            weights.storage(),
            indices.storage(),
            grad.storage(),
            [k, b],
            [&mut d_bank, &mut d_weights],
        );
        (
            tensor(d_bank, Shape::new([h, b])),
            tensor(d_weights, Shape::new([s, k])),
        )
    }
}

/// One sub-vector, `sum_j weights[j] bank[indices[j]]`.
#[inline(always)]
fn mix_row(bank: &[f32], weights: &[f32], indices: &[i32], out: &mut [f32]) {
    let b = out.len();
    for (&weight, &index) in weights.iter().zip(indices) {
        for (out, &value) in out.iter_mut().zip(&bank[index as usize * b..][..b]) {
            *out += weight * value;
        }
    }
}

/// The gradients of all sub-vectors `[S, b]`: to the bank `[h, b]`, added up row after row, and to the weights `[S, k]`.
fn gradients(
    bank: &[f32],
    weights: &[f32],
    indices: &[i32],
    grad: &[f32],
    [k, b]: [usize; 2],
    [d_bank, d_weights]: [&mut [f32]; 2],
) {
    Arch::new().dispatch(|| {
        for (s, grad) in grad.chunks_exact(b).enumerate() {
            for at in s * k..(s + 1) * k {
                let row = indices[at] as usize * b..(indices[at] as usize + 1) * b;
                let vector = &bank[row.clone()];
                d_weights[at] = sum_of(b, |i| vector[i] * grad[i]);
                for (sum, &value) in d_bank[row].iter_mut().zip(grad) {
                    *sum += weights[at] * value;
                }
            }
        }
    });
}

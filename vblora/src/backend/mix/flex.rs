//! Selection and mixture on flex.

use burn::{
    backend::flex::{Flex, FlexTensor},
    tensor::{
        DType, Shape, TensorData, TensorMetadata,
        ops::{FloatTensor, IntTensor},
    },
};
use vblora_kernels::mix::{mix, mix_backward, top_k_rows};

use super::{MixOps, default};
use crate::backend::flex::{is_f32, tensor};

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
        mix(bank, weights, indices, [k, b], &mut out);
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
        mix_backward(
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

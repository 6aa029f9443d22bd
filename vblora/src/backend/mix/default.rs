//! Selection and mixture in plain tensor operations.

use burn::tensor::{
    IndexingUpdateOp, Int, Tensor,
    backend::Backend,
    ops::{FloatTensor, IntTensor},
};

use crate::backend::{float, matmul, primitive};

/// Finds indices by `k` passes of max, compare and mask, without a read-back. It does not sort, because Burn's sort is unstable. Rows must
/// be finite: a masked entry is -inf.
pub(super) fn top_k_indices<B: Backend>(logits: FloatTensor<B>, k: usize) -> IntTensor<B> {
    let mut logits = float::<B, 2>(logits);
    let [_, h] = logits.dims();
    let column = Tensor::<B, 1, Int>::arange(0..h as i64, &logits.device()).unsqueeze::<2>();
    let mut picked = Vec::with_capacity(k);
    for _ in 0..k {
        // Takes the lowest index among the maxima, whatever the backend's argmax does with ties.
        let is_max = logits
            .clone()
            .equal(logits.clone().max_dim(1).expand(logits.dims()));
        let index = column
            .clone()
            .expand(logits.dims())
            .mask_fill(is_max.bool_not(), h as i64)
            .min_dim(1);
        let taken = column
            .clone()
            .expand(logits.dims())
            .equal(index.clone().expand(logits.dims()));
        logits = logits.mask_fill(taken, f32::NEG_INFINITY);
        picked.push(index);
    }
    Tensor::cat(picked, 1).into_primitive()
}

pub(super) fn mix<B: Backend>(
    bank: FloatTensor<B>,
    weights: FloatTensor<B>,
    indices: IntTensor<B>,
) -> FloatTensor<B> {
    let (bank, weights) = (float::<B, 2>(bank), float::<B, 2>(weights));
    let ([s, k], [_, b]) = (weights.dims(), bank.dims());
    let flat = Tensor::<B, 2, Int>::from_primitive(indices).reshape([s * k]);
    let rows = bank.select(0, flat).reshape([s, k, b]);
    let mixed = (rows * weights.unsqueeze_dim::<3>(2)).sum_dim(1);
    primitive(mixed.reshape([s, b]))
}

pub(super) fn mix_backward<B: Backend>(
    bank: FloatTensor<B>,
    weights: FloatTensor<B>,
    indices: IntTensor<B>,
    grad: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (bank, weights) = (float::<B, 2>(bank), float::<B, 2>(weights));
    let ([s, k], [h, b]) = (weights.dims(), bank.dims());
    let flat = Tensor::<B, 2, Int>::from_primitive(indices).reshape([s * k]);
    let rows = bank.select(0, flat.clone()).reshape([s, k, b]);
    let grad = float::<B, 2>(grad);
    let d_weights = (rows * grad.clone().unsqueeze_dim::<3>(1)).sum_dim(2);
    let d_bank = bank_gradient(weights, flat.reshape([s, k]), grad, h);
    (primitive(d_bank), primitive(d_weights.reshape([s, k])))
}

/// Size limit of the dense form of some rows of weights. Every device can hold as much in one tensor.
const DENSE_BYTES: usize = 64 << 20;

/// `W^T grad`, where W, `[S, h]`, has the weights at their indices. W is made dense for some rows at a time.
///
/// Adding rows at indices would be simpler. GPUs run that with one thread per column over all S k rows.
///
/// # Shapes
/// - weights and indices: `[S, k]`, grad: `[S, b]`; output: `[h, b]`
pub(super) fn bank_gradient<B: Backend>(
    weights: Tensor<B, 2>,
    indices: Tensor<B, 2, Int>,
    grad: Tensor<B, 2>,
    h: usize,
) -> Tensor<B, 2> {
    let ([s, _], [_, b]) = (weights.dims(), grad.dims());
    let step = (DENSE_BYTES / (4 * h.max(1))).max(1);
    let device = grad.device();
    let products = (0..s).step_by(step).map(|start| {
        let rows = start..(start + step).min(s);
        let part = rows.len();
        let dense = Tensor::<B, 2>::zeros([part, h], &device).scatter(
            1,
            indices.clone().slice([rows.clone()]),
            weights.clone().slice([rows.clone()]),
            IndexingUpdateOp::Add,
        );
        matmul(dense.transpose(), grad.clone().slice([rows]))
    });
    products
        .reduce(|a, b| a + b)
        .unwrap_or_else(|| Tensor::zeros([h, b], &device))
}

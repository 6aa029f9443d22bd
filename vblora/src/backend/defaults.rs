//! The default bodies: plain tensor operations, right on every backend, and what every fast path is held to.

use burn::tensor::{IndexingUpdateOp, Int, Tensor, backend::Backend};

/// `k` passes of max, compare and mask: no sort (Burn's is unstable), no read-back. Rows must be finite: a masked entry is -inf.
pub(super) fn top_k<B: Backend>(mut logits: Tensor<B, 2>, k: usize) -> Tensor<B, 2, Int> {
    let [_, h] = logits.dims();
    let column = Tensor::<B, 1, Int>::arange(0..h as i64, &logits.device()).unsqueeze::<2>();
    let mut picked = Vec::with_capacity(k);
    for _ in 0..k {
        // The lowest index among the maxima, whatever the backend's argmax does with ties.
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
    Tensor::cat(picked, 1)
}

pub(super) fn mix<B: Backend>(
    bank: Tensor<B, 2>,
    weights: Tensor<B, 2>,
    indices: Tensor<B, 2, Int>,
) -> Tensor<B, 2> {
    let ([s, k], [_, b]) = (weights.dims(), bank.dims());
    let rows = bank.select(0, indices.reshape([s * k])).reshape([s, k, b]);
    (rows * weights.unsqueeze_dim::<3>(2))
        .sum_dim(1)
        .reshape([s, b])
}

pub(super) fn mix_backward<B: Backend>(
    bank: Tensor<B, 2>,
    weights: Tensor<B, 2>,
    indices: Tensor<B, 2, Int>,
    grad: Tensor<B, 2>,
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let ([s, k], [h, b]) = (weights.dims(), bank.dims());
    let flat = indices.reshape([s * k]);
    let rows = bank.select(0, flat.clone()).reshape([s, k, b]);
    let grad = grad.unsqueeze_dim::<3>(1);
    let d_weights = (rows * grad.clone()).sum_dim(2).reshape([s, k]);
    let shares = (grad * weights.unsqueeze_dim::<3>(2)).reshape([s * k, b]);
    let d_bank = Tensor::<B, 2>::zeros([h, b], &shares.device()).select_assign(
        0,
        flat,
        shares,
        IndexingUpdateOp::Add,
    );
    (d_bank, d_weights)
}

pub(super) fn erf_gelu_backward<B: Backend>(x: Tensor<B, 2>, grad: Tensor<B, 2>) -> Tensor<B, 2> {
    let phi = x
        .clone()
        .square()
        .mul_scalar(-0.5)
        .exp()
        .mul_scalar(1.0 / std::f64::consts::TAU.sqrt());
    let cumulative = x
        .clone()
        .mul_scalar(std::f64::consts::FRAC_1_SQRT_2)
        .erf()
        .add_scalar(1.0)
        .mul_scalar(0.5);
    grad * (cumulative + x * phi)
}

/// `y (g - sum(g y))` per row.
pub(super) fn row_softmax_backward<B: Backend>(
    output: Tensor<B, 2>,
    grad: Tensor<B, 2>,
) -> Tensor<B, 2> {
    let sum = (output.clone() * grad.clone()).sum_dim(1);
    output * (grad - sum)
}

/// With `n = (x - mean) / std` and `g = grad gamma`: `dx = (g - mean(g) - n mean(g n)) / std`, `dgamma = sum(grad n)`, `dbeta = sum(grad)`.
#[allow(clippy::type_complexity)]
pub(super) fn row_norm_backward<B: Backend>(
    x: Tensor<B, 2>,
    gamma: Tensor<B, 1>,
    epsilon: f64,
    grad: Tensor<B, 2>,
    affine: bool,
) -> (Tensor<B, 2>, Option<(Tensor<B, 1>, Tensor<B, 1>)>) {
    let centred = x.clone() - x.mean_dim(1);
    let inverse = centred
        .clone()
        .square()
        .mean_dim(1)
        .add_scalar(epsilon)
        .sqrt()
        .recip();
    let normal = centred * inverse.clone();
    let affine = affine.then(|| {
        let d_gamma = (grad.clone() * normal.clone())
            .sum_dim(0)
            .squeeze_dim::<1>(0);
        (d_gamma, grad.clone().sum_dim(0).squeeze_dim::<1>(0))
    });
    let g = grad * gamma.unsqueeze::<2>();
    let (mean, along) = (
        g.clone().mean_dim(1),
        (g.clone() * normal.clone()).mean_dim(1),
    );
    ((g - mean - normal * along) * inverse, affine)
}

//! Top-k admixture (paper 3.2, equation 3.3): a sub-vector is a softmax mixture of the k bank vectors with the largest logits.

use burn::tensor::{Int, Tensor, TensorPrimitive};
use vblora_kernels::numbers::first_not_finite;

use crate::{
    Error, Result,
    backend::{VbLoraBackend, matmul, primitive},
    ops::softmax,
};

/// `u_s = sum_j w_sj bank[i_sj]` with `i_s` the k largest logits of row s and `w_s` the softmax over those k alone.
///
/// The mixture is differentiable in logits and bank. Let `g` be the gradient of `u_s`. Bank row `i_sj` receives `w_sj g`. Logit `i_sj`
/// receives `w_sj (bank[i_sj] . g - sum_l w_sl bank[i_sl] . g)`; every other logit receives exactly 0. With k = 1 every logit's gradient is
/// 0. Ties go to the lowest index.
///
/// # Shapes
/// - logits: `[S, h]`, bank: `[h, b]`
/// - output: `[S, b]`
///
/// # Errors
/// Shapes that do not fit, k outside `1..=h`, or a logit that is not finite. This check reads the logits back to the host. A training loop
/// that has checked them once uses [`admixture_unchecked`].
pub fn admixture<B: VbLoraBackend>(
    logits: Tensor<B, 2>,
    bank: Tensor<B, 2>,
    k: usize,
) -> Result<Tensor<B, 2>> {
    let ([s, h], [rows, b]) = (logits.dims(), bank.dims());
    if rows != h {
        return Err(Error::Shape {
            tensor: "bank".into(),
            expected: vec![h, b],
            found: vec![rows, b],
        });
    }
    if !(1..=h).contains(&k) {
        return Err(Error::setting("topk", format!("from 1 to h = {h}"), k));
    }
    if s > 0 {
        check_finite("logits", h, &host(logits.clone()))?;
    }
    Ok(admixture_unchecked(logits, bank, k))
}

/// [`admixture`] without its checks and their read-back. The result is unspecified if a check would fail.
pub fn admixture_unchecked<B: VbLoraBackend>(
    logits: Tensor<B, 2>,
    bank: Tensor<B, 2>,
    k: usize,
) -> Tensor<B, 2> {
    let [_, h] = logits.dims();
    if k == h {
        return matmul(softmax(logits), bank);
    }
    let indices =
        Tensor::<B, 2, Int>::from_primitive(B::top_k_indices(primitive(logits.clone()), k));
    let weights = softmax(logits.gather(1, indices.clone()));
    mix(bank, weights, indices)
}

/// `out[s, :] = sum_j weights[s, j] * bank[indices[s, j], :]`.
///
/// # Shapes
/// - bank: `[h, b]`, weights and indices: `[S, k]`; output: `[S, b]`
pub(crate) fn mix<B: VbLoraBackend>(
    bank: Tensor<B, 2>,
    weights: Tensor<B, 2>,
    indices: Tensor<B, 2, Int>,
) -> Tensor<B, 2> {
    let mixed = B::mix(
        primitive(bank),
        primitive(weights),
        indices.into_primitive(),
    );
    Tensor::from_primitive(TensorPrimitive::Float(mixed))
}

/// Refuses NaN and infinities in a row-major `[rows, columns]` tensor.
pub(crate) fn check_finite(tensor: &str, columns: usize, values: &[f32]) -> Result<()> {
    match first_not_finite(values) {
        Some(at) => Err(Error::NonFinite {
            tensor: tensor.into(),
            row: at / columns.max(1),
            value: values[at],
        }),
        None => Ok(()),
    }
}

/// Refuses values that do not fill a row-major matrix of this shape, NaN and infinities.
pub(crate) fn check_values(tensor: &str, shape: [usize; 2], values: &[f32]) -> Result<()> {
    if shape[0].checked_mul(shape[1]) != Some(values.len()) {
        return Err(Error::Shape {
            tensor: tensor.into(),
            expected: shape.into(),
            found: vec![values.len()],
        });
    }
    check_finite(tensor, shape[1], values)
}

/// A tensor's values on the host, as f32.
pub(crate) fn host<B: VbLoraBackend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor
        .into_data()
        .convert::<f32>()
        .into_vec()
        .expect("converted to f32 just above")
}

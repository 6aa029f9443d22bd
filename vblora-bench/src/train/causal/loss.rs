//! The loss of predicted tokens.

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};
use vblora::{backend::VbLoraBackend, ops::cross_entropy};

/// The mean negative log-likelihood of the targets, with label smoothing as in torch's `CrossEntropyLoss`. A share of `smoothing` of each
/// target's probability is spread evenly over the vocabulary.
///
/// # Shapes
/// - logits: `[m, vocabulary]`, one row per target; output: `[1]`
pub fn token_loss<B: VbLoraBackend>(
    logits: Tensor<B, 2>,
    targets: &[i32],
    smoothing: f64,
) -> Tensor<B, 1> {
    let targets = ints::<B>(targets, &logits.device());
    cross_entropy(logits, targets, smoothing).mean()
}

/// Indices on the device.
pub(super) fn ints<B: Backend>(values: &[i32], device: &B::Device) -> Tensor<B, 1, Int> {
    // I32 is every backend's index type, or converts to it.
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

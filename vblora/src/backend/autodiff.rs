//! Pieces that the hand-written backward passes share, and the sum of the families on `Autodiff<B>`.

mod seed;

use burn::{
    backend::autodiff::{
        Autodiff, NodeId, checkpoint::strategy::CheckpointStrategy, grads::Gradients,
    },
    tensor::{backend::Backend, ops::FloatTensor},
};

use super::VbLoraBackend;

pub(crate) use seed::seed;

impl<B: VbLoraBackend, C: CheckpointStrategy> VbLoraBackend for Autodiff<B, C> {}

/// Hands each gradient that was computed to the parent that asked for it.
pub(super) fn register<B: Backend, const N: usize>(
    grads: &mut Gradients,
    parents: [Option<NodeId>; N],
    found: [Option<FloatTensor<B>>; N],
) {
    for (id, grad) in parents.into_iter().zip(found) {
        if let (Some(id), Some(grad)) = (id, grad) {
            grads.register::<B>(id, grad);
        }
    }
}

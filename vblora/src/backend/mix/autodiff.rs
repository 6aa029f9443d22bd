//! Selection runs on the inner backend; the mixture has a backward pass of its own.

use burn::{
    backend::autodiff::{
        Autodiff, NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::ops::{FloatTensor, IntTensor},
};

use super::MixOps;
use crate::backend::autodiff::register;

impl<B: MixOps, C: CheckpointStrategy> MixOps for Autodiff<B, C> {
    fn top_k_indices(logits: FloatTensor<Self>, k: usize) -> IntTensor<Self> {
        B::top_k_indices(logits.primitive, k)
    }

    fn mix(
        bank: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        indices: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        match Mix
            .prepare::<C>([bank.node.clone(), weights.node.clone()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let state = (
                    prep.checkpoint(&bank),
                    prep.checkpoint(&weights),
                    indices.clone(),
                );
                prep.finish(state, B::mix(bank.primitive, weights.primitive, indices))
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::mix(bank.primitive, weights.primitive, indices))
            }
        }
    }
}

#[derive(Debug)]
struct Mix;

impl<B: MixOps> Backward<B, 2> for Mix {
    type State = (NodeId, NodeId, IntTensor<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (bank, weights, indices) = ops.state;
        let bank = checkpointer.retrieve_node_output::<FloatTensor<B>>(bank);
        let weights = checkpointer.retrieve_node_output::<FloatTensor<B>>(weights);
        let grad = grads.consume::<B>(&ops.node);
        let (d_bank, d_weights) = B::mix_backward(bank, weights, indices, grad);
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        register::<B, 2>(grads, parents, [Some(d_bank), Some(d_weights)]);
    }
}

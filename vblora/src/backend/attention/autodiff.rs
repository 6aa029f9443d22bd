//! Backward passes of attention and rotation.

use burn::{
    backend::autodiff::{
        Autodiff, NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::{
        backend::AutodiffBackend,
        ops::{FloatTensor, IntTensor},
    },
};

use super::{AttentionOps, AttentionSettings, CausalSettings};
use crate::{Unpadded, backend::autodiff::register};

impl<B: AttentionOps, C: CheckpointStrategy> AttentionOps for Autodiff<B, C> {
    fn head_attention(
        [q, k, v]: [FloatTensor<Self>; 3],
        mask: Option<FloatTensor<Self>>,
        settings: AttentionSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let mask = mask.map(|mask| mask.primitive);
        let parents = [q.node.clone(), k.node.clone(), v.node.clone()];
        let (output, saved) = match Attention.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let nodes = [&q, &k, &v].map(|x| prep.checkpoint(x));
                let inputs = [q.primitive, k.primitive, v.primitive];
                let (output, saved) = B::head_attention(inputs, mask.clone(), settings);
                let state = (nodes, mask, saved.clone(), settings);
                (prep.finish(state, output), saved)
            }
            OpsKind::UnTracked(prep) => {
                let inputs = [q.primitive, k.primitive, v.primitive];
                let (output, saved) = B::head_attention(inputs, mask, settings);
                (prep.finish(output), saved)
            }
        };
        (output, <Self as AutodiffBackend>::from_inner(saved))
    }

    fn skips_padding() -> bool {
        B::skips_padding()
    }

    fn unpadded_attention(
        [q, k, v]: [FloatTensor<Self>; 3],
        unpadded: &Unpadded,
        settings: AttentionSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let parents = [q.node.clone(), k.node.clone(), v.node.clone()];
        let prepared = UnpaddedAttention.prepare::<C>(parents).compute_bound();
        let (output, saved) = match prepared.stateful() {
            OpsKind::Tracked(mut prep) => {
                let nodes = [&q, &k, &v].map(|x| prep.checkpoint(x));
                let inputs = [q.primitive, k.primitive, v.primitive];
                let (output, saved) = B::unpadded_attention(inputs, unpadded, settings);
                let state = (nodes, unpadded.clone(), saved.clone(), settings);
                (prep.finish(state, output), saved)
            }
            OpsKind::UnTracked(prep) => {
                let inputs = [q.primitive, k.primitive, v.primitive];
                let (output, saved) = B::unpadded_attention(inputs, unpadded, settings);
                (prep.finish(output), saved)
            }
        };
        (output, <Self as AutodiffBackend>::from_inner(saved))
    }

    fn causal_attention(
        [q, k, v]: [FloatTensor<Self>; 3],
        first: Option<IntTensor<Self>>,
        settings: CausalSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let parents = [q.node.clone(), k.node.clone(), v.node.clone()];
        let (output, saved) = match CausalAttention
            .prepare::<C>(parents)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let nodes = [&q, &k, &v].map(|x| prep.checkpoint(x));
                let inputs = [q.primitive, k.primitive, v.primitive];
                let (output, saved) = B::causal_attention(inputs, first.clone(), settings);
                let state = (nodes, first, saved.clone(), settings);
                (prep.finish(state, output), saved)
            }
            OpsKind::UnTracked(prep) => {
                let inputs = [q.primitive, k.primitive, v.primitive];
                let (output, saved) = B::causal_attention(inputs, first, settings);
                (prep.finish(output), saved)
            }
        };
        (output, Autodiff::<B, C>::from_inner(saved))
    }

    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let [cos, sin] = [cos.primitive, sin.primitive];
        match Rotate
            .prepare::<C>([x.node.clone()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let state = [cos.clone(), sin.clone()];
                prep.finish(state, B::rotate(x.primitive, cos, sin))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::rotate(x.primitive, cos, sin)),
        }
    }
}

#[derive(Debug)]
struct Attention;

impl<B: AttentionOps> Backward<B, 3> for Attention {
    /// The saved tensors: q, k, v, the mask, the second output.
    type State = (
        [NodeId; 3],
        Option<FloatTensor<B>>,
        FloatTensor<B>,
        AttentionSettings,
    );

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (nodes, mask, saved, settings) = ops.state;
        let inputs = nodes.map(|id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id));
        let grad = grads.consume::<B>(&ops.node);
        let found = B::head_attention_backward(inputs, mask, saved, settings, grad);
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        register::<B, 3>(grads, parents, found.map(Some));
    }
}

#[derive(Debug)]
struct UnpaddedAttention;

impl<B: AttentionOps> Backward<B, 3> for UnpaddedAttention {
    /// The saved state: q, k, v, the places of the tokens, the second output, the settings.
    type State = ([NodeId; 3], Unpadded, FloatTensor<B>, AttentionSettings);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (nodes, unpadded, saved, settings) = ops.state;
        let inputs = nodes.map(|id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id));
        let grad = grads.consume::<B>(&ops.node);
        let found = B::unpadded_attention_backward(inputs, &unpadded, saved, settings, grad);
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        register::<B, 3>(grads, parents, found.map(Some));
    }
}

#[derive(Debug)]
struct CausalAttention;

impl<B: AttentionOps> Backward<B, 3> for CausalAttention {
    type State = (
        [NodeId; 3],
        Option<IntTensor<B>>,
        FloatTensor<B>,
        CausalSettings,
    );

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (nodes, first, saved, settings) = ops.state;
        let inputs = nodes.map(|id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id));
        let grad = grads.consume::<B>(&ops.node);
        let found = B::causal_attention_backward(inputs, first, saved, settings, grad);
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        register::<B, 3>(grads, parents, found.map(Some));
    }
}

#[derive(Debug)]
struct Rotate;

impl<B: AttentionOps> Backward<B, 1> for Rotate {
    type State = [FloatTensor<B>; 2];

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [cos, sin] = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::rotate_backward(grad, cos, sin));
        }
    }
}

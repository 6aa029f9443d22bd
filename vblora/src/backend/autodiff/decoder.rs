//! The operations of a decoder block with their hand-written backwards.

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

use super::register;
use crate::backend::{CausalSettings, Gate, VbLoraBackend};

type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

pub(super) fn rms_norm<B: VbLoraBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    gamma: Tracked<B, C>,
    epsilon: f64,
) -> Tracked<B, C> {
    let parents = [x.node.clone(), gamma.node.clone()];
    match RmsNorm.prepare::<C>(parents).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let state = (prep.checkpoint(&x), gamma.primitive.clone(), epsilon);
            prep.finish(state, B::rms_norm(x.primitive, gamma.primitive, epsilon))
        }
        OpsKind::UnTracked(prep) => prep.finish(B::rms_norm(x.primitive, gamma.primitive, epsilon)),
    }
}

pub(super) fn gated<B: VbLoraBackend, C: CheckpointStrategy>(
    gate: Tracked<B, C>,
    up: Tracked<B, C>,
    form: Gate,
) -> Tracked<B, C> {
    match Gated
        .prepare::<C>([gate.node.clone(), up.node.clone()])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(mut prep) => {
            let nodes = [&gate, &up].map(|x| prep.checkpoint(x));
            prep.finish((nodes, form), B::gated(gate.primitive, up.primitive, form))
        }
        OpsKind::UnTracked(prep) => prep.finish(B::gated(gate.primitive, up.primitive, form)),
    }
}

pub(super) fn rotate<B: VbLoraBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    cos: Tracked<B, C>,
    sin: Tracked<B, C>,
) -> Tracked<B, C> {
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

pub(super) fn causal_attention<B: VbLoraBackend, C: CheckpointStrategy>(
    [q, k, v]: [Tracked<B, C>; 3],
    first: Option<IntTensor<B>>,
    settings: CausalSettings,
) -> (Tracked<B, C>, Tracked<B, C>) {
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

#[derive(Debug)]
struct RmsNorm;

impl<B: VbLoraBackend> Backward<B, 2> for RmsNorm {
    type State = (NodeId, FloatTensor<B>, f64);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (x, gamma, epsilon) = ops.state;
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(x);
        let grad = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        let affine = parents[1].is_some();
        let (dx, d_gamma) = B::rms_norm_backward(x, gamma, epsilon, grad, affine);
        register::<B, 2>(grads, parents, [Some(dx), d_gamma]);
    }
}

#[derive(Debug)]
struct Gated;

impl<B: VbLoraBackend> Backward<B, 2> for Gated {
    type State = ([NodeId; 2], Gate);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (nodes, form) = ops.state;
        let [gate, up] = nodes.map(|id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id));
        let grad = grads.consume::<B>(&ops.node);
        let found = B::gated_backward(gate, up, form, grad);
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        register::<B, 2>(grads, parents, found.map(Some));
    }
}

#[derive(Debug)]
struct Rotate;

impl<B: VbLoraBackend> Backward<B, 1> for Rotate {
    type State = [FloatTensor<B>; 2];

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [cos, sin] = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::rotate(grad, cos, B::float_neg(sin)));
        }
    }
}

#[derive(Debug)]
struct CausalAttention;

impl<B: VbLoraBackend> Backward<B, 3> for CausalAttention {
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

//! Backward passes of the activations. Each saves its input or its output, and no intermediate tensor.

use burn::{
    backend::autodiff::{
        Autodiff, NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::ops::{FloatTensor, IntTensor},
};

use super::{ActivationOps, Gate, GeluForm};
use crate::backend::autodiff::register;

impl<B: ActivationOps, C: CheckpointStrategy> ActivationOps for Autodiff<B, C> {
    fn erf_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        gelu::<B, C>(x, GeluForm::Erf)
    }

    fn tanh_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        gelu::<B, C>(x, GeluForm::Tanh)
    }

    fn row_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match Softmax
            .prepare::<C>([x.node.clone()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let output = B::row_softmax(x.primitive);
                prep.finish(output.clone(), output)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::row_softmax(x.primitive)),
        }
    }

    fn row_log_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match LogSoftmax
            .prepare::<C>([x.node.clone()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let output = B::row_log_softmax(x.primitive);
                prep.finish(output.clone(), output)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::row_log_softmax(x.primitive)),
        }
    }

    fn cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        smoothing: f64,
    ) -> FloatTensor<Self> {
        match CrossEntropy
            .prepare::<C>([logits.node.clone()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let [losses, kept] =
                    B::cross_entropy_forward(logits.primitive, targets.clone(), smoothing);
                prep.finish((kept, targets, smoothing), losses)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::cross_entropy(logits.primitive, targets, smoothing))
            }
        }
    }

    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, form: Gate) -> FloatTensor<Self> {
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

    fn gated_halves(both: FloatTensor<Self>, form: GeluForm) -> FloatTensor<Self> {
        match GatedHalves
            .prepare::<C>([both.node.clone()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&both), form);
                prep.finish(state, B::gated_halves(both.primitive, form))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::gated_halves(both.primitive, form)),
        }
    }
}

fn gelu<B: ActivationOps, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    form: GeluForm,
) -> FloatTensor<Autodiff<B, C>> {
    match Gelu
        .prepare::<C>([x.node.clone()])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(mut prep) => {
            let state = (prep.checkpoint(&x), form);
            prep.finish(state, form.apply::<B>(x.primitive))
        }
        OpsKind::UnTracked(prep) => prep.finish(form.apply::<B>(x.primitive)),
    }
}

#[derive(Debug)]
struct Gelu;

impl<B: ActivationOps> Backward<B, 1> for Gelu {
    type State = (NodeId, GeluForm);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (x, form) = ops.state;
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(x);
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, form.backward::<B>(x, grad));
        }
    }
}

#[derive(Debug)]
struct Softmax;

impl<B: ActivationOps> Backward<B, 1> for Softmax {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::row_softmax_backward(ops.state, grad));
        }
    }
}

#[derive(Debug)]
struct LogSoftmax;

impl<B: ActivationOps> Backward<B, 1> for LogSoftmax {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::row_log_softmax_backward(ops.state, grad));
        }
    }
}

#[derive(Debug)]
struct CrossEntropy;

impl<B: ActivationOps> Backward<B, 1> for CrossEntropy {
    type State = (FloatTensor<B>, IntTensor<B>, f64);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (kept, targets, smoothing) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            let found = B::cross_entropy_backward(kept, targets, smoothing, grad);
            grads.register::<B>(node.id, found);
        }
    }
}

#[derive(Debug)]
struct Gated;

impl<B: ActivationOps> Backward<B, 2> for Gated {
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
struct GatedHalves;

impl<B: ActivationOps> Backward<B, 1> for GatedHalves {
    type State = (NodeId, GeluForm);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (both, form) = ops.state;
        let both = checkpointer.retrieve_node_output::<FloatTensor<B>>(both);
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::gated_halves_backward(both, form, grad));
        }
    }
}

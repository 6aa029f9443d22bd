//! The gradient of a dropout is the same dropout of the gradient.

use burn::{
    backend::autodiff::{
        Autodiff,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::ops::FloatTensor,
};

use super::DropoutOps;
use crate::Packing;

impl<B: DropoutOps, C: CheckpointStrategy> DropoutOps for Autodiff<B, C> {
    fn dropout(x: FloatTensor<Self>, key: u64, p: f64) -> FloatTensor<Self> {
        match Dropout
            .prepare::<C>([x.node.clone()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((key, p), B::dropout(x.primitive, key, p)),
            OpsKind::UnTracked(prep) => prep.finish(B::dropout(x.primitive, key, p)),
        }
    }

    fn packed_dropout(
        x: FloatTensor<Self>,
        packing: &Packing,
        key: u64,
        p: f64,
    ) -> FloatTensor<Self> {
        let prepared = PackedDropout.prepare::<C>([x.node.clone()]);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let state = (packing.clone(), key, p);
                prep.finish(state, B::packed_dropout(x.primitive, packing, key, p))
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::packed_dropout(x.primitive, packing, key, p))
            }
        }
    }
}

#[derive(Debug)]
struct Dropout;

impl<B: DropoutOps> Backward<B, 1> for Dropout {
    type State = (u64, f64);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (key, p) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::dropout(grad, key, p));
        }
    }
}

#[derive(Debug)]
struct PackedDropout;

impl<B: DropoutOps> Backward<B, 1> for PackedDropout {
    type State = (Packing, u64, f64);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (packing, key, p) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::packed_dropout(grad, &packing, key, p));
        }
    }
}

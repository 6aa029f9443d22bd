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
use crate::Unpadded;

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

    fn unpadded_dropout(
        x: FloatTensor<Self>,
        unpadded: &Unpadded,
        key: u64,
        p: f64,
    ) -> FloatTensor<Self> {
        let prepared = UnpaddedDropout.prepare::<C>([x.node.clone()]);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let state = (unpadded.clone(), key, p);
                prep.finish(state, B::unpadded_dropout(x.primitive, unpadded, key, p))
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::unpadded_dropout(x.primitive, unpadded, key, p))
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
struct UnpaddedDropout;

impl<B: DropoutOps> Backward<B, 1> for UnpaddedDropout {
    type State = (Unpadded, u64, f64);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (unpadded, key, p) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::unpadded_dropout(grad, &unpadded, key, p));
        }
    }
}

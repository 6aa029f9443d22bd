//! Backward passes of the normalisations.

use burn::{
    backend::autodiff::{
        Autodiff, NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::ops::{FloatTensor, FloatTensorOps},
};

use super::NormOps;
use crate::backend::autodiff::register;

impl<B: NormOps, C: CheckpointStrategy> NormOps for Autodiff<B, C> {
    fn row_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let parents = [x.node.clone(), gamma.node.clone(), beta.node.clone()];
        match Norm.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), gamma.primitive.clone(), epsilon);
                prep.finish(
                    state,
                    B::row_norm(x.primitive, gamma.primitive, beta.primitive, epsilon),
                )
            }
            OpsKind::UnTracked(prep) => prep.finish(B::row_norm(
                x.primitive,
                gamma.primitive,
                beta.primitive,
                epsilon,
            )),
        }
    }

    fn invertible_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        if [&gamma, &beta]
            .iter()
            .any(|w| !w.node.requirement.is_none())
        {
            return Self::row_norm(x, gamma, beta, epsilon);
        }
        let (gamma, beta) = (gamma.primitive, beta.primitive);
        let prepared = InvertibleNorm.prepare::<C>([x.node.clone()]);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (y, deviation) =
                    B::norm_and_deviation(x.primitive, gamma.clone(), beta.clone(), epsilon);
                prep.finish((y.clone(), [gamma, beta], deviation), y)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::invertible_norm(x.primitive, gamma, beta, epsilon))
            }
        }
    }

    fn invertible_sum_norm(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        if [&gamma, &beta]
            .iter()
            .any(|w| !w.node.requirement.is_none())
        {
            return Self::row_norm(Self::float_add(x, residual), gamma, beta, epsilon);
        }
        let (gamma, beta) = (gamma.primitive, beta.primitive);
        let prepared = InvertibleNorm.prepare::<C>([x.node.clone(), residual.node.clone()]);
        let inputs = (x.primitive, residual.primitive);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let weights = [gamma.clone(), beta.clone()];
                let (y, deviation) =
                    B::sum_norm_and_deviation(inputs.0, inputs.1, gamma, beta, epsilon);
                prep.finish((y.clone(), weights, deviation), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::invertible_sum_norm(
                inputs.0, inputs.1, gamma, beta, epsilon,
            )),
        }
    }

    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let parents = [x.node.clone(), gamma.node.clone()];
        match RmsNorm.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), gamma.primitive.clone(), epsilon);
                prep.finish(state, B::rms_norm(x.primitive, gamma.primitive, epsilon))
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::rms_norm(x.primitive, gamma.primitive, epsilon))
            }
        }
    }
}

#[derive(Debug)]
struct Norm;

impl<B: NormOps> Backward<B, 3> for Norm {
    type State = (NodeId, FloatTensor<B>, f64);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (x, scale, epsilon) = ops.state;
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(x);
        let grad = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        let affine = parents[1].is_some() || parents[2].is_some();
        let (dx, affine) = B::row_norm_backward(x, scale, epsilon, grad, affine);
        let [d_gamma, d_beta] = affine.map_or([None, None], |found| found.map(Some));
        register::<B, 3>(grads, parents, [Some(dx), d_gamma, d_beta]);
    }
}

/// A norm of one input, or of the sum of two.
#[derive(Debug)]
struct InvertibleNorm;

impl<B: NormOps, const N: usize> Backward<B, N> for InvertibleNorm {
    /// The saved tensors: the output, gamma and beta, and the divisor of each row.
    type State = (FloatTensor<B>, [FloatTensor<B>; 2], FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (y, [gamma, beta], deviation) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let dx = B::invertible_norm_backward(y, gamma, beta, deviation, grad);
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        register::<B, N>(grads, parents, std::array::from_fn(|_| Some(dx.clone())));
    }
}

#[derive(Debug)]
struct RmsNorm;

impl<B: NormOps> Backward<B, 2> for RmsNorm {
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

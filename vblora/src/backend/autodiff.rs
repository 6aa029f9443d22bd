//! The extension trait on `Autodiff<B>`: selection runs on the inner backend, the mixture has a backward of its own.

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

use super::{AttentionSettings, VbLoraBackend, defaults};

impl<B: VbLoraBackend, C: CheckpointStrategy> VbLoraBackend for Autodiff<B, C> {
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

    fn erf_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match Gelu
            .prepare::<C>([x.node.clone()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let state = prep.checkpoint(&x);
                prep.finish(state, B::erf_gelu(x.primitive))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::erf_gelu(x.primitive)),
        }
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

    fn head_attention(
        [q, k, v]: [FloatTensor<Self>; 3],
        mask: Option<FloatTensor<Self>>,
        settings: AttentionSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let mask = mask.map(|mask| mask.primitive);
        let parents = [q.node.clone(), k.node.clone(), v.node.clone()];
        let (output, weights) = match Attention.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let nodes = [&q, &k, &v].map(|x| prep.checkpoint(x));
                let inputs = [q.primitive, k.primitive, v.primitive];
                let (output, weights) = B::head_attention(inputs, mask, settings);
                (
                    prep.finish((nodes, weights.clone(), settings), output),
                    weights,
                )
            }
            OpsKind::UnTracked(prep) => {
                let inputs = [q.primitive, k.primitive, v.primitive];
                let (output, weights) = B::head_attention(inputs, mask, settings);
                (prep.finish(output), weights)
            }
        };
        (output, <Self as AutodiffBackend>::from_inner(weights))
    }
}

#[derive(Debug)]
struct Mix;

impl<B: VbLoraBackend> Backward<B, 2> for Mix {
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
        let [bank, weights] = ops.parents;
        if let Some(node) = bank {
            grads.register::<B>(node.id, d_bank);
        }
        if let Some(node) = weights {
            grads.register::<B>(node.id, d_weights);
        }
    }
}

#[derive(Debug)]
struct Gelu;

impl<B: VbLoraBackend> Backward<B, 1> for Gelu {
    type State = NodeId;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(ops.state);
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::erf_gelu_backward(x, grad));
        }
    }
}

#[derive(Debug)]
struct Softmax;

impl<B: VbLoraBackend> Backward<B, 1> for Softmax {
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

impl<B: VbLoraBackend> Backward<B, 1> for LogSoftmax {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            let grad = defaults::row_log_softmax_backward::<B>(ops.state, grad);
            grads.register::<B>(node.id, grad);
        }
    }
}

#[derive(Debug)]
struct Norm;

impl<B: VbLoraBackend> Backward<B, 3> for Norm {
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
        let [to_x, to_gamma, to_beta] = ops.parents;
        let affine = to_gamma.is_some() || to_beta.is_some();
        let (dx, affine) = B::row_norm_backward(x, scale, epsilon, grad, affine);
        if let Some(node) = to_x {
            grads.register::<B>(node.id, dx);
        }
        if let Some(grads_affine) = affine {
            for (node, grad) in [to_gamma, to_beta].into_iter().zip(grads_affine) {
                if let Some(node) = node {
                    grads.register::<B>(node.id, grad);
                }
            }
        }
    }
}

#[derive(Debug)]
struct Dropout;

impl<B: VbLoraBackend> Backward<B, 1> for Dropout {
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
struct Attention;

impl<B: VbLoraBackend> Backward<B, 3> for Attention {
    type State = ([NodeId; 3], FloatTensor<B>, AttentionSettings);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (nodes, weights, settings) = ops.state;
        let inputs = nodes.map(|id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id));
        let grad = grads.consume::<B>(&ops.node);
        let found = B::head_attention_backward(inputs, weights, settings, grad);
        for (node, grad) in ops.parents.into_iter().zip(found) {
            if let Some(node) = node {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

//! The extension trait on `Autodiff<B>`: selection runs on the inner backend, the mixture has a backward of its own.

mod decoder;
mod seed;

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

use super::{
    AdaptedGradients, AttentionSettings, CausalSettings, FrozenMap, Gate, GeluForm, Update,
    VbLoraBackend, defaults,
};
pub(crate) use seed::seed;

use crate::Packing;

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

    fn frozen_linear(x: FloatTensor<Self>, map: FrozenMap<FloatTensor<Self>>) -> FloatTensor<Self> {
        let map = match frozen::<B, C>(map) {
            Ok(map) => map,
            Err(map) => return defaults::frozen_linear::<Self>(x, map),
        };
        match FrozenLinear
            .prepare::<C>([x.node.clone()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let weight = map.weight.clone();
                prep.finish(weight, B::frozen_linear(x.primitive, map))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::frozen_linear(x.primitive, map)),
        }
    }

    fn adapted_linear(
        x: FloatTensor<Self>,
        map: FrozenMap<FloatTensor<Self>>,
        update: Update<FloatTensor<Self>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        adapted::<B, C>(x, None, map, update)
    }

    fn gelu_linear(
        h: FloatTensor<Self>,
        form: GeluForm,
        map: FrozenMap<FloatTensor<Self>>,
        update: Update<FloatTensor<Self>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        adapted::<B, C>(h, Some(form), map, update)
    }

    fn erf_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        gelu::<B, C>(x, GeluForm::Erf)
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

    fn packed_attention(
        [q, k, v]: [FloatTensor<Self>; 3],
        packing: &Packing,
        settings: AttentionSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let parents = [q.node.clone(), k.node.clone(), v.node.clone()];
        let prepared = PackedAttention.prepare::<C>(parents).compute_bound();
        let (output, saved) = match prepared.stateful() {
            OpsKind::Tracked(mut prep) => {
                let nodes = [&q, &k, &v].map(|x| prep.checkpoint(x));
                let inputs = [q.primitive, k.primitive, v.primitive];
                let (output, saved) = B::packed_attention(inputs, packing, settings);
                let state = (nodes, packing.clone(), saved.clone(), settings);
                (prep.finish(state, output), saved)
            }
            OpsKind::UnTracked(prep) => {
                let inputs = [q.primitive, k.primitive, v.primitive];
                let (output, saved) = B::packed_attention(inputs, packing, settings);
                (prep.finish(output), saved)
            }
        };
        (output, <Self as AutodiffBackend>::from_inner(saved))
    }

    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        decoder::rms_norm::<B, C>(x, gamma, epsilon)
    }

    fn tanh_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        gelu::<B, C>(x, GeluForm::Tanh)
    }

    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, form: Gate) -> FloatTensor<Self> {
        decoder::gated::<B, C>(gate, up, form)
    }

    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        decoder::rotate::<B, C>(x, cos, sin)
    }

    fn causal_attention(
        qkv: [FloatTensor<Self>; 3],
        first: Option<IntTensor<Self>>,
        settings: CausalSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        decoder::causal_attention::<B, C>(qkv, first, settings)
    }
}

fn gelu<B: VbLoraBackend, C: CheckpointStrategy>(
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

/// Hands each gradient that was computed to the parent that asked for it.
fn register<B: VbLoraBackend, const N: usize>(
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
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        register::<B, 2>(grads, parents, [Some(d_bank), Some(d_weights)]);
    }
}

/// A map's tensors without their graph; a map that is trained itself as it came, for Burn's own gradients of the parts.
#[allow(clippy::type_complexity, reason = "the same map on two backends")]
fn frozen<B: VbLoraBackend, C: CheckpointStrategy>(
    map: FrozenMap<FloatTensor<Autodiff<B, C>>>,
) -> Result<FrozenMap<FloatTensor<B>>, FrozenMap<FloatTensor<Autodiff<B, C>>>> {
    let is_trained = |tensor: &FloatTensor<Autodiff<B, C>>| !tensor.node.requirement.is_none();
    if is_trained(&map.weight) || map.bias.as_ref().is_some_and(is_trained) {
        return Err(map);
    }
    Ok(FrozenMap {
        weight: map.weight.primitive,
        bias: map.bias.map(|bias| bias.primitive),
    })
}

/// An update's factors without their graph.
fn inner<B: VbLoraBackend, C: CheckpointStrategy>(
    update: Update<FloatTensor<Autodiff<B, C>>>,
) -> Update<FloatTensor<B>> {
    Update {
        down: update.down.primitive,
        up: update.up.primitive,
        scale: update.scale,
    }
}

#[derive(Debug)]
struct FrozenLinear;

impl<B: VbLoraBackend> Backward<B, 1> for FrozenLinear {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, defaults::through_map::<B>(grad, ops.state));
        }
    }
}

/// A map with its update, of `x` itself or of its GELU.
#[allow(clippy::type_complexity, reason = "two tensors of one type")]
fn adapted<B: VbLoraBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    form: Option<GeluForm>,
    map: FrozenMap<FloatTensor<Autodiff<B, C>>>,
    update: Update<FloatTensor<Autodiff<B, C>>>,
) -> (FloatTensor<Autodiff<B, C>>, FloatTensor<Autodiff<B, C>>) {
    let map = match frozen::<B, C>(map) {
        Ok(map) => map,
        Err(map) => {
            let x = match form {
                Some(form) => form.apply::<Autodiff<B, C>>(x),
                None => x,
            };
            return defaults::adapted_linear::<Autodiff<B, C>>(x, map, update);
        }
    };
    let forward = |x, map, update| match form {
        Some(form) => B::gelu_linear(x, form, map, update),
        None => B::adapted_linear(x, map, update),
    };
    let weight = map.weight.clone();
    let parents = [&x, &update.down, &update.up].map(|tensor| tensor.node.clone());
    let (output, narrow) = match AdaptedLinear
        .prepare::<C>(parents)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(mut prep) => {
            let nodes = Update {
                down: prep.checkpoint(&update.down),
                up: prep.checkpoint(&update.up),
                scale: update.scale,
            };
            let input = prep.checkpoint(&x);
            let (output, narrow) = forward(x.primitive, map, inner::<B, C>(update));
            let state = (input, form, weight, nodes, narrow.clone());
            (prep.finish(state, output), narrow)
        }
        OpsKind::UnTracked(prep) => {
            let (output, narrow) = forward(x.primitive, map, inner::<B, C>(update));
            (prep.finish(output), narrow)
        }
    };
    let narrow = <Autodiff<B, C> as AutodiffBackend>::from_inner(narrow);
    (output, narrow)
}

#[derive(Debug)]
struct AdaptedLinear;

impl<B: VbLoraBackend> Backward<B, 3> for AdaptedLinear {
    /// x, whether its GELU is multiplied, weight, factors and `s x A`.
    type State = (
        NodeId,
        Option<GeluForm>,
        FloatTensor<B>,
        Update<NodeId>,
        FloatTensor<B>,
    );

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (x, form, weight, nodes, narrow) = ops.state;
        let mut saved = |id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id);
        let (x, update) = (
            saved(x),
            Update {
                down: saved(nodes.down),
                up: saved(nodes.up),
                scale: nodes.scale,
            },
        );
        let grad = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        let needs_x = parents[0].is_some();
        let AdaptedGradients { x, down, up } = match form {
            Some(form) => B::gelu_linear_backward(x, form, weight, update, narrow, grad, needs_x),
            None => B::adapted_linear_backward(x, weight, update, narrow, grad, needs_x),
        };
        register::<B, 3>(grads, parents, [x, Some(down), Some(up)]);
    }
}

#[derive(Debug)]
struct Gelu;

impl<B: VbLoraBackend> Backward<B, 1> for Gelu {
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
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        let affine = parents[1].is_some() || parents[2].is_some();
        let (dx, affine) = B::row_norm_backward(x, scale, epsilon, grad, affine);
        let [d_gamma, d_beta] = affine.map_or([None, None], |found| found.map(Some));
        register::<B, 3>(grads, parents, [Some(dx), d_gamma, d_beta]);
    }
}

#[derive(Debug)]
struct InvertibleNorm;

impl<B: VbLoraBackend> Backward<B, 1> for InvertibleNorm {
    /// The output, gamma and beta, what rows were divided by.
    type State = (FloatTensor<B>, [FloatTensor<B>; 2], FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (y, [gamma, beta], deviation) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            let dx = B::invertible_norm_backward(y, gamma, beta, deviation, grad);
            grads.register::<B>(node.id, dx);
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
    /// q, k, v, mask, what the forward pass saved.
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
struct PackedDropout;

impl<B: VbLoraBackend> Backward<B, 1> for PackedDropout {
    type State = (Packing, u64, f64);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (packing, key, p) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::packed_dropout(grad, &packing, key, p));
        }
    }
}

#[derive(Debug)]
struct PackedAttention;

impl<B: VbLoraBackend> Backward<B, 3> for PackedAttention {
    /// q, k, v, where the tokens lie, what the forward pass saved.
    type State = ([NodeId; 3], Packing, FloatTensor<B>, AttentionSettings);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (nodes, packing, saved, settings) = ops.state;
        let inputs = nodes.map(|id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id));
        let grad = grads.consume::<B>(&ops.node);
        let found = B::packed_attention_backward(inputs, &packing, saved, settings, grad);
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        register::<B, 3>(grads, parents, found.map(Some));
    }
}

//! Backward passes of several maps of one input, as one node of the graph.

use burn::{
    backend::autodiff::{
        Autodiff, NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::{Shape, TensorMetadata, ops::FloatTensor},
};

use super::{BlockOps, JoinedGradients, SelfAttention, Updates, default, form::Attended};
use crate::backend::{
    FrozenMap, Gate, HeldWeight, Update,
    autodiff::register,
    linear::{
        default::{flat, like},
        frozen, inner,
    },
};

impl<B: BlockOps, C: CheckpointStrategy> BlockOps for Autodiff<B, C> {
    fn joins_maps() -> bool {
        B::joins_maps()
    }

    fn self_attention(
        x: FloatTensor<Self>,
        maps: [FrozenMap<Self>; 3],
        updates: Updates<FloatTensor<Self>, 3>,
        form: SelfAttention<Self>,
    ) -> FloatTensor<Self> {
        let maps = match all_frozen::<B, C, 3>(maps) {
            Ok(maps) => maps,
            Err(maps) => return default::self_attention::<Self>(x, maps, updates, form),
        };
        let [[a, b], [c, d], [e, f]] = updates.each_ref().map(|update| factors(update, &x));
        let parents = [&x, a, b, c, d, e, f].map(|tensor| tensor.node.clone());
        let form = inner_form::<B, C>(form);
        match AttentionOfMaps
            .prepare::<C>(parents)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let input = prep.checkpoint(&x);
                let updates = updates.map(|update| update.map(inner::<B, C>));
                let (ys, saved) = forward::<B, 3>(input, x.primitive, maps, updates);
                let (output, attended) = form.forward(ys);
                prep.finish((saved, form, attended), output)
            }
            OpsKind::UnTracked(prep) => {
                let updates = updates.map(|update| update.map(inner::<B, C>));
                prep.finish(B::self_attention(x.primitive, maps, updates, form))
            }
        }
    }

    fn gated_maps(
        x: FloatTensor<Self>,
        maps: [FrozenMap<Self>; 2],
        updates: Updates<FloatTensor<Self>, 2>,
        form: Gate,
    ) -> FloatTensor<Self> {
        let maps = match all_frozen::<B, C, 2>(maps) {
            Ok(maps) => maps,
            Err(maps) => return default::gated_maps::<Self>(x, maps, updates, form),
        };
        let [[a, b], [c, d]] = updates.each_ref().map(|update| factors(update, &x));
        let parents = [&x, a, b, c, d].map(|tensor| tensor.node.clone());
        match UnitOfMaps.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let input = prep.checkpoint(&x);
                let updates = updates.map(|update| update.map(inner::<B, C>));
                let (ys, saved) = forward::<B, 2>(input, x.primitive, maps, updates);
                let [gate, up] = ys.clone();
                prep.finish((saved, ys, form), B::gated(gate, up, form))
            }
            OpsKind::UnTracked(prep) => {
                let updates = updates.map(|update| update.map(inner::<B, C>));
                prep.finish(B::gated_maps(x.primitive, maps, updates, form))
            }
        }
    }
}

/// An update's factors. x stands in the places of a map without an update; its node then gets no gradient from there.
fn factors<'a, T>(update: &'a Option<Update<T>>, x: &'a T) -> [&'a T; 2] {
    update
        .as_ref()
        .map_or([x, x], |update| [&update.down, &update.up])
}

/// The gradients of a pair, if the map has one.
fn of_pair<T>(pair: Option<[T; 2]>) -> [Option<T>; 2] {
    pair.map_or([None, None], |pair| pair.map(Some))
}

type Maps<B, const N: usize> = [FrozenMap<B>; N];

/// The maps without their graph. If one is trained, all come back unchanged.
fn all_frozen<B: BlockOps, C: CheckpointStrategy, const N: usize>(
    maps: [FrozenMap<Autodiff<B, C>>; N],
) -> Result<Maps<B, N>, Maps<Autodiff<B, C>, N>> {
    let found: Result<Vec<_>, _> = maps.iter().cloned().map(frozen::<B, C>).collect();
    match found.map(TryInto::try_into) {
        Ok(Ok(inner)) => Ok(inner),
        _ => Err(maps),
    }
}

fn inner_form<B: BlockOps, C: CheckpointStrategy>(
    form: SelfAttention<Autodiff<B, C>>,
) -> SelfAttention<B> {
    match form {
        SelfAttention::Whole { mask, settings } => SelfAttention::Whole {
            mask: mask.map(|mask| mask.primitive),
            settings,
        },
        SelfAttention::Causal {
            angles,
            first,
            settings,
        } => SelfAttention::Causal {
            angles: angles.map(|angles| angles.map(|x| x.primitive)),
            first,
            settings,
        },
    }
}

/// What the backward pass of N maps needs.
#[derive(Debug, Clone)]
struct Saved<B: BlockOps, const N: usize> {
    input: NodeId,
    weights: [HeldWeight<B>; N],
    updates: Updates<FloatTensor<B>, N>,
    narrows: [Option<FloatTensor<B>>; N],
}

/// The outputs of the maps, with the outer dimensions of x.
fn forward<B: BlockOps, const N: usize>(
    input: NodeId,
    x: FloatTensor<B>,
    maps: [FrozenMap<B>; N],
    updates: Updates<FloatTensor<B>, N>,
) -> ([FloatTensor<B>; N], Saved<B, N>) {
    let outer = x.shape();
    let weights = maps.each_ref().map(|map| map.weight.clone());
    let each = B::adapted_linears(flat::<B>(x), maps, updates.clone());
    let saved = Saved {
        input,
        weights,
        updates,
        narrows: each.each_ref().map(|(_, narrow)| narrow.clone()),
    };
    (each.map(|(y, _)| like::<B>(y, &outer)), saved)
}

impl<B: BlockOps, const N: usize> Saved<B, N> {
    /// The gradient to x, of its shape, and those to the factors.
    fn backward(
        self,
        grads: [FloatTensor<B>; N],
        needs_x: bool,
        checkpointer: &mut Checkpointer,
    ) -> JoinedGradients<FloatTensor<B>, N> {
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(self.input);
        let outer: Shape = x.shape();
        let grads = grads.map(flat::<B>);
        let found = B::adapted_linears_backward(
            flat::<B>(x),
            self.weights,
            self.updates,
            self.narrows,
            grads,
            needs_x,
        );
        JoinedGradients {
            x: found.x.map(|dx| B::float_reshape(dx, outer)),
            factors: found.factors,
        }
    }
}

#[derive(Debug)]
struct AttentionOfMaps;

impl<B: BlockOps> Backward<B, 7> for AttentionOfMaps {
    type State = (Saved<B, 3>, SelfAttention<B>, Attended<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 7>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (saved, form, attended) = ops.state;
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        let grad = grads.consume::<B>(&ops.node);
        let found = form.backward(attended, grad);
        let found = saved.backward(found, parents[0].is_some(), checkpointer);
        let [[a, b], [c, d], [e, f]] = found.factors.map(of_pair);
        register::<B, 7>(grads, parents, [found.x, a, b, c, d, e, f]);
    }
}

#[derive(Debug)]
struct UnitOfMaps;

impl<B: BlockOps> Backward<B, 5> for UnitOfMaps {
    /// The last tensors are gate and up.
    type State = (Saved<B, 2>, [FloatTensor<B>; 2], Gate);

    fn backward(
        self,
        ops: Ops<Self::State, 5>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (saved, [gate, up], form) = ops.state;
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        let grad = grads.consume::<B>(&ops.node);
        let found = B::gated_backward(gate, up, form, grad);
        let found = saved.backward(found, parents[0].is_some(), checkpointer);
        let [[a, b], [c, d]] = found.factors.map(of_pair);
        register::<B, 5>(grads, parents, [found.x, a, b, c, d]);
    }
}

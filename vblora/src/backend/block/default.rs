//! Several maps of one input, one by one.

use burn::tensor::{TensorMetadata, ops::FloatTensor};

use super::{BlockOps, JoinedGradients, SelfAttention};
use crate::backend::{
    FrozenMap, Gate, HeldWeight, Update,
    linear::default::{flat, like},
};

pub(super) fn adapted_linears<B: BlockOps, const N: usize>(
    x: FloatTensor<B>,
    maps: [FrozenMap<B>; N],
    updates: [Update<FloatTensor<B>>; N],
) -> [(FloatTensor<B>, FloatTensor<B>); N] {
    let mut updates = updates.into_iter();
    maps.map(|map| {
        let update = updates.next().expect("an update for each map");
        B::adapted_linear(x.clone(), map, update)
    })
}

pub(super) fn adapted_linears_backward<B: BlockOps, const N: usize>(
    x: FloatTensor<B>,
    weights: [HeldWeight<B>; N],
    updates: [Update<FloatTensor<B>>; N],
    narrows: [FloatTensor<B>; N],
    grads: [FloatTensor<B>; N],
    needs_x: bool,
) -> JoinedGradients<FloatTensor<B>, N> {
    let mut all = updates.into_iter().zip(narrows).zip(grads);
    let mut sum = None;
    let factors = weights.map(|weight| {
        let ((update, narrow), grad) = all.next().expect("a gradient for each map");
        let found = B::adapted_linear_backward(x.clone(), weight, update, narrow, grad, needs_x);
        sum = match (sum.take(), found.x) {
            (Some(sum), Some(dx)) => Some(B::float_add(sum, dx)),
            (sum, dx) => sum.or(dx),
        };
        [found.down, found.up]
    });
    JoinedGradients { x: sum, factors }
}

pub(super) fn self_attention<B: BlockOps>(
    x: FloatTensor<B>,
    maps: [FrozenMap<B>; 3],
    updates: [Update<FloatTensor<B>>; 3],
    form: SelfAttention<B>,
) -> FloatTensor<B> {
    let outer = x.shape();
    let each = B::adapted_linears(flat::<B>(x), maps, updates);
    let (output, _) = form.forward(each.map(|(y, _)| like::<B>(y, &outer)));
    output
}

pub(super) fn gated_maps<B: BlockOps>(
    x: FloatTensor<B>,
    maps: [FrozenMap<B>; 2],
    updates: [Update<FloatTensor<B>>; 2],
    form: Gate,
) -> FloatTensor<B> {
    let outer = x.shape();
    let [(gate, _), (up, _)] = B::adapted_linears(flat::<B>(x), maps, updates);
    like::<B>(B::gated(gate, up, form), &outer)
}

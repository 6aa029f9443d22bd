//! Several maps of one input, one by one.

use burn::tensor::{TensorMetadata, ops::FloatTensor};

use super::{BlockOps, JoinedGradients, SelfAttention, Updates};
use crate::backend::{
    FrozenMap, Gate, HeldWeight,
    linear::default::{flat, like},
};

pub(super) fn adapted_linears<B: BlockOps, const N: usize>(
    x: FloatTensor<B>,
    maps: [FrozenMap<B>; N],
    updates: Updates<FloatTensor<B>, N>,
) -> [(FloatTensor<B>, Option<FloatTensor<B>>); N] {
    let mut updates = updates.into_iter();
    maps.map(|map| match updates.next().expect("a place for each map") {
        Some(update) => {
            let (y, narrow) = B::adapted_linear(x.clone(), map, update);
            (y, Some(narrow))
        }
        None => (B::frozen_linear(x.clone(), map), None),
    })
}

pub(super) fn adapted_linears_backward<B: BlockOps, const N: usize>(
    x: FloatTensor<B>,
    weights: [HeldWeight<B>; N],
    updates: Updates<FloatTensor<B>, N>,
    narrows: [Option<FloatTensor<B>>; N],
    grads: [FloatTensor<B>; N],
    needs_x: bool,
) -> JoinedGradients<FloatTensor<B>, N> {
    let mut all = updates.into_iter().zip(narrows).zip(grads);
    let mut sum = None;
    let factors = weights.map(|weight| {
        let ((update, narrow), grad) = all.next().expect("a gradient for each map");
        let (dx, factors) = match update.zip(narrow) {
            Some((update, narrow)) => {
                let x = x.clone();
                let found = B::adapted_linear_backward(x, weight, update, narrow, grad, needs_x);
                (found.x, Some([found.down, found.up]))
            }
            None => (
                needs_x.then(|| B::frozen_linear_backward(grad, weight)),
                None,
            ),
        };
        sum = match (sum.take(), dx) {
            (Some(sum), Some(dx)) => Some(B::float_add(sum, dx)),
            (sum, dx) => sum.or(dx),
        };
        factors
    });
    JoinedGradients { x: sum, factors }
}

pub(super) fn self_attention<B: BlockOps>(
    x: FloatTensor<B>,
    maps: [FrozenMap<B>; 3],
    updates: Updates<FloatTensor<B>, 3>,
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
    updates: Updates<FloatTensor<B>, 2>,
    form: Gate,
) -> FloatTensor<B> {
    let outer = x.shape();
    let [(gate, _), (up, _)] = B::adapted_linears(flat::<B>(x), maps, updates);
    like::<B>(B::gated(gate, up, form), &outer)
}

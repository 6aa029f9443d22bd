//! Backward passes of frozen maps: to the input and to the factors of the update.

use burn::{
    backend::autodiff::{
        Autodiff, NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::{TensorMetadata, backend::AutodiffBackend, ops::FloatTensor},
};

use super::{
    AdaptedGradients, FrozenMap, HeldWeight, LinearOps, Nf4Weight, Update,
    default::{self, flat, like},
};
use crate::backend::{GeluForm, autodiff::register, float, primitive};

impl<B: LinearOps, C: CheckpointStrategy> LinearOps for Autodiff<B, C> {
    fn decoded(weight: Nf4Weight<Self>) -> FloatTensor<Self> {
        Self::from_inner(B::decoded(weight.inner()))
    }

    fn frozen_linear(x: FloatTensor<Self>, map: FrozenMap<Self>) -> FloatTensor<Self> {
        let map = match frozen::<B, C>(map) {
            Ok(map) => map,
            // The graph then keeps the 4 bits, not their values.
            Err(FrozenMap {
                weight: weight @ HeldWeight::Nf4(_),
                bias: Some(bias),
            }) => {
                let y = Self::frozen_linear(x, FrozenMap { weight, bias: None });
                return primitive(float::<Self, 2>(y) + float::<Self, 1>(bias).unsqueeze());
            }
            Err(map) => return default::frozen_linear::<Self>(x, map),
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
        map: FrozenMap<Self>,
        update: Update<FloatTensor<Self>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        adapted::<B, C>(x, None, map, update)
    }

    fn adapted_rows(
        x: FloatTensor<Self>,
        form: Option<GeluForm>,
        map: FrozenMap<Self>,
        update: Update<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        match is_frozen::<B, C>(&map) {
            // The change of shape is no node of the graph.
            true => adapted::<B, C>(x, form, map, update).0,
            false => default::adapted_rows::<Self>(x, form, map, update),
        }
    }

    fn gelu_linear(
        h: FloatTensor<Self>,
        form: GeluForm,
        map: FrozenMap<Self>,
        update: Update<FloatTensor<Self>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        adapted::<B, C>(h, Some(form), map, update)
    }
}

fn is_frozen<B: LinearOps, C: CheckpointStrategy>(map: &FrozenMap<Autodiff<B, C>>) -> bool {
    let is_trained = |tensor: &FloatTensor<Autodiff<B, C>>| !tensor.node.requirement.is_none();
    !map.weight.as_dense().is_some_and(is_trained) && !map.bias.as_ref().is_some_and(is_trained)
}

/// A map's tensors without their graph. A trained map comes back unchanged, because Burn's own gradients of its parts are needed.
pub(in crate::backend) fn frozen<B: LinearOps, C: CheckpointStrategy>(
    map: FrozenMap<Autodiff<B, C>>,
) -> Result<FrozenMap<B>, FrozenMap<Autodiff<B, C>>> {
    if !is_frozen::<B, C>(&map) {
        return Err(map);
    }
    Ok(FrozenMap {
        weight: inner_weight(map.weight),
        bias: map.bias.map(|bias| bias.primitive),
    })
}

/// A weight without its graph.
fn inner_weight<B: LinearOps, C: CheckpointStrategy>(
    weight: HeldWeight<Autodiff<B, C>>,
) -> HeldWeight<B> {
    match weight {
        HeldWeight::Dense(weight) => HeldWeight::Dense(weight.primitive),
        HeldWeight::Nf4(weight) => HeldWeight::Nf4(weight.inner()),
    }
}

/// An update's factors without their graph.
pub(in crate::backend) fn inner<B: LinearOps, C: CheckpointStrategy>(
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

impl<B: LinearOps> Backward<B, 1> for FrozenLinear {
    type State = HeldWeight<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::frozen_linear_backward(grad, ops.state));
        }
    }
}

/// A map with its update, of `x` itself or of its GELU. x has any rank.
#[allow(clippy::type_complexity, reason = "two tensors of one type")]
fn adapted<B: LinearOps, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    form: Option<GeluForm>,
    map: FrozenMap<Autodiff<B, C>>,
    update: Update<FloatTensor<Autodiff<B, C>>>,
) -> (FloatTensor<Autodiff<B, C>>, FloatTensor<Autodiff<B, C>>) {
    let map = match frozen::<B, C>(map) {
        Ok(map) => map,
        Err(map) => {
            let x = match form {
                Some(form) => form.apply::<Autodiff<B, C>>(x),
                None => x,
            };
            return default::adapted_linear::<Autodiff<B, C>>(x, map, update);
        }
    };
    let forward = |x: FloatTensor<B>, map, update| {
        let outer = x.shape();
        let x = flat::<B>(x);
        let (y, narrow) = match form {
            Some(form) => B::gelu_linear(x, form, map, update),
            None => B::adapted_linear(x, map, update),
        };
        (like::<B>(y, &outer), narrow)
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

impl<B: LinearOps> Backward<B, 3> for AdaptedLinear {
    /// The saved tensors: x, the GELU on it if there is one, weight, factors and `s x A`.
    type State = (
        NodeId,
        Option<GeluForm>,
        HeldWeight<B>,
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
        let outer = x.shape();
        let (x, grad) = (flat::<B>(x), flat::<B>(grads.consume::<B>(&ops.node)));
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        let needs_x = parents[0].is_some();
        let AdaptedGradients { x, down, up } = match form {
            Some(form) => B::gelu_linear_backward(x, form, weight, update, narrow, grad, needs_x),
            None => B::adapted_linear_backward(x, weight, update, narrow, grad, needs_x),
        };
        let x = x.map(|dx| B::float_reshape(dx, outer));
        register::<B, 3>(grads, parents, [x, Some(down), Some(up)]);
    }
}

//! Backward passes of attention with rotary and relative positions.

use burn::{
    backend::autodiff::{
        Autodiff, NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::{backend::AutodiffBackend, ops::FloatTensor},
};

use super::{PositionOps, RelativeTables, RotarySettings, Texts};
use crate::backend::{AttentionSettings, autodiff::register};

impl<B: PositionOps, C: CheckpointStrategy> PositionOps for Autodiff<B, C> {
    fn rotary_attention(
        qkv: FloatTensor<Self>,
        angles: [FloatTensor<Self>; 2],
        texts: &Texts<Self>,
        settings: RotarySettings,
    ) -> (FloatTensor<Self>, Vec<FloatTensor<Self>>) {
        let (angles, texts) = (angles.map(|x| x.primitive), inner::<B, C>(texts));
        let (output, saved) = match Rotary
            .prepare::<C>([qkv.node.clone()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (output, saved) =
                    B::rotary_attention(qkv.primitive, angles.clone(), &texts, settings);
                let state = (saved.clone(), angles, texts, settings);
                (prep.finish(state, output), saved)
            }
            OpsKind::UnTracked(prep) => {
                let (output, saved) = B::rotary_attention(qkv.primitive, angles, &texts, settings);
                (prep.finish(output), saved)
            }
        };
        let saved = saved.into_iter().map(Self::from_inner);
        (output, saved.collect())
    }

    fn disentangled_attention(
        [q, k, v]: [FloatTensor<Self>; 3],
        relative: RelativeTables<FloatTensor<Self>>,
        texts: &Texts<Self>,
        settings: AttentionSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let texts = inner::<B, C>(texts);
        let RelativeTables { of_query, of_key } = relative;
        let tensors = [&q, &k, &v, &of_query, &of_key];
        let parents = tensors.map(|x| x.node.clone());
        let prepared = Disentangled.prepare::<C>(parents).compute_bound();
        let (output, saved) = match prepared.stateful() {
            OpsKind::Tracked(mut prep) => {
                let nodes = tensors.map(|x| prep.checkpoint(x));
                let qkv = [q.primitive, k.primitive, v.primitive];
                let relative = RelativeTables {
                    of_query: of_query.primitive,
                    of_key: of_key.primitive,
                };
                let (output, saved) = B::disentangled_attention(qkv, relative, &texts, settings);
                let state = (nodes, saved.clone(), texts, settings);
                (prep.finish(state, output), saved)
            }
            OpsKind::UnTracked(prep) => {
                let qkv = [q.primitive, k.primitive, v.primitive];
                let relative = RelativeTables {
                    of_query: of_query.primitive,
                    of_key: of_key.primitive,
                };
                let (output, saved) = B::disentangled_attention(qkv, relative, &texts, settings);
                (prep.finish(output), saved)
            }
        };
        (output, Self::from_inner(saved))
    }
}

/// Texts without their graph: a mask gets no gradient.
fn inner<B: PositionOps, C: CheckpointStrategy>(texts: &Texts<Autodiff<B, C>>) -> Texts<B> {
    match texts {
        Texts::Padded(mask) => Texts::Padded(mask.as_ref().map(|mask| mask.primitive.clone())),
        Texts::Unpadded(unpadded) => Texts::Unpadded(unpadded.clone()),
    }
}

#[derive(Debug)]
struct Rotary;

impl<B: PositionOps> Backward<B, 1> for Rotary {
    /// The second output, cos and sin, the places of the texts, the settings.
    type State = (
        Vec<FloatTensor<B>>,
        [FloatTensor<B>; 2],
        Texts<B>,
        RotarySettings,
    );

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (saved, angles, texts, settings) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            let found = B::rotary_attention_backward(saved, angles, &texts, settings, grad);
            grads.register::<B>(node.id, found);
        }
    }
}

#[derive(Debug)]
struct Disentangled;

impl<B: PositionOps> Backward<B, 5> for Disentangled {
    /// q, k, v and the tables; the second output, the places of the texts, the settings.
    type State = ([NodeId; 5], FloatTensor<B>, Texts<B>, AttentionSettings);

    fn backward(
        self,
        ops: Ops<Self::State, 5>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (nodes, saved, texts, settings) = ops.state;
        let [q, k, v, of_query, of_key] =
            nodes.map(|id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id));
        let grad = grads.consume::<B>(&ops.node);
        let relative = RelativeTables { of_query, of_key };
        let ([dq, dk, dv], relative) =
            B::disentangled_attention_backward([q, k, v], relative, saved, &texts, settings, grad);
        let found = [dq, dk, dv, relative.of_query, relative.of_key];
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        register::<B, 5>(grads, parents, found.map(Some));
    }
}

//! Puts gradients that were taken elsewhere into a graph. The backward pass goes on from them.

use burn::{
    backend::autodiff::{
        Autodiff,
        checkpoint::{base::Checkpointer, strategy::NoCheckpointing},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::{Tensor, TensorPrimitive, backend::Backend, ops::FloatTensor},
};

/// `root` with one more parent: a backward pass from it also reaches `tensor` and starts there with `gradient`. The value of `root` stays.
/// A gradient that reaches `root` does not change `gradient`.
pub(crate) fn seed<B: Backend, const D: usize>(
    root: Tensor<Autodiff<B>, 1>,
    tensor: Tensor<Autodiff<B>, D>,
    gradient: Tensor<B, D>,
) -> Tensor<Autodiff<B>, 1> {
    let (root, tensor) = (
        root.into_primitive().tensor(),
        tensor.into_primitive().tensor(),
    );
    let parents = [root.node.clone(), tensor.node.clone()];
    let prepared = Seed
        .prepare::<NoCheckpointing>(parents)
        .compute_bound()
        .stateful();
    let root = match prepared {
        OpsKind::Tracked(prepared) => {
            prepared.finish(gradient.into_primitive().tensor(), root.primitive)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(root.primitive),
    };
    Tensor::from_primitive(TensorPrimitive::Float(root))
}

#[derive(Debug)]
struct Seed;

impl<B: Backend> Backward<B, 2> for Seed {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [root, tensor] = ops.parents;
        if let Some(node) = root {
            grads.register::<B>(node.id, grad);
        }
        if let Some(node) = tensor {
            grads.register::<B>(node.id, ops.state);
        }
    }
}

//! Gradients with the activations of one block at a time in memory.

use burn::{
    backend::Autodiff,
    module::AutodiffModule,
    tensor::{Tensor, backend::AutodiffBackend},
};
use vblora::{Factors, backend::VbLoraBackend};

use super::{CausalInput, CausalLm, of_layer};

/// The gradients of Burn's autodiff on `B`.
type Gradients<B> = <Autodiff<B> as AutodiffBackend>::Gradients;

impl<B: VbLoraBackend> CausalLm<Autodiff<B>> {
    /// A forward and a backward pass with gradient checkpointing (arXiv 1604.06174). They keep the input of each block, and run every block
    /// once more, under the graph, on the way back. `loss` is applied to the last hidden state, after the final normalisation. `collect`
    /// gets the gradients of each part in turn, those of the last part first, and must add them up. Noise repeats by its key, so the
    /// gradients are those of one pass over the whole model. Returns the loss.
    ///
    /// # Shapes
    /// - loss: from `[n, t, d]` to `[1]`
    pub fn recompute(
        &self,
        input: &CausalInput<Autodiff<B>>,
        factors: &Factors<Autodiff<B>>,
        loss: impl FnOnce(Tensor<Autodiff<B>, 3>) -> Tensor<Autodiff<B>, 1>,
        mut collect: impl FnMut(&mut Gradients<B>),
    ) -> Tensor<B, 1> {
        let mut entering = self.entering(input, factors);
        let last = leaf(entering.pop().expect("the embeddings, at least"));
        let loss = loss(self.norm.forward(last.clone()));
        let value = loss.clone().inner();
        let mut grads = loss.backward();
        let mut grad = last.grad_remove(&mut grads);
        collect(&mut grads);
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let x = leaf(entering.pop().expect("one per block"));
            let Some(along) = grad else { break };
            let y = layer.forward(x.clone(), &input.places, None, &of_layer(factors, index));
            // sum(y * constant) has the constant as its gradient to y.
            let mut grads = (y * Tensor::from_inner(along)).sum().backward();
            grad = x.grad_remove(&mut grads);
            collect(&mut grads);
        }
        value
    }

    /// The input of each block and the output of the last, without a graph.
    fn entering(
        &self,
        input: &CausalInput<Autodiff<B>>,
        factors: &Factors<Autodiff<B>>,
    ) -> Vec<Tensor<B, 3>> {
        let (model, input, factors) = (self.valid(), input.inner(), factors.inner());
        let mut x = model.embed(&input, &factors);
        let mut states = vec![x.clone()];
        for (index, layer) in model.layers.iter().enumerate() {
            x = layer.forward(x, &input.places, None, &of_layer(&factors, index));
            states.push(x.clone());
        }
        states
    }
}

fn leaf<B: VbLoraBackend>(x: Tensor<B, 3>) -> Tensor<Autodiff<B>, 3> {
    Tensor::from_inner(x).require_grad()
}

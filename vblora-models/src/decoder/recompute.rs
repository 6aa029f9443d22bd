//! Gradients with the activations of one block at a time in memory.

use burn::{
    backend::Autodiff,
    module::AutodiffModule,
    tensor::{Tensor, backend::AutodiffBackend},
};
use vblora::{Factors, backend::VbLoraBackend, ops::backward_from};

use super::{CausalInput, CausalLm, DecoderLayer, input::Places, of_layer};

/// The gradients of Burn's autodiff on `B`.
type Gradients<B> = <Autodiff<B> as AutodiffBackend>::Gradients;

/// The largest matrix between the maps of an MLP, in bytes, that a backward pass makes at once.
pub(super) const INNER_BYTES: usize = 32 << 20;

/// Bytes of the logits that a step with recomputed blocks makes at once.
const LOGIT_BYTES: usize = 64 << 20;

/// The number of tokens whose logits a step with recomputed blocks makes at once, for a vocabulary of this size.
pub fn logits_at_once(vocabulary: usize) -> usize {
    (LOGIT_BYTES / (size_of::<f32>() * vocabulary)).max(1)
}

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
        collect: impl FnMut(&mut Gradients<B>),
    ) -> Tensor<B, 1> {
        let gradient = |hidden| {
            let hidden = leaf(hidden);
            let loss = loss(hidden.clone());
            let value = loss.clone().inner();
            let grad = hidden.grad_remove(&mut loss.backward());
            (value, grad.unwrap_or_else(|| hidden.inner().zeros_like()))
        };
        self.recompute_from(input, factors, gradient, collect)
    }

    /// [`recompute`](Self::recompute) with a loss that gives its gradient to the last hidden state too.
    ///
    /// # Shapes
    /// - gradient: from `[n, t, d]` to `[1]` and `[n, t, d]`
    pub fn recompute_from(
        &self,
        input: &CausalInput<Autodiff<B>>,
        factors: &Factors<Autodiff<B>>,
        gradient: impl FnOnce(Tensor<B, 3>) -> (Tensor<B, 1>, Tensor<B, 3>),
        mut collect: impl FnMut(&mut Gradients<B>),
    ) -> Tensor<B, 1> {
        let mut entering = self.entering(input, factors);
        let last = leaf(entering.pop().expect("the embeddings, at least"));
        let hidden = self.norm.forward(last.clone());
        let (value, along) = gradient(hidden.clone().inner());
        let mut grad = last.grad_remove(&mut backward_from(hidden, along));
        drop(last);
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let x = entering.pop().expect("one per block");
            let Some(along) = grad else { break };
            let factors = of_layer(factors, index);
            grad = layer.push_back(x, along, &input.places, &factors, INNER_BYTES, &mut collect);
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

impl<B: VbLoraBackend> DecoderLayer<Autodiff<B>> {
    /// The gradient to the block's input, from that to its output. If the MLP is a function of each token alone, it runs on some tokens at
    /// a time. Their matrix between its maps has at most `inner_bytes`.
    ///
    /// # Shapes
    /// - x, along and output: `[n, t, d]`
    fn push_back(
        &self,
        x: Tensor<B, 3>,
        along: Tensor<B, 3>,
        places: &Places<Autodiff<B>>,
        factors: &Factors<Autodiff<B>>,
        inner_bytes: usize,
        mut collect: impl FnMut(&mut Gradients<B>),
    ) -> Option<Tensor<B, 3>> {
        let [n, t, d] = x.dims();
        let tokens = n * t;
        let row = size_of::<f32>() * self.inner_width();
        let pieces = (tokens * row).div_ceil(inner_bytes).clamp(1, tokens.max(1));
        let x = leaf(x);
        if pieces == 1 || !self.feeds_each_token_alone(factors) {
            let y = self.forward(x.clone(), places, None, factors);
            let mut grads = backward_from(y, along);
            let grad = x.grad_remove(&mut grads);
            collect(&mut grads);
            return grad;
        }
        let attended = self.attended(x.clone(), places, None, factors);
        let flat = |x: Tensor<B, 3>| x.reshape([1, tokens, d]);
        let (middle, along) = (flat(attended.clone().inner()), flat(along));
        let step = tokens.div_ceil(pieces);
        let starts = (0..tokens).step_by(step);
        let grads = starts.map(|start| {
            let part = |x: &Tensor<B, 3>| x.clone().narrow(1, start, step.min(tokens - start));
            let x = leaf(part(&middle));
            let y = self.fed(x.clone(), factors);
            let mut grads = backward_from(y, part(&along));
            let grad = x.grad_remove(&mut grads);
            collect(&mut grads);
            grad.expect("the block's input is a term of its output")
        });
        let grads = Tensor::cat(grads.collect(), 1).reshape([n, t, d]);
        drop((middle, along));
        let mut grads = backward_from(attended, grads);
        let grad = x.grad_remove(&mut grads);
        collect(&mut grads);
        grad
    }
}

fn leaf<B: VbLoraBackend>(x: Tensor<B, 3>) -> Tensor<Autodiff<B>, 3> {
    Tensor::from_inner(x).require_grad()
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::{backend::Flex, tensor::Distribution};
    use vblora::{AdapterConfig, AnyAdapter, Composition, LoraConfig, Targets};

    use super::*;
    use crate::{
        DecoderConfig,
        decoder::{CausalBatch, Side},
    };

    /// Some tokens at a time give the gradients of all at once, up to the order of sums.
    #[test]
    fn an_mlp_goes_back_in_pieces() {
        let config = DecoderConfig {
            vocab_size: 50,
            hidden_size: 32,
            num_layers: 1,
            num_heads: 2,
            num_kv_heads: 2,
            head_size: 16,
            intermediate_size: 48,
            ..DecoderConfig::llama_2_7b()
        };
        let device = Default::default();
        let model = CausalLm::<Autodiff<Flex>>::random(config, 1, &device).unwrap();
        let plan = Targets::all_linear().select(&model.sites()).unwrap();
        let adapter = AdapterConfig::Lora(LoraConfig::default());
        let adapter: AnyAdapter<Autodiff<Flex>> = adapter.init(&plan, 1, &device).unwrap();
        let texts: [&[u32]; 2] = [&[3, 4, 5, 6, 7], &[8, 9]];
        let batch = CausalBatch::pad(&texts, 0, Side::Right);
        let input = CausalInput::new(&batch, model.config(), &device).unwrap();
        let draw = || Tensor::random([2, 5, 32], Distribution::Default, &device);
        let (x, along) = (draw(), draw());
        let run = |bytes| {
            let step = Composition::new(&adapter);
            let (mut calls, mut all) = (0, Vec::new());
            let mut sums = vblora::FactorGradients::none();
            let grad = model.layers[0].push_back(
                x.clone(),
                along.clone(),
                &input.places,
                step.factors(),
                bytes,
                |grads| {
                    calls += 1;
                    sums.collect(step.factors(), grads);
                },
            );
            all.push(grad.unwrap().reshape([320]));
            let sums = sums.into_sites().into_values().flatten();
            all.extend(sums.map(|grad| {
                let n = grad.shape().num_elements();
                grad.reshape([n])
            }));
            (calls, Tensor::cat(all, 0))
        };
        let (once, expected) = run(INNER_BYTES);
        // Ten tokens, three at a time.
        let (calls, found) = run(4 * 48 * 3);
        assert_eq!((once, calls), (1, 5));
        let largest: f32 = expected.clone().abs().max().into_scalar();
        let away: f32 = (found - expected).abs().max().into_scalar();
        assert!(away <= 1e-5 * largest, "{away} of {largest}");
    }
}

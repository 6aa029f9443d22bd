//! RoBERTa's masked-language-modelling head, with which this project pretrains its bundled model.

use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};
use vblora::{Factors, FrozenLinear, backend::VbLoraBackend, ops::gelu};

use crate::{
    EncoderConfig, HostTensor, Result,
    encoder::Embeddings,
    parts::{Builder, FrozenLayerNorm},
    source::RandomWeights,
    upload::host_tensor,
};

/// Dense, GELU, normalisation, and the product with the token embeddings (tied) plus a bias per token.
#[derive(Module, Debug)]
pub struct LmHead<B: Backend> {
    /// `[d, d]`
    pub dense: FrozenLinear<B>,
    /// `lm_head.layer_norm`
    pub norm: FrozenLayerNorm<B>,
    /// `[vocabulary]`
    pub bias: Param<Tensor<B, 1>>,
}

impl<B: VbLoraBackend> LmHead<B> {
    /// A head with fresh weights.
    ///
    /// # Errors
    /// A tensor too large for the device.
    pub fn random(config: &EncoderConfig, seed: u64, device: &B::Device) -> Result<Self> {
        let mut source = RandomWeights::new(seed, config.initializer_range);
        let mut builder = Builder::<B, _>::new(&mut source, config.base_dtype.dense(), device);
        let d = config.hidden_size;
        Ok(Self {
            dense: builder.linear("lm_head.dense", d, d)?,
            norm: FrozenLayerNorm::build(
                &mut builder,
                "lm_head.layer_norm",
                d,
                config.layer_norm_eps,
            )?,
            bias: builder.frozen("lm_head.bias", [config.vocab_size])?,
        })
    }

    /// Token logits of chosen positions.
    ///
    /// # Shapes
    /// - hidden: `[m, d]`; output: `[m, vocabulary]`
    pub fn forward(&self, hidden: Tensor<B, 2>, embeddings: &Embeddings<B>) -> Tensor<B, 2> {
        let x = self
            .norm
            .forward(gelu(self.dense.forward(hidden, &Factors::none())));
        embeddings.word.logits(x) + self.bias.val().unsqueeze()
    }

    /// The head's tensors by their Hugging Face names; the tied decoder is not among them.
    pub fn tensors(&self) -> Vec<(String, HostTensor)> {
        let mut out = vec![(
            "lm_head.dense.weight".into(),
            host_tensor(self.dense.weight.dense().transpose()),
        )];
        out.extend(
            self.dense
                .bias
                .as_ref()
                .map(|bias| ("lm_head.dense.bias".into(), host_tensor(bias.val()))),
        );
        out.extend(self.norm.tensors("lm_head.layer_norm"));
        out.push(("lm_head.bias".into(), host_tensor(self.bias.val())));
        out
    }
}

//! Token, position and type embeddings.

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor, backend::Backend},
};
use vblora::{Factors, backend::VbLoraBackend};

use super::input::EncoderInput;
use crate::{
    BaseDtype, EncoderConfig, Result,
    parts::{Builder, FrozenLayerNorm, TokenEmbedding, rows},
    source::WeightSource,
};

/// The sum of three embeddings, normalised.
#[derive(Module, Debug)]
pub struct Embeddings<B: Backend> {
    /// `[vocabulary, d]`
    pub word: TokenEmbedding<B>,
    /// `[positions, d]`
    pub position: Param<Tensor<B, 2>>,
    /// `[types, d]`
    pub token_type: Param<Tensor<B, 2>>,
    /// The normalisation of the sum.
    pub norm: FrozenLayerNorm<B>,
    #[module(skip)]
    dropout: f64,
}

impl<B: VbLoraBackend> Embeddings<B> {
    pub(crate) fn build<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        config: &EncoderConfig,
    ) -> Result<Self> {
        let d = config.hidden_size;
        let name = "embeddings.word_embeddings.weight";
        let word = builder.source.take(name, [config.vocab_size, d]);
        Ok(Self {
            word: TokenEmbedding::build(builder, name, word, BaseDtype::F32)?,
            position: builder.frozen(
                "embeddings.position_embeddings.weight",
                [config.max_positions, d],
            )?,
            token_type: builder.frozen(
                "embeddings.token_type_embeddings.weight",
                [config.type_vocab_size, d],
            )?,
            norm: FrozenLayerNorm::build(
                builder,
                "embeddings.LayerNorm",
                d,
                config.layer_norm_eps,
            )?,
            dropout: config.hidden_dropout,
        })
    }

    /// # Shapes
    /// - output: as the input lies, `[n, t, d]` or `[N, 1, d]`
    pub fn forward(&self, input: &EncoderInput<B>, factors: &Factors<B>) -> Tensor<B, 3> {
        let look_up =
            |table: &Param<Tensor<B, 2>>, ids: &Tensor<B, 2, Int>| rows(table.val(), ids.clone());
        let sum = self.word.look_up(&input.ids)
            + look_up(&self.token_type, &input.type_ids)
            + look_up(&self.position, &input.positions);
        factors.drop(self.norm.forward(sum), self.dropout, "embeddings")
    }
}

//! Token, position and type embeddings.

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor, backend::Backend},
};
use vblora::{Factors, FrozenLinear, backend::VbLoraBackend};

use super::input::EncoderInput;
use crate::{
    BaseDtype, EncoderConfig, EncoderPositions, Result,
    config::{POSITION, PROJECT, TOKEN_TYPE},
    parts::{Builder, FrozenLayerNorm, TokenEmbedding, rows},
    source::WeightSource,
};

/// The sum of the embeddings that the family has, normalised.
#[derive(Module, Debug)]
pub struct Embeddings<B: Backend> {
    /// `[vocabulary, e]`
    pub word: TokenEmbedding<B>,
    /// `[positions, e]`
    pub position: Option<Param<Tensor<B, 2>>>,
    /// `[types, e]`
    pub token_type: Option<Param<Tensor<B, 2>>>,
    /// The normalisation of the sum.
    pub norm: FrozenLayerNorm<B>,
    /// `embeddings_project`, the map from the width e of the embeddings to d, where they differ.
    pub project: Option<FrozenLinear<B>>,
    #[module(skip)]
    dropout: f64,
}

impl<B: VbLoraBackend> Embeddings<B> {
    pub(crate) fn build<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        config: &EncoderConfig,
    ) -> Result<Self> {
        let (layout, e) = (config.layout(), config.embedding_width());
        let word = builder.source.take(layout.word, [config.vocab_size, e]);
        let word = TokenEmbedding::build(builder, layout.word, word, BaseDtype::F32);
        let mut table = |name, rows, has: bool| has.then(|| builder.frozen(name, [rows, e]));
        let is_learned = config.positions == EncoderPositions::Learned;
        let position = table(POSITION, config.max_positions, is_learned);
        let types = config.type_vocab_size;
        let token_type = table(TOKEN_TYPE, types, types > 0);
        let norm = FrozenLayerNorm::build_with(
            builder,
            layout.embedding_norm,
            e,
            config.layer_norm_eps,
            config.norm_bias,
        );
        let project = config
            .embedding_size
            .map(|e| builder.as_stored(|builder| builder.linear(PROJECT, e, config.hidden_size)));
        Ok(Self {
            word: word?,
            position: position.transpose()?,
            token_type: token_type.transpose()?,
            norm: norm?,
            project: project.transpose()?,
            dropout: config.hidden_dropout,
        })
    }

    /// # Shapes
    /// - output: as the input lies, `[n, t, d]` or `[N, 1, d]`
    pub fn forward(&self, input: &EncoderInput<B>, factors: &Factors<B>) -> Tensor<B, 3> {
        let look_up =
            |table: &Param<Tensor<B, 2>>, ids: &Tensor<B, 2, Int>| rows(table.val(), ids.clone());
        let mut sum = self.word.look_up(&input.ids);
        if let Some(table) = &self.token_type {
            sum = sum + look_up(table, &input.type_ids);
        }
        if let Some(table) = &self.position {
            sum = sum + look_up(table, &input.positions);
        }
        let x = factors.drop(self.norm.forward(sum), self.dropout, "embeddings");
        match &self.project {
            Some(project) => project.forward(x, factors),
            None => x,
        }
    }
}

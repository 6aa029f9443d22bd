//! Published sizes of encoders, for plans and benches that have no checkpoint at hand.

use super::{
    Activation, EncoderConfig, EncoderPositions, Family, HeadActivation, LayerSet, Pooling,
    RelativeBuckets, RotaryLayers,
};
use crate::BaseDtype;

impl EncoderConfig {
    /// roberta-base (arXiv 1907.11692, table 9): 12 layers of width 768, 125 million parameters.
    pub fn roberta_base() -> Self {
        Self {
            family: Family::Roberta,
            hidden_size: 768,
            embedding_size: None,
            num_layers: 12,
            num_heads: 12,
            intermediate_size: 3072,
            vocab_size: 50_265,
            max_positions: 514,
            type_vocab_size: 1,
            layer_norm_eps: 1e-5,
            activation: Activation::Gelu,
            hidden_dropout: 0.1,
            attention_dropout: 0.1,
            classifier_dropout: None,
            pad_token_id: 1,
            initializer_range: 0.02,
            position_offset: Family::Roberta.position_offset(1),
            positions: EncoderPositions::Learned,
            attention_bias: true,
            mlp_bias: true,
            norm_bias: true,
            pooling: Pooling::First,
            head_activation: HeadActivation::Tanh,
            head_bias: true,
            head_in_base: false,
            base_dtype: BaseDtype::F32,
        }
    }

    /// roberta-large (arXiv 1907.11692, table 9): 24 layers of width 1,024, 355 million parameters.
    pub fn roberta_large() -> Self {
        Self {
            hidden_size: 1024,
            num_layers: 24,
            num_heads: 16,
            intermediate_size: 4096,
            ..Self::roberta_base()
        }
    }

    /// ModernBERT-base (arXiv 2412.13663, table 4): 22 layers of width 768, every third of them global, 149 million parameters.
    pub fn modernbert_base() -> Self {
        let family = Family::ModernBert;
        Self {
            family,
            num_layers: 22,
            intermediate_size: 1152,
            vocab_size: 50_368,
            max_positions: 8192,
            type_vocab_size: 0,
            hidden_dropout: 0.0,
            attention_dropout: 0.0,
            classifier_dropout: Some(0.0),
            pad_token_id: 50_283,
            position_offset: 0,
            positions: EncoderPositions::Rotary(RotaryLayers {
                theta: 160_000.0,
                local_theta: 10_000.0,
                reach: 64,
                local: LayerSet::Listed((0..22).map(|layer| layer % 3 != 0).collect()),
            }),
            attention_bias: false,
            mlp_bias: false,
            norm_bias: false,
            pooling: Pooling::Mean,
            head_activation: HeadActivation::Of(Activation::Gelu),
            head_bias: false,
            head_in_base: true,
            ..Self::roberta_base()
        }
    }

    /// DeBERTa-v3-base (arXiv 2111.09543): 12 layers of width 768 with scores of relative positions, 184 million parameters.
    pub fn deberta_v3_base() -> Self {
        Self {
            family: Family::DebertaV2,
            vocab_size: 128_100,
            max_positions: 512,
            type_vocab_size: 0,
            layer_norm_eps: 1e-7,
            pad_token_id: 0,
            position_offset: 0,
            positions: EncoderPositions::Relative(RelativeBuckets {
                buckets: 256,
                reach: 512,
            }),
            head_activation: HeadActivation::Of(Activation::Gelu),
            ..Self::roberta_base()
        }
    }

    /// The same model without dropout, as speed is measured.
    #[must_use]
    pub fn without_dropout(self) -> Self {
        Self {
            hidden_dropout: 0.0,
            attention_dropout: 0.0,
            classifier_dropout: None,
            ..self
        }
    }
}

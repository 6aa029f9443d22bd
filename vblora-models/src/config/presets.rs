//! The published sizes of RoBERTa (arXiv 1907.11692, table 9), for plans and benches that have no checkpoint at hand.

use super::{Activation, EncoderConfig, EncoderPositions, Family, HeadActivation, Pooling};
use crate::BaseDtype;

impl EncoderConfig {
    /// roberta-base: 12 layers of width 768, 125 million parameters.
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

    /// roberta-large: 24 layers of width 1,024, 355 million parameters.
    pub fn roberta_large() -> Self {
        Self {
            hidden_size: 1024,
            num_layers: 24,
            num_heads: 16,
            intermediate_size: 4096,
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

//! The published sizes of the paper's decoders, for plans and benches that have no checkpoint at hand.

use vblora::ops::Gate;

use super::{
    AttentionScale, DecoderConfig, DecoderFamily, EmbeddingScale, LayerSet, Mlp, NormForm,
    RotaryConfig, layout,
};
use crate::{Activation, BaseDtype};

impl DecoderConfig {
    /// GPT-2 Medium: 24 layers of width 1,024, 355 million parameters (Radford et al., 2019, table 2).
    pub fn gpt2_medium() -> Self {
        Self {
            family: DecoderFamily::Gpt2,
            layout: &layout::GPT2,
            hidden_size: 1024,
            num_layers: 24,
            num_heads: 16,
            num_kv_heads: 16,
            head_size: 64,
            intermediate_size: 4096,
            vocab_size: 50_257,
            max_positions: 1024,
            norm: NormForm::Layer,
            norm_eps: 1e-5,
            qk_norm: None,
            mlp: Mlp::Plain(Activation::GeluTanh),
            rotary: None,
            local_theta: None,
            rotated: LayerSet::All,
            window: None,
            windowed: LayerSet::All,
            embedding_scale: EmbeddingScale::One,
            residual_scale: 1.0,
            attention_scale: AttentionScale::RootOfHead,
            score_cap: None,
            logits_divisor: 1.0,
            logit_cap: None,
            tied: true,
            qkv_bias: true,
            output_bias: true,
            mlp_bias: true,
            embedding_dropout: 0.1,
            residual_dropout: 0.1,
            attention_dropout: 0.1,
            bos_token_id: Some(50_256),
            eos_token_ids: vec![50_256],
            pad_token_id: None,
            initializer_range: 0.02,
            base_dtype: BaseDtype::F32,
            split_qkv: false,
        }
    }

    /// GPT-2 Large: 36 layers of width 1,280, 774 million parameters.
    pub fn gpt2_large() -> Self {
        Self {
            hidden_size: 1280,
            num_layers: 36,
            num_heads: 20,
            num_kv_heads: 20,
            intermediate_size: 5120,
            ..Self::gpt2_medium()
        }
    }

    /// Llama-2-7B: 32 layers of width 4,096 (arXiv 2307.09288).
    pub fn llama_2_7b() -> Self {
        Self {
            family: DecoderFamily::Llama,
            layout: &layout::LLAMA,
            norm: NormForm::Rms { offset: 0.0 },
            hidden_size: 4096,
            num_layers: 32,
            num_heads: 32,
            num_kv_heads: 32,
            head_size: 128,
            intermediate_size: 11_008,
            vocab_size: 32_000,
            max_positions: 4096,
            mlp: Mlp::Gated(Gate::Silu),
            rotary: Some(RotaryConfig::plain(10_000.0)),
            tied: false,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            embedding_dropout: 0.0,
            residual_dropout: 0.0,
            attention_dropout: 0.0,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
            ..Self::gpt2_medium()
        }
    }

    /// Llama-2-13B: 40 layers of width 5,120.
    pub fn llama_2_13b() -> Self {
        Self {
            hidden_size: 5120,
            num_layers: 40,
            num_heads: 40,
            num_kv_heads: 40,
            intermediate_size: 13_824,
            ..Self::llama_2_7b()
        }
    }

    /// Mistral-7B-v0.1: 32 layers of width 4,096, 8 key heads, a window of 4,096 (arXiv 2310.06825).
    pub fn mistral_7b() -> Self {
        Self {
            family: DecoderFamily::Mistral,
            num_kv_heads: 8,
            intermediate_size: 14_336,
            max_positions: 32_768,
            window: Some(4096),
            ..Self::llama_2_7b()
        }
    }

    /// Gemma-7B: 28 layers of width 3,072 with heads of 256, 256,000 tokens (arXiv 2403.08295).
    pub fn gemma_7b() -> Self {
        Self {
            family: DecoderFamily::Gemma,
            norm: NormForm::Rms { offset: 1.0 },
            embedding_scale: EmbeddingScale::RootOfWidth,
            hidden_size: 3072,
            num_layers: 28,
            num_heads: 16,
            num_kv_heads: 16,
            head_size: 256,
            intermediate_size: 24_576,
            vocab_size: 256_000,
            max_positions: 8192,
            norm_eps: 1e-6,
            mlp: Mlp::Gated(Gate::GeluTanh),
            tied: true,
            bos_token_id: Some(2),
            eos_token_ids: vec![1],
            pad_token_id: Some(0),
            ..Self::llama_2_7b()
        }
    }

    /// SmolLM2-135M, a small Llama: 30 layers of width 576 (arXiv 2502.02737).
    pub fn smollm2_135m() -> Self {
        Self {
            hidden_size: 576,
            num_layers: 30,
            num_heads: 9,
            num_kv_heads: 3,
            head_size: 64,
            intermediate_size: 1536,
            vocab_size: 49_152,
            max_positions: 8192,
            rotary: Some(RotaryConfig::plain(100_000.0)),
            tied: true,
            ..Self::llama_2_7b()
        }
    }
}

//! The families of decoders whose `config.json` is read, and what each leaves unsaid.

use vblora::ops::Gate;

use super::{
    features::{EmbeddingScale, LayerSet, Mlp, NormForm, QkNorm, RotaryConfig},
    layout,
};
use crate::DecoderConfig;

/// The kind of model that a `config.json` describes. Only reading and writing that file looks at it: the model itself follows the features of
/// [`DecoderConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecoderFamily {
    /// GPT-2: learned positions, layer norms, a plain MLP, query, key and value in one map.
    Gpt2,
    /// Llama 1 to 3 (arXiv 2302.13971, 2307.09288, 2407.21783): rotary positions, RMS norms, a gated MLP.
    Llama,
    /// Mistral (arXiv 2310.06825): Llama with grouped queries and a sliding window.
    Mistral,
    /// Gemma (arXiv 2403.08295): Llama with scaled embeddings, norms that hold what is added to 1, and a GELU gate.
    Gemma,
    /// Gemma 2 (arXiv 2408.00118): norms before and after, caps on scores and logits, a window in every second layer.
    Gemma2,
    /// Gemma 3, its text model (arXiv 2503.19786): norms before and after, query and key norms, windows, two rotary bases.
    Gemma3,
    /// Qwen 2 and 2.5 (arXiv 2407.10671, 2412.15115): Llama with biases on query, key and value.
    Qwen2,
    /// Qwen 3 (arXiv 2505.09388): Llama with query and key norms.
    Qwen3,
    /// OLMo 2 (arXiv 2501.00656): Llama with norms after instead of before, and norms over all of query and key.
    Olmo2,
    /// Granite 3: Llama with multipliers.
    Granite,
    /// SmolLM3: Llama with layers that have no positions.
    SmolLm3,
    /// Phi-3 and Phi-4-mini (arXiv 2404.14219): Llama with fused maps, a window and partly rotated heads.
    Phi3,
}

/// The rule by which a family's layers have a sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WindowRule {
    /// Nowhere.
    Never,
    /// In every layer, if `sliding_window` says so; the number is its default.
    Every(Option<usize>),
    /// Layers from `max_window_layers` on, if `use_sliding_window` asks for it.
    Asked,
    /// Layers without rotary positions, if `use_sliding_window` asks for it.
    Unrotated,
    /// In every second layer, the first one among them.
    Alternating,
    /// In all layers but every `sliding_window_pattern`-th; the number is its default.
    Pattern(usize),
}

/// The words of a `config.json`: GPT-2's own (`n_embd`, `n_head`), or Llama's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    /// GPT-2's.
    Gpt2,
    /// Llama's.
    Llama,
}

impl DecoderFamily {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Gpt2,
        Self::Llama,
        Self::Mistral,
        Self::Gemma,
        Self::Gemma2,
        Self::Gemma3,
        Self::Qwen2,
        Self::Qwen3,
        Self::Olmo2,
        Self::Granite,
        Self::SmolLm3,
        Self::Phi3,
    ];

    /// The `model_type` of its configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Gemma => "gemma",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3_text",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Olmo2 => "olmo2",
            Self::Granite => "granite",
            Self::SmolLm3 => "smollm3",
            Self::Phi3 => "phi3",
        }
    }

    /// The name of the model's class in transformers, which `architectures` of a configuration holds.
    pub fn class(self) -> &'static str {
        match self {
            Self::Gpt2 => "GPT2LMHeadModel",
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Gemma => "GemmaForCausalLM",
            Self::Gemma2 => "Gemma2ForCausalLM",
            Self::Gemma3 => "Gemma3ForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Olmo2 => "Olmo2ForCausalLM",
            Self::Granite => "GraniteForCausalLM",
            Self::SmolLm3 => "SmolLM3ForCausalLM",
            Self::Phi3 => "Phi3ForCausalLM",
        }
    }

    /// A configuration with the family's features, and its settings where a file says nothing. The sizes are those of one of its models or
    /// of Llama-2-7B.
    pub fn template(self) -> DecoderConfig {
        let llama = DecoderConfig {
            family: self,
            norm_eps: 1e-6,
            ..DecoderConfig::llama_2_7b()
        };
        match self {
            Self::Gpt2 => DecoderConfig::gpt2_medium(),
            Self::Llama | Self::Mistral => llama,
            Self::Gemma => DecoderConfig::gemma_7b(),
            Self::Gemma2 => DecoderConfig {
                score_cap: Some(50.0),
                logit_cap: Some(30.0),
                ..after_gemma(llama)
            },
            Self::Gemma3 => DecoderConfig {
                qk_norm: Some(QkNorm::Head),
                rotary: Some(RotaryConfig::plain(1_000_000.0)),
                ..after_gemma(llama)
            },
            Self::Qwen2 => DecoderConfig {
                qkv_bias: true,
                ..llama
            },
            Self::Qwen3 => DecoderConfig {
                qk_norm: Some(QkNorm::Head),
                ..llama
            },
            Self::Olmo2 => DecoderConfig {
                layout: &layout::OLMO2,
                qk_norm: Some(QkNorm::AllHeads),
                norm_eps: 1e-5,
                ..llama
            },
            Self::Granite => llama,
            Self::SmolLm3 => DecoderConfig {
                rotary: Some(RotaryConfig::plain(2_000_000.0)),
                tied: true,
                ..llama
            },
            Self::Phi3 => DecoderConfig {
                layout: &layout::PHI3,
                norm_eps: 1e-5,
                ..llama
            },
        }
    }

    /// The width of a head where a file does not say; `None` where the heads share the model's width.
    pub(super) fn head_size(self) -> Option<usize> {
        match self {
            Self::Gemma | Self::Gemma2 | Self::Gemma3 => Some(256),
            Self::Qwen3 => Some(128),
            Self::Gpt2
            | Self::Llama
            | Self::Mistral
            | Self::Qwen2
            | Self::Olmo2
            | Self::Granite
            | Self::SmolLm3
            | Self::Phi3 => None,
        }
    }

    /// The words that its files use for settings.
    pub(super) fn keys(self) -> Keys {
        match self {
            Self::Gpt2 => Keys::Gpt2,
            Self::Llama
            | Self::Mistral
            | Self::Gemma
            | Self::Gemma2
            | Self::Gemma3
            | Self::Qwen2
            | Self::Qwen3
            | Self::Olmo2
            | Self::Granite
            | Self::SmolLm3
            | Self::Phi3 => Keys::Llama,
        }
    }

    /// The rule by which its layers have a sliding window.
    pub(super) fn window_rule(self) -> WindowRule {
        match self {
            Self::Mistral => WindowRule::Every(Some(4096)),
            Self::Phi3 => WindowRule::Every(None),
            Self::Qwen2 | Self::Qwen3 => WindowRule::Asked,
            Self::SmolLm3 => WindowRule::Unrotated,
            Self::Gemma2 => WindowRule::Alternating,
            Self::Gemma3 => WindowRule::Pattern(6),
            Self::Gpt2 | Self::Llama | Self::Gemma | Self::Olmo2 | Self::Granite => {
                WindowRule::Never
            }
        }
    }

    /// The kinds of rotary scaling that are implemented for it.
    pub(super) fn rope_kinds(self) -> &'static [&'static str] {
        match self {
            Self::Gpt2 => &["default"],
            Self::Gemma3 => &["default", "linear"],
            Self::Phi3 => &["default", "longrope"],
            Self::Llama
            | Self::Mistral
            | Self::Gemma
            | Self::Gemma2
            | Self::Qwen2
            | Self::Qwen3
            | Self::Olmo2
            | Self::Granite
            | Self::SmolLm3 => &["default", "linear", "llama3", "yarn"],
        }
    }
}

/// What Gemma 2 and 3 share with each other.
fn after_gemma(llama: DecoderConfig) -> DecoderConfig {
    DecoderConfig {
        layout: &layout::GEMMA2,
        norm: NormForm::Rms { offset: 1.0 },
        mlp: Mlp::Gated(Gate::GeluTanh),
        embedding_scale: EmbeddingScale::RootOfWidth,
        windowed: LayerSet::All,
        tied: true,
        ..llama
    }
}

//! The command line.

use std::path::PathBuf;

use clap::Parser;
use vblora::backend::{BackendKind, DEFAULT_BACKEND};
use vblora_models::{
    BaseDtype,
    generate::{BeamSearch, Decoding, GenerationConfig, GenerationDefaults, Sampling},
};

/// Generate text with a causal language model and an adapter.
#[derive(Debug, Parser)]
#[command(name = "generate")]
pub(crate) struct Arguments {
    /// A Hugging Face directory (config.json, model.safetensors, tokenizer.json) or hub id
    #[arg(long, value_name = "DIR|HUB_ID")]
    pub(crate) model: String,
    /// The hub revision: a branch, tag or commit
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// A PEFT directory or a compact file
    #[arg(long, value_name = "DIR|FILE")]
    pub(crate) adapter: Option<PathBuf>,
    /// Add the adapter into the weights in memory first
    #[arg(long, requires = "adapter")]
    pub(crate) merge: bool,
    /// What to go on from; repeat for a batch, whose texts are printed when all have ended
    #[arg(long = "prompt", value_name = "TEXT", required = true)]
    pub(crate) prompts: Vec<String>,
    /// Put each prompt as a user's turn into the model's chat template
    #[arg(long)]
    pub(crate) chat: bool,
    /// A system's turn before it
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub(crate) system: Option<String>,
    /// The most tokens to generate [default: the model's generation_config.json, or 128]
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<usize>,
    /// End before this text; repeat for several
    #[arg(long = "stop", value_name = "TEXT")]
    pub(crate) stop_strings: Vec<String>,
    /// Draw tokens, from scores divided by T; 0 takes the best token [default: the model's generation_config.json, or the best token]
    #[arg(long, value_name = "T", conflicts_with = "beams")]
    pub(crate) temperature: Option<f64>,
    /// Draw from the K best tokens
    #[arg(long, value_name = "K", conflicts_with = "beams")]
    pub(crate) top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have probability P
    #[arg(long, value_name = "P", conflicts_with = "beams")]
    pub(crate) top_p: Option<f64>,
    /// What draws are keyed by
    #[arg(long, default_value_t = 0, conflicts_with = "beams")]
    pub(crate) seed: u64,
    /// Search for the likeliest text with N beams
    #[arg(long, value_name = "N")]
    pub(crate) beams: Option<usize>,
    /// Above 0 the search favours long texts
    #[arg(
        long,
        value_name = "X",
        requires = "beams",
        allow_negative_numbers = true
    )]
    pub(crate) length_penalty: Option<f64>,
    /// No N tokens come twice in the same order [default: the model's generation_config.json, or 0, which allows all]
    #[arg(long, value_name = "N")]
    pub(crate) no_repeat_ngram_size: Option<usize>,
    /// Divide the scores of tokens that came before by X [default: the model's generation_config.json, or 1]
    #[arg(long, value_name = "X")]
    pub(crate) repetition_penalty: Option<f64>,
    /// What the linear maps are held and multiplied in: f32, f16 or bf16
    #[arg(long, value_name = "DTYPE", default_value_t = BaseDtype::F32)]
    pub(crate) base_dtype: BaseDtype,
    /// flex, ndarray, wgpu or cuda
    #[arg(long, default_value = DEFAULT_BACKEND)]
    pub(crate) backend: BackendKind,
    /// The backend's device number
    #[arg(long, value_name = "I", default_value_t = 0)]
    pub(crate) device: usize,
}

impl Arguments {
    /// How tokens are chosen and when a text ends: as the flags say, and as the model's files say where there is no flag.
    pub(crate) fn generation(&self, defaults: GenerationDefaults) -> GenerationConfig {
        let decoding = self.decoding(&defaults);
        let mut config = defaults.config;
        config.decoding = decoding;
        if let Some(most) = self.max_tokens {
            (config.max_new_tokens, config.max_total_tokens) = (most, None);
        }
        config
            .stop_strings
            .extend(self.stop_strings.iter().cloned());
        let n_gram = &mut config.no_repeat_ngram_size;
        *n_gram = self.no_repeat_ngram_size.unwrap_or(*n_gram);
        let penalty = &mut config.repetition_penalty;
        *penalty = self.repetition_penalty.unwrap_or(*penalty);
        config
    }

    fn decoding(&self, defaults: &GenerationDefaults) -> Decoding {
        let GenerationDefaults {
            config,
            sampling,
            search,
        } = defaults;
        let drawn = self.temperature.or(self.top_p).is_some() || self.top_k.is_some();
        match (self.beams, self.temperature, &config.decoding) {
            (Some(beams), _, _) => Decoding::Beam(BeamSearch {
                beams,
                length_penalty: self.length_penalty.unwrap_or(search.length_penalty),
                ..search.clone()
            }),
            (None, Some(0.0), _) => Decoding::Greedy,
            (None, _, decoding) if !drawn && !matches!(decoding, Decoding::Sample(_)) => {
                decoding.clone()
            }
            (None, temperature, _) => Decoding::Sample(Sampling {
                temperature: temperature.unwrap_or(sampling.temperature),
                top_k: self.top_k.unwrap_or(sampling.top_k),
                top_p: self.top_p.unwrap_or(sampling.top_p),
                seed: self.seed,
                ..sampling.clone()
            }),
        }
    }
}

//! The command line.

use std::path::PathBuf;

use clap::Parser;
use vblora::backend::{BackendKind, DEFAULT_BACKEND};
use vblora_models::{
    BaseDtype,
    generate::{BeamSearch, Decoding, GenerationConfig, Sampling},
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
    /// The most tokens to generate
    #[arg(long, value_name = "N", default_value_t = GenerationConfig::default().max_new_tokens)]
    pub(crate) max_tokens: usize,
    /// End before this text; repeat for several
    #[arg(long = "stop", value_name = "TEXT")]
    pub(crate) stop_strings: Vec<String>,
    /// Draw tokens, from scores divided by T; 0 takes the best token [default: the best token]
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
    /// No N tokens come twice in the same order
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) no_repeat_ngram_size: usize,
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
    /// How tokens are chosen and when a text ends, besides by these tokens.
    pub(crate) fn generation(&self, stop_tokens: Vec<u32>) -> GenerationConfig {
        let drawn = self.top_k.is_some() || self.top_p.is_some();
        let decoding = match (self.beams, self.temperature) {
            (Some(beams), _) => {
                let default = BeamSearch::default();
                Decoding::Beam(BeamSearch {
                    beams,
                    length_penalty: self.length_penalty.unwrap_or(default.length_penalty),
                    ..default
                })
            }
            (None, Some(0.0)) => Decoding::Greedy,
            (None, None) if !drawn => Decoding::Greedy,
            (None, temperature) => {
                let default = Sampling::default();
                Decoding::Sample(Sampling {
                    temperature: temperature.unwrap_or(default.temperature),
                    top_k: self.top_k.unwrap_or(default.top_k),
                    top_p: self.top_p.unwrap_or(default.top_p),
                    seed: self.seed,
                    ..default
                })
            }
        };
        GenerationConfig {
            max_new_tokens: self.max_tokens,
            stop_tokens,
            stop_strings: self.stop_strings.clone(),
            no_repeat_ngram_size: self.no_repeat_ngram_size,
            decoding,
        }
    }
}

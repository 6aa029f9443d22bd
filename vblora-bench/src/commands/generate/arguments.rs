//! The flags of `vblora generate`.

use std::path::PathBuf;

use clap::Args;
use vblora_models::{
    BaseDtype,
    generate::{BeamSearch, Decoding, GenerationConfig, GenerationDefaults, Sampling},
};

use crate::commands::device::DeviceArguments;

const EXAMPLES: &str = "\
vblora generate --model bundled:llama --prompt Once
vblora generate --model path/to/gpt2 --adapter path/to/adapter --prompt Once";

const LONG: &str = "\
Generate text with a causal model, with or without an adapter

The model is a causal model: Llama, Qwen, Mistral, Gemma, GPT-2 and others (docs/models.md). One text is printed as it grows. Several are printed when all have ended.

vblora generate --model path/to/SmolLM2-135M-Instruct --chat --prompt \"What is the capital of France?\"
vblora generate --model path/to/mistral --temperature 0.7 --top-p 0.9 --seed 1 --stop \"###\" --prompt \"Once upon a time\"";

// Headings of the help.
const MODEL: &str = "Model and adapter";
const PROMPT: &str = "Prompt";
const CHOICE: &str = "Choice of tokens";
const END: &str = "End of a text";

/// Generate text with a causal model, with or without an adapter
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES, long_about = LONG)]
pub struct Arguments {
    /// Hugging Face directory (config.json, model.safetensors, tokenizer.json), hub id, or bundled:llama
    #[arg(long, value_name = "DIR|HUB_ID", help_heading = MODEL)]
    pub(super) model: String,
    /// Hub revision: a branch, tag or commit
    #[arg(long, help_heading = MODEL)]
    pub(super) revision: Option<String>,
    /// Adapter: a PEFT directory or a compact file
    #[arg(long, value_name = "DIR|FILE", help_heading = MODEL)]
    pub(super) adapter: Option<PathBuf>,
    /// Merge the adapter into the weights in memory before generating
    #[arg(long, requires = "adapter", help_heading = MODEL)]
    pub(super) merge: bool,
    /// Text to continue; repeat for a batch, whose texts are printed when all have ended
    #[arg(
        long = "prompt",
        value_name = "TEXT",
        required = true,
        help_heading = PROMPT
    )]
    pub(super) prompts: Vec<String>,
    /// Format each prompt as a user message of the model's chat template
    #[arg(long, help_heading = PROMPT)]
    pub(super) chat: bool,
    /// System message before each prompt
    #[arg(long, value_name = "TEXT", requires = "chat", help_heading = PROMPT)]
    pub(super) system: Option<String>,
    /// Maximum number of tokens to generate [default: the model's generation_config.json, or 128]
    #[arg(long, alias = "max-tokens", value_name = "N", help_heading = END)]
    pub(super) max_new_tokens: Option<usize>,
    /// Stop before this text; repeat for several
    #[arg(long = "stop", value_name = "TEXT", help_heading = END)]
    pub(super) stop_strings: Vec<String>,
    /// Sample from logits divided by T; 0 takes the most likely token [default: the model's generation_config.json, or 0]
    #[arg(long, value_name = "T", conflicts_with = "beams", help_heading = CHOICE)]
    pub(super) temperature: Option<f64>,
    /// Sample from the K most likely tokens
    #[arg(long, value_name = "K", conflicts_with = "beams", help_heading = CHOICE)]
    pub(super) top_k: Option<usize>,
    /// Sample from the most likely tokens that together have probability P
    #[arg(long, value_name = "P", conflicts_with = "beams", help_heading = CHOICE)]
    pub(super) top_p: Option<f64>,
    /// Seed of the sampling; the same seed gives the same text [default: 0]
    #[arg(long, value_name = "SEED", conflicts_with = "beams", help_heading = CHOICE)]
    pub(super) seed: Option<u64>,
    /// Use beam search with N beams
    #[arg(long, value_name = "N", help_heading = CHOICE)]
    pub(super) beams: Option<usize>,
    /// Length penalty of beam search; above 0 it favours long texts
    #[arg(
        long,
        value_name = "X",
        requires = "beams",
        allow_negative_numbers = true,
        help_heading = CHOICE
    )]
    pub(super) length_penalty: Option<f64>,
    /// Never repeat a sequence of N tokens [default: the model's generation_config.json, or 0, which allows repeats]
    #[arg(long, value_name = "N", help_heading = CHOICE)]
    pub(super) no_repeat_ngram_size: Option<usize>,
    /// Divide the logits of tokens that already occurred by X [default: the model's generation_config.json, or 1]
    #[arg(long, value_name = "X", help_heading = CHOICE)]
    pub(super) repetition_penalty: Option<f64>,
    /// Form of the linear maps: f32, f16, bf16 or nf4 (4 bits) [default: f32; nf4 if the files are in 4 bits]
    #[arg(long, value_name = "DTYPE", help_heading = MODEL)]
    pub(super) base_dtype: Option<BaseDtype>,
    #[command(flatten)]
    pub(super) device: DeviceArguments,
}

impl Arguments {
    /// The generation settings: the flags, and the model's files for flags that are not given.
    pub(super) fn generation(&self, defaults: GenerationDefaults) -> GenerationConfig {
        let decoding = self.decoding(&defaults);
        let mut config = defaults.config;
        config.decoding = decoding;
        if let Some(most) = self.max_new_tokens {
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

    /// What the flags set aside without naming it: a rule of the model's `file`, or a seed that nothing is drawn with. In words, for the
    /// user.
    pub(super) fn set_aside(&self, defaults: &GenerationDefaults, file: &str) -> Vec<String> {
        let draws = [
            self.temperature
                .map(|value| format!("--temperature {value}")),
            self.top_k.map(|value| format!("--top-k {value}")),
            self.top_p.map(|value| format!("--top-p {value}")),
        ];
        let draws: Vec<String> = draws.into_iter().flatten().collect();
        let rule = match (&defaults.config.decoding, self.beams) {
            (Decoding::Sample(_), Some(beams)) => Some(format!(
                "{file}: do_sample is true, but --beams {beams} replaces it: no token is drawn"
            )),
            (Decoding::Beam(search), None) if !draws.is_empty() => Some(format!(
                "{file}: num_beams is {}, but {} replaces it: there is no beam search (--beams {0} asks for it)",
                search.beams,
                draws.join(", ")
            )),
            _ => None,
        };
        let is_drawn = matches!(self.decoding(defaults), Decoding::Sample(_));
        let seed = self.seed.filter(|_| !is_drawn);
        let seed = seed.map(|seed| {
            format!("--seed {seed} changes nothing: no token is drawn (--temperature T draws)")
        });
        rule.into_iter().chain(seed).collect()
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
                seed: self.seed.unwrap_or_default(),
                ..sampling.clone()
            }),
        }
    }
}

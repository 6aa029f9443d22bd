//! `cargo xtask paper-memory`: what training the paper's adapters on its decoders takes, by their configurations alone.

use anyhow::Result;
use clap::Args;
use vblora::{VbLoraConfig, count::thousands};
use vblora_bench::program::say;
use vblora_models::{
    BaseDtype, DecoderConfig,
    decoder::{Footprint, sites, targets},
};

/// A table of the six decoders of the paper: sub-vectors, trained and stored parameters, memory of base, adapter and activations, and how many
/// tokens fit a GPU.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Tokens of a sequence.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    length: u32,
    /// Memory of the GPU in GB (10^9 bytes).
    #[arg(long, default_value_t = 80.0)]
    gpu: f64,
    /// f32, f16 or bf16: what the base is held in.
    #[arg(long, default_value = "f16")]
    base_dtype: BaseDtype,
}

/// The paper's models, h and r (tables 3, 4 and 10; GPT-2's query, key and value apart, as its counts need).
fn models() -> [(&'static str, DecoderConfig, usize, usize); 6] {
    let split = |config| DecoderConfig {
        split_qkv: true,
        ..config
    };
    [
        ("GPT-2 Medium", split(DecoderConfig::gpt2_medium()), 256, 4),
        ("GPT-2 Large", split(DecoderConfig::gpt2_large()), 350, 4),
        ("Llama-2-7B", DecoderConfig::llama_2_7b(), 2048, 4),
        ("Llama-2-13B", DecoderConfig::llama_2_13b(), 2048, 6),
        ("Mistral-7B", DecoderConfig::mistral_7b(), 2048, 4),
        ("Gemma-7B", DecoderConfig::gemma_7b(), 2048, 4),
    ]
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let length = arguments.length as usize;
    say(format!(
        "Base in {}, adapter in f32, VB-LoRA on every linear map, b = 256, k = 2, sequences of {length} tokens.\n",
        arguments.base_dtype
    ));
    say(format!(
        "| model | S | trained | stored | base, GB | adapter, gradients, moments, GB | kept per token, MB | with blocks run twice, MB | scores per token, MB | tokens in {} GB | with blocks run twice |",
        arguments.gpu
    ));
    say("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (name, config, bank, rank) in models() {
        let config = DecoderConfig {
            base_dtype: arguments.base_dtype,
            ..config
        };
        let plan = targets("all")?.select(&sites(&config))?;
        let settings = VbLoraConfig {
            bank,
            rank,
            ..Default::default()
        };
        let settings = settings.check(&plan)?;
        let count = settings.count();
        let memory = Footprint::new(&config, &plan, [rank, count.trained], length);
        let adapter = memory.parameters + memory.gradients + memory.moments;
        let tokens = |per_token: usize| {
            let room = arguments.gpu * 1e9 - (memory.base + adapter) as f64;
            (room / (per_token + memory.logits_per_token) as f64).max(0.0) as usize
        };
        let recomputed = memory.recomputed_per_token + memory.block_per_token;
        say(format!(
            "| {name} | {} | {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {} | {} |",
            thousands(settings.sub_vectors()),
            thousands(count.trained),
            thousands(count.stored as usize),
            memory.base as f64 / 1e9,
            adapter as f64 / 1e9,
            memory.kept_per_token as f64 / 1e6,
            recomputed as f64 / 1e6,
            memory.logits_per_token as f64 / 1e6,
            thousands(tokens(memory.kept_per_token)),
            thousands(tokens(recomputed)),
        ));
    }
    Ok(())
}

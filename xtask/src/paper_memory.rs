//! `cargo xtask paper-memory`: computes the memory for training the paper's adapters on its decoders, from their configurations alone.

use anyhow::Result;
use clap::Args;
use vblora::{VbLoraConfig, count::thousands};
use vblora_bench::program::say;
use vblora_models::{
    BaseDtype, DecoderConfig,
    decoder::{Footprint, sites, targets},
};

/// Print a table of the paper's six decoders: sub-vectors, trained and stored parameters, and memory of base, adapter and activations. The
/// table also shows the number of tokens that fit a GPU
#[derive(Args)]
pub(crate) struct Arguments {
    /// Tokens per sequence
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    length: u32,
    /// Memory of the GPU in GB (10^9 bytes)
    #[arg(long, default_value_t = 80.0)]
    gpu: f64,
    /// Number type of the base: f32, f16 or bf16
    #[arg(long, default_value = "f16")]
    base_dtype: BaseDtype,
}

/// The paper's models, h and r (tables 3, 4 and 10). GPT-2's query, key and value are separate, as its counts require.
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
        "| model | S | trained | stored | base, GB | adapter, gradients, moments, GB | kept per token, MB | recomputed, MB | MLPs in pieces, GB | logits per token, MB | tokens in {} GB | recomputed |",
        arguments.gpu
    ));
    say("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
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
        let room = (arguments.gpu * 1e9) as usize;
        let recomputed = memory.recomputed_per_token + memory.attention_per_token;
        say(format!(
            "| {name} | {} | {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {} | {} |",
            thousands(settings.sub_vectors()),
            thousands(count.trained),
            thousands(count.stored as usize),
            memory.base as f64 / 1e9,
            adapter as f64 / 1e9,
            memory.kept_per_token as f64 / 1e6,
            recomputed as f64 / 1e6,
            (memory.mlp_at_once * memory.mlp_per_token) as f64 / 1e9,
            memory.logits_per_token as f64 / 1e6,
            thousands(tokens_that_fit(&memory, room, false)),
            thousands(tokens_that_fit(&memory, room, true)),
        ));
    }
    Ok(())
}

/// The most tokens of a micro-batch whose training fits in `room` bytes.
fn tokens_that_fit(memory: &Footprint, room: usize, recompute: bool) -> usize {
    // No product of such sizes overflows.
    let room = room.min(1 << 60);
    let fits = |tokens| memory.total(tokens, recompute) <= room;
    let mut step = 1;
    while fits(step) {
        step *= 2;
    }
    let mut most = 0;
    while step > 0 {
        if fits(most + step) {
            most += step;
        }
        step /= 2;
    }
    most
}

//! Fine-tunes a causal model (GPT-2, Llama, Mistral, Gemma) on prompts and responses with VB-LoRA, LoRA, or in full. It shows the quality
//! and the cost of each method: held-out likelihood, answers and BLEU before and after.
//!
//! ```text
//! cargo run --release --example causal_finetune                    # bundled model and data, no download
//! cargo run --release --example causal_finetune -- --model DIR --data train.csv --held-out dev.csv --format e2e --method vblora --out runs/e2e
//! cargo run --release --example causal_finetune -- --model DIR --data alpaca.json --format alpaca --packing --plan
//! ```
//!
//! This program is `vblora train` with another default model.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use vblora_bench::{
    commands::{models, train},
    program::run_program,
};

// Training frees and allocates large blocks in every step. This allocator reuses them.
#[global_allocator]
static ALLOCATOR: vblora_allocator::Keeping = vblora_allocator::Keeping;

/// Fine-tune a causal model on prompts and responses. Without flags: a bundled tiny Llama and bundled data, under two minutes.
#[derive(Debug, Parser)]
#[command(
    name = "causal_finetune",
    before_help = "\
cargo run --release --example causal_finetune
cargo run --release --example causal_finetune -- --model DIR --data alpaca.json --format alpaca --packing --plan"
)]
struct CommandLine {
    #[command(flatten)]
    train: train::Arguments,
}

fn main() -> ExitCode {
    run_program(CommandLine::command(), |arguments: CommandLine| {
        train::run(&arguments.train.with_default_model(models::LLAMA))
    })
}

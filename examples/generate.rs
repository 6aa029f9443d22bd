//! Generates text with a GPT-2, Llama, Mistral or Gemma, with or without an adapter, as it grows on the terminal.
//!
//! ```text
//! cargo run --release --example generate -- --model DIR --prompt "Once upon a time"
//! cargo run --release --example generate -- --model DIR --adapter ADAPTER --chat --prompt "What is the capital of France?"
//! cargo run --release --example generate --features cuda -- --backend cuda --base-dtype bf16 --model DIR --temperature 0.7 --top-p 0.9 --prompt ...
//! ```
//!
//! This program is `vblora generate`. `many_adapters.rs` calls the library directly.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use vblora_bench::{commands::generate, program::run_program};

#[global_allocator]
static ALLOCATOR: vblora_allocator::Keeping = vblora_allocator::Keeping;

/// Generate text with a causal language model and an adapter.
#[derive(Debug, Parser)]
#[command(
    name = "generate",
    before_help = "\
cargo run --release --example generate -- --model bundled:llama --prompt Once
cargo run --release --example generate -- --model DIR --adapter ADAPTER --prompt Once"
)]
struct CommandLine {
    #[command(flatten)]
    generate: generate::Arguments,
}

fn main() -> ExitCode {
    run_program(CommandLine::command(), |arguments: CommandLine| {
        generate::run(&arguments.generate)
    })
}

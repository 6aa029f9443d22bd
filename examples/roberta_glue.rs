//! Fine-tunes a RoBERTa (or BERT) on a GLUE task with VB-LoRA, LoRA, the head alone, or in full. It shows the quality and the cost of each
//! method.
//!
//! ```text
//! cargo run --release --example roberta_glue                       # bundled model and task, no download
//! cargo run --release --example roberta_glue -- --model roberta-base --data glue --task mrpc --method vblora --out runs/mrpc
//! cargo run --release --example roberta_glue --features cuda -- --backend cuda ...
//! ```
//!
//! This program is `vblora train`. Copy it to give your own program the flags of that command. `own_training_loop.rs` calls the library
//! directly.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use vblora_bench::{commands::train, program::run_program};

// Training frees and allocates large blocks in every step. This allocator reuses them.
#[global_allocator]
static ALLOCATOR: vblora_allocator::Keeping = vblora_allocator::Keeping;

/// Fine-tune a RoBERTa on a GLUE task and compare methods. Without flags: a bundled tiny model and task, about a minute.
#[derive(Debug, Parser)]
#[command(
    name = "roberta_glue",
    before_help = "\
cargo run --release --example roberta_glue
cargo run --release --example roberta_glue -- --model roberta-base --data glue --task mrpc --out runs/mrpc"
)]
struct CommandLine {
    #[command(flatten)]
    train: train::Arguments,
}

fn main() -> ExitCode {
    run_program(CommandLine::command(), |arguments: CommandLine| {
        train::run(&arguments.train)
    })
}

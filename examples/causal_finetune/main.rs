//! Fine-tunes a causal model (GPT-2, Llama, Mistral, Gemma) on prompts and responses with VB-LoRA, LoRA, or in full, and shows what each
//! bought and cost: held-out likelihood, answers and BLEU before and after.
//!
//! ```text
//! cargo run --release --example causal_finetune                    # bundled model and data, no download
//! cargo run --release --example causal_finetune -- --model DIR --data train.csv --held-out dev.csv --format e2e --method vblora --out runs/e2e
//! cargo run --release --example causal_finetune -- --model DIR --data alpaca.json --format alpaca --packing --plan
//! ```
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    reason = "tables and samples on the terminal are the program's output"
)]

mod answers;
mod arguments;

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result};
use clap::Parser;
use examples::start_logging;
use vblora_bench::report::{Results, Stop};

use answers::Work;
use arguments::{Arguments, session, texts};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Set by Ctrl-C; the run then ends after its step and reports what was reached.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    start_logging();
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (train, held_out) = texts(arguments)?;
    let mut session = session(arguments, train, &held_out)?;
    let plan = session.plan()?;
    if arguments.plan || !arguments.quiet {
        println!("{plan}");
    }
    if arguments.plan {
        return Ok(ExitCode::SUCCESS);
    }
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))
        .context("cannot listen for Ctrl-C")?;
    // Answers come from the adapters as they are stored, so there must be a place for them.
    let place = tempfile::tempdir()?;
    let out = session.out.get_or_insert_with(|| place.path().join("run"));
    let out = out.clone();
    let work = Work {
        session: &session,
        arguments,
        held_out: &held_out,
        out: &out,
        interrupted: &INTERRUPTED,
    };
    let results = arguments.backend.dispatch(arguments.device, work)??;
    if arguments.out.is_some() {
        println!("Written to {}.", out.display());
    }
    Ok(exit_code(&results))
}

/// 130 after Ctrl-C, as shells have it; 1 if a run's loss left the numbers.
fn exit_code(results: &Results) -> ExitCode {
    if INTERRUPTED.load(Ordering::Relaxed) {
        return ExitCode::from(130);
    }
    let failed = |stop: &Stop| matches!(stop, Stop::NonFiniteLoss { .. });
    match results.runs.iter().find(|run| failed(&run.stop)) {
        Some(run) => {
            tracing::error!("{} seed {}: {}", run.method, run.seed, run.stop);
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

//! Fine-tunes a causal model (GPT-2, Llama, Mistral, Gemma) on prompts and responses with VB-LoRA, LoRA, or in full, and shows what each
//! bought and cost: held-out likelihood, answers and BLEU before and after.
//!
//! ```text
//! cargo run --release --example causal_finetune                    # bundled model and data, no download
//! cargo run --release --example causal_finetune -- --model DIR --data train.csv --held-out dev.csv --format e2e --method vblora --out runs/e2e
//! cargo run --release --example causal_finetune -- --model DIR --data alpaca.json --format alpaca --packing --plan
//! ```
#![forbid(unsafe_code)]

mod answers;
mod arguments;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use vblora_bench::{
    program::{exit_code, listen, say, start_logging},
    report::draw,
    results::Results,
    train::Output,
};

use answers::Work;
use arguments::{Arguments, session, texts};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    start_logging();
    match run(&Arguments::parse()) {
        Ok(code) => exit_code(code),
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
        say(plan);
    }
    if arguments.plan {
        return Ok(ExitCode::SUCCESS);
    }
    // The run then ends after its step, with a checkpoint, and reports what was reached.
    let interrupted = listen().context("cannot listen for Ctrl-C")?;
    // Answers come from the adapters as they are stored, so there must be a place for them.
    let place = tempfile::tempdir()?;
    let out = session
        .out
        .get_or_insert_with(|| Output::new(place.path().join("run"), draw));
    let out = out.dir.clone();
    let work = Work {
        session: &session,
        arguments,
        held_out: &held_out,
        out: &out,
        interrupted,
    };
    let results = arguments.backend.dispatch(arguments.device, work)??;
    if arguments.out.is_some() {
        say(format!("Written to {}.", out.display()));
    }
    Ok(outcome(&results))
}

/// 1 if a run failed; each that did is named.
fn outcome(results: &Results) -> ExitCode {
    for run in results.failed() {
        tracing::error!("{} seed {}: {}", run.method, run.seed, run.stop);
    }
    match results.failed().next() {
        Some(_) => ExitCode::FAILURE,
        None => ExitCode::SUCCESS,
    }
}

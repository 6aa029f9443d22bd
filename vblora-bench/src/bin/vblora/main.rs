//! `vblora`: trains and uses adapters, inspects their files, and repeats experiments.
//!
//! This file parses the command line and calls the subcommand, which has a file of its own here or in `vblora_bench::commands`. The exit
//! status is 0 for success, 1 for an error, and 2 for a wrong command line. After a signal it is 128 plus the signal's number.

#![forbid(unsafe_code)]

mod adapter;
mod completions;
mod convert;
mod dequantize;
mod diff;
mod forms;
mod help;
mod inspect;
mod merge;
mod plan;
mod quantize;
mod search;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use vblora_bench::{
    commands::{evaluate, figures, generate, predict, report, sweep, train, verify, view},
    group::require_alone,
    program::{complain, run_program, say, words},
};

#[global_allocator]
static ALLOCATOR: vblora_allocator::Keeping = vblora_allocator::Keeping;

/// Fine-tune transformers with VB-LoRA and other adapters, use and convert the adapters, and repeat experiments.
#[derive(Parser)]
#[command(name = "vblora", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Completions(completions::Arguments),
    Convert(convert::Arguments),
    Dequantize(dequantize::Arguments),
    Diff(diff::Arguments),
    Evaluate(Box<evaluate::Arguments>),
    Figures(figures::Arguments),
    Generate(generate::Arguments),
    Inspect(inspect::Arguments),
    Merge(merge::Arguments),
    Plan(plan::Arguments),
    Predict(predict::Arguments),
    Quantize(quantize::Arguments),
    Report(report::Arguments),
    Sweep(sweep::Arguments),
    #[command(name = sweep::WORKER, hide = true)]
    SweepWorker(sweep::WorkerArguments),
    Train(Box<train::Arguments>),
    Verify(verify::Arguments),
    View(view::Arguments),
}

fn main() -> ExitCode {
    run_program(command(), |arguments: Arguments| run(arguments.command))
}

/// The complete command line parser.
fn command() -> clap::Command {
    help::grouped(Arguments::command())
}

/// The exit status of a wrong command line.
const USAGE: u8 = 2;

impl Command {
    /// Returns true if several processes share its work, or if it is of a process that one of these has started.
    fn knows_ranks(&self) -> bool {
        match self {
            Self::Evaluate(arguments) => arguments.is_shared(),
            Self::Predict(_) | Self::Train(_) | Self::Sweep(_) | Self::SweepWorker(_) => true,
            _ => false,
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let name = words().into_iter().next().unwrap_or_default();
    if !command.knows_ranks()
        && let Err(error) = require_alone(&format!("vblora {name}"))
    {
        complain(format!(
            "error: {error}. vblora train, sweep, predict and evaluate (of a trained head, or with e2e, gsm8k or math and a model) share theirs"
        ));
        return Ok(ExitCode::from(USAGE));
    }
    match command {
        Command::Completions(arguments) => text(completions::run(&arguments)?),
        Command::Convert(arguments) => text(convert::run(&arguments)?),
        Command::Dequantize(arguments) => text(dequantize::run(&arguments)?),
        Command::Diff(arguments) => text(diff::run(&arguments)?),
        Command::Evaluate(arguments) => return evaluate::run(&arguments),
        Command::Figures(arguments) => figures::run(&arguments)?,
        Command::Generate(arguments) => return generate::run(&arguments),
        Command::Inspect(arguments) => text(inspect::run(&arguments)?),
        Command::Merge(arguments) => text(merge::run(&arguments)?),
        Command::Plan(arguments) => text(plan::run(&arguments)?),
        Command::Predict(arguments) => return predict::run(&arguments),
        Command::Quantize(arguments) => text(quantize::run(&arguments)?),
        Command::Report(arguments) => report::run(&arguments)?,
        Command::Sweep(arguments) => return sweep::run(&arguments),
        Command::SweepWorker(arguments) => return sweep::work(&arguments),
        Command::Train(arguments) => return train::run(&arguments),
        Command::Verify(arguments) => return verify::run(&arguments),
        Command::View(arguments) => view::run(&arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the text of a command without its final line feeds.
fn text(text: String) {
    say(text.trim_end_matches('\n'));
}

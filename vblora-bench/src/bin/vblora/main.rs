//! `vblora`: trains and uses adapters, looks into their files, and repeats experiments.
//!
//! This file parses and dispatches; each subcommand has a file of its own, here or in `vblora_bench::commands`. Exit status: 0, 1 where
//! something went wrong, 2 for a wrong command line, and 128 and its number after a signal.

#![forbid(unsafe_code)]

mod completions;
mod help;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use vblora_bench::{
    commands::{figures, report, sweep, view},
    program::{complain, exit_code, parse, start_logging},
};

#[global_allocator]
static ALLOCATOR: vblora_allocator::Keeping = vblora_allocator::Keeping;

/// Fine-tunes transformers with VB-LoRA and other adapters, and works with what comes of it.
#[derive(Parser)]
#[command(name = "vblora", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Completions(completions::Arguments),
    Figures(figures::Arguments),
    Report(report::Arguments),
    Sweep(sweep::Arguments),
    #[command(name = sweep::WORKER, hide = true)]
    SweepWorker(sweep::WorkerArguments),
    View(view::Arguments),
}

fn main() -> ExitCode {
    start_logging();
    let arguments: Arguments = match parse(command()) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match run(arguments.command) {
        Ok(code) => exit_code(code),
        Err(error) => {
            complain(format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Everything that can stand on the command line.
fn command() -> clap::Command {
    help::grouped(Arguments::command())
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Completions(arguments) => completions::run(&arguments)?,
        Command::Figures(arguments) => figures::run(&arguments)?,
        Command::Report(arguments) => report::run(&arguments)?,
        Command::Sweep(arguments) => return sweep::run(&arguments),
        Command::SweepWorker(arguments) => return sweep::work(&arguments),
        Command::View(arguments) => view::run(&arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

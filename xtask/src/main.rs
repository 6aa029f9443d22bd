//! Maintenance commands of the workspace: `cargo xtask <command>`.
//!
//! This file parses the command line and calls the command, which has a file of its own. `sweep`, `report`, `figures` and `view` are those
//! of `vblora`.

#![forbid(unsafe_code)]

mod blimp;
mod checkpoint_sizes;
mod compare;
mod gpu_pack;
mod keyed_hash;
mod make_demo_task;
mod make_text_task;
mod make_tiny_corpus;
mod memory;
mod paper_memory;
mod peft_roundtrip;
mod pretrain_decoder;
mod pretrain_tiny;
mod ranks;
mod scaling;
mod train_tokenizer;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use vblora_bench::{
    commands::{figures, report, sweep, view},
    program::run_program,
};

#[global_allocator]
static ALLOCATOR: vblora_allocator::Keeping = vblora_allocator::Keeping;

/// Maintenance commands of the vblora workspace. Relative paths start at the current directory; the defaults fit the workspace root.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    CheckpointSizes(checkpoint_sizes::Arguments),
    Compare(compare::Arguments),
    Figures(figures::Arguments),
    GpuPack(gpu_pack::Arguments),
    MakeDemoTask(make_demo_task::Arguments),
    MakeTextTask(make_text_task::Arguments),
    MakeTinyCorpus(make_tiny_corpus::Arguments),
    PaperMemory(paper_memory::Arguments),
    PeftRoundtrip(peft_roundtrip::Arguments),
    PretrainDecoder(pretrain_decoder::Arguments),
    PretrainTiny(pretrain_tiny::Arguments),
    Ranks(ranks::Arguments),
    Report(report::Arguments),
    Scaling(scaling::Arguments),
    Sweep(sweep::Arguments),
    #[command(name = sweep::WORKER, hide = true)]
    SweepWorker(sweep::WorkerArguments),
    TrainTokenizer(train_tokenizer::Arguments),
    View(view::Arguments),
}

fn main() -> ExitCode {
    run_program(Arguments::command(), |arguments: Arguments| {
        run(arguments.command)
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::CheckpointSizes(arguments) => checkpoint_sizes::run(&arguments)?,
        Command::Compare(arguments) => compare::run(&arguments)?,
        Command::Figures(arguments) => figures::run(&arguments)?,
        Command::GpuPack(arguments) => gpu_pack::run(&arguments)?,
        Command::MakeDemoTask(arguments) => make_demo_task::run(&arguments)?,
        Command::MakeTextTask(arguments) => make_text_task::run(&arguments)?,
        Command::MakeTinyCorpus(arguments) => make_tiny_corpus::run(&arguments)?,
        Command::PaperMemory(arguments) => paper_memory::run(&arguments)?,
        Command::PeftRoundtrip(arguments) => peft_roundtrip::run(&arguments)?,
        Command::PretrainDecoder(arguments) => pretrain_decoder::run(&arguments)?,
        Command::PretrainTiny(arguments) => pretrain_tiny::run(&arguments)?,
        Command::Ranks(arguments) => return ranks::run(&arguments),
        Command::Report(arguments) => report::run(&arguments)?,
        Command::Scaling(arguments) => scaling::run(&arguments)?,
        Command::Sweep(arguments) => return sweep::run(&arguments),
        Command::SweepWorker(arguments) => return sweep::work(&arguments),
        Command::TrainTokenizer(arguments) => train_tokenizer::run(&arguments)?,
        Command::View(arguments) => view::run(&arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_of_every_command_has_a_help_text() {
        for command in Arguments::command().get_subcommands() {
            let name = command.get_name();
            for argument in command.get_arguments() {
                let help = argument.get_help().map(ToString::to_string);
                let id = argument.get_id();
                assert!(help.is_some_and(|help| !help.is_empty()), "{name} {id}");
            }
        }
    }
}

//! `vblora evaluate`: scores files of outputs, a subcommand for each task.

mod answers;
mod e2e;
mod generated;
mod mathematics;
mod mtbench;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Score outputs with the metrics of a task
///
/// `vblora evaluate TASK --help` shows the flags and examples of a task.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_required = true,
    arg_required_else_help = true,
    before_help = "\
vblora evaluate e2e --refs references.txt --outputs outputs.txt
vblora evaluate e2e --refs testset_w_refs.csv --outputs system-a.txt system-b.txt"
)]
pub struct Arguments {
    #[command(subcommand)]
    task: Task,
}

/// The tasks, by the name of their subcommand.
#[derive(Debug, Subcommand)]
enum Task {
    #[command(name = "e2e")]
    E2e(e2e::Arguments),
    Gsm8k(mathematics::Gsm8kArguments),
    Math(mathematics::MathArguments),
    Mtbench(mtbench::Arguments),
}

/// Runs the evaluation of a task.
///
/// # Errors
/// The error of the task's own subcommand.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.task {
        Task::E2e(arguments) => e2e::run(arguments)?,
        Task::Gsm8k(arguments) => mathematics::gsm8k(arguments)?,
        Task::Math(arguments) => mathematics::math(arguments)?,
        Task::Mtbench(arguments) => mtbench::run(arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

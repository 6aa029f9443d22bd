//! `vblora evaluate`: scores files of outputs, a subcommand for each task.

mod e2e;

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
}

/// Runs the evaluation of a task.
///
/// # Errors
/// The error of the task's own subcommand.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.task {
        Task::E2e(arguments) => e2e::run(arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

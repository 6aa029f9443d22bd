//! `vblora evaluate`: scores a trained head on a file with labels, and files of outputs by a subcommand for each task.

mod answers;
mod e2e;
mod generated;
mod labels;
mod mathematics;
mod model;
mod mtbench;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

/// Score an adapter on a file with labels, or outputs with the metrics of a task
///
/// `vblora evaluate TASK --help` shows the flags and examples of a task.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true,
    before_help = "\
vblora evaluate --model bundled:roberta --adapter run/vblora-seed1 --data dev.csv
vblora evaluate e2e --refs testset_w_refs.csv --outputs system-a.txt system-b.txt"
)]
pub struct Arguments {
    // First, because reading a subcommand takes it away.
    #[command(flatten)]
    labels: labels::Unless,
    #[command(subcommand)]
    task: Option<Task>,
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

impl Arguments {
    /// Returns true if several processes share the work: that of a trained head, or a model's answers to questions.
    pub fn is_shared(&self) -> bool {
        match &self.task {
            None => true,
            Some(Task::E2e(arguments)) => arguments.is_shared(),
            Some(Task::Gsm8k(arguments)) => arguments.is_shared(),
            Some(Task::Math(arguments)) => arguments.is_shared(),
            Some(Task::Mtbench(_)) => false,
        }
    }
}

/// Runs the evaluation of a task.
///
/// # Errors
/// The error of the task's own subcommand.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    match (&arguments.task, &arguments.labels.0) {
        (Some(Task::E2e(arguments)), _) => e2e::run(arguments),
        (Some(Task::Gsm8k(arguments)), _) => mathematics::gsm8k(arguments),
        (Some(Task::Math(arguments)), _) => mathematics::math(arguments),
        (Some(Task::Mtbench(arguments)), _) => {
            mtbench::run(arguments)?;
            Ok(ExitCode::SUCCESS)
        }
        (None, Some(arguments)) => labels::run(arguments),
        // The parser makes one or the other.
        (None, None) => bail!("expected a task, or --model, --adapter and --data"),
    }
}

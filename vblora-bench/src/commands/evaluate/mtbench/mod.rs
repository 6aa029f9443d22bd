//! `vblora evaluate mtbench`: answers, judgments and scores of MT-Bench, on FastChat's files.

mod answer;
mod judge;
mod show;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand};

/// Answer MT-Bench's questions, have the answers judged, and show the scores
///
/// All files are FastChat's. `--out` is a folder like its data/mt_bench, with question.jsonl.
#[derive(Debug, Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    before_help = "\
vblora evaluate mtbench answer --model path/to/model --adapter runs/x --model-id x --out mt_bench
vblora evaluate mtbench judge --judge gpt-4-0613 --references gpt-4.jsonl --out mt_bench

vblora evaluate mtbench show --out mt_bench"
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    Answer(Box<answer::Arguments>),
    Judge(judge::Arguments),
    Show(show::Arguments),
}

/// Runs one of the steps.
///
/// # Errors
/// The error of the step.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.step {
        Step::Answer(arguments) => answer::run(arguments),
        Step::Judge(arguments) => judge::run(arguments),
        Step::Show(arguments) => show::run(arguments),
    }
}

/// The given file, or the one that FastChat has in the folder.
fn question_file(given: Option<&PathBuf>, out: &Path) -> PathBuf {
    given.cloned().unwrap_or_else(|| out.join("question.jsonl"))
}

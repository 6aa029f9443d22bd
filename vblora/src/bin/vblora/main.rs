//! `vblora`: looks into adapter files, turns them into each other, merges them into their base, and plans new ones.
//!
//! This file parses and dispatches; each command has a file of its own. Exit status: 0, 1 where something went wrong, 2 for a wrong command
//! line.

#![forbid(unsafe_code)]

mod adapter;
mod architectures;
mod convert;
mod diff;
mod forms;
mod inspect;
mod merge;
mod plan;
mod search;

use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// Looks into adapter files (PEFT directories and compact files), turns them into each other, merges them, and plans new ones.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Arguments),
    Convert(convert::Arguments),
    Diff(diff::Arguments),
    Merge(merge::Arguments),
    Plan(plan::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Convert(arguments) => convert::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Merge(arguments) => merge::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
    };
    match done {
        Ok(text) => match say(&text) {
            // Whoever reads may stop reading: `vblora inspect .. | head`.
            Err(cause) if cause.kind() != ErrorKind::BrokenPipe => {
                failure(&format!("cannot write standard output: {cause}"))
            }
            _ => ExitCode::SUCCESS,
        },
        Err(error) => failure(&error),
    }
}

fn failure(error: &dyn std::fmt::Display) -> ExitCode {
    // Nobody is left to tell where standard error is closed.
    let _ = writeln!(io::stderr(), "error: {error}");
    ExitCode::FAILURE
}

/// All of it, or the reason why not: what stays in a buffer at the end is lost without a word.
fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

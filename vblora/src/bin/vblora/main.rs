//! `vblora`: looks into adapter files, turns them into each other, merges them into their base, and plans new ones.
//!
//! This file parses and dispatches; each command has a file of its own. Exit status: 0, 1 where something went wrong, 2 for a wrong command
//! line.

#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, reason = "errors go there")]

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
    io::{ErrorKind, Write},
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
        // Whoever reads may stop reading: `vblora inspect .. | head`.
        Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
            Err(cause) if cause.kind() != ErrorKind::BrokenPipe => failure(&cause),
            _ => ExitCode::SUCCESS,
        },
        Err(error) => failure(&error),
    }
}

fn failure(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

//! Adapters as files: PEFT's directories and the compact file.
#![allow(missing_docs, clippy::print_stdout)]

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod compact;
mod hostile;
mod merge;
mod peft;

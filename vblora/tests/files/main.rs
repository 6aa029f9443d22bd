//! Files: PEFT's directories, the compact file, checkpoints.
#![allow(missing_docs, clippy::print_stdout)]

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod checkpoint;
mod compact;
mod corpus;
mod hostile;
mod merge;
mod nf4;
mod peft;
mod peft_fields;
mod peft_names;
mod peft_rules;

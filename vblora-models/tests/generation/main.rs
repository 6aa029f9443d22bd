//! Generation from models whose scores are a function of the tokens, against transformers and by properties.
#![allow(missing_docs)]
#![allow(clippy::print_stdout)] // The reason for a skip.

mod chat;
#[path = "../../../vblora/tests/support/fixtures.rs"]
#[allow(dead_code, unreachable_pub)]
mod fixtures;
#[path = "../../../vblora/tests/support/models.rs"]
mod models;
mod properties;
mod refusals;
mod side_files;
mod text;
mod toy;
mod transformers;

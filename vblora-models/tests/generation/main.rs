//! Generation from models whose scores are a function of the tokens, against transformers and by properties.
#![allow(missing_docs)]
#![allow(clippy::print_stdout)] // The reason for a skip.

mod chat;
mod properties;
mod refusals;
mod text;
mod toy;
mod transformers;

//! Generation from models whose scores are a function of the tokens, against transformers and by properties.
#![allow(missing_docs)]

mod properties;
mod refusals;
mod text;
mod toy;
mod transformers;

//! Causal language models as frozen functions with adapter sites.

mod batch;

pub use batch::{CausalBatch, Side};

//! Hugging Face safetensors on the host: read tensor by tensor as f32, every tensor used or reported.

mod checkpoint;
mod convert;
mod header;
mod loader;
mod save;

pub use checkpoint::Checkpoint;
#[cfg(feature = "hub")]
pub(crate) use checkpoint::{INDEX, SINGLE, shard_names};
pub use loader::{LoadReport, Loader};
pub use save::{SaveDtype, save_safetensors};

/// A tensor in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its values in row-major order, as many as the product of `shape`.
    pub values: Vec<f32>,
}

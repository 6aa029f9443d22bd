//! Hugging Face safetensors on the host: read tensor by tensor as f32, every tensor used or reported.

mod checkpoint;
pub(crate) mod four_bit;
mod loader;
mod model;
mod save;
mod saved;

pub use checkpoint::Checkpoint;
#[cfg(feature = "hub")]
pub(crate) use checkpoint::shard_names;
pub(crate) use checkpoint::{INDEX, SINGLE, Shard};
pub use loader::{LoadReport, Loader, MapWeight};
pub use model::{SIDE_FILES, config_with, save_config, save_model};
pub use save::{SaveDtype, save_safetensors, save_tensors};
pub use saved::SavedTensors;
pub use vblora::storage::HostTensor;

//! Adapters as files, and checkpoints of their training.

mod atomic;
pub mod checkpoint;
mod codes;
mod compact;
mod convert;
mod hash;
mod header;
mod host;
mod identity;
mod merge;
mod packing;
pub mod peft;
mod size;
mod tensors;

pub use crate::count::Precision;
pub use atomic::{clear_leftovers, replace_directory, write_atomically};
pub(crate) use codes::compose;
pub use codes::{Codes, StoredVbLora};
pub use compact::{Bank, Loss, MAX_DIMENSION, MAX_SUB_VECTORS, Precisions};
pub use convert::to_f32;
pub use hash::sha256_hex;
pub use header::{Entry, Header};
pub use host::{HostAdapter, HostLora, HostVbLora, HostVera};
pub use identity::{MAX_RECIPE_BYTES, sites_sha256};
pub use merge::{Merged, merge};
pub use size::Part;
pub use tensors::{HostTensor, MAX_FILE_BYTES, TensorFile};

//! Adapters as files, and checkpoints of their training.

mod atomic;
mod bits;
pub mod checkpoint;
mod codes;
mod compact;
mod convert;
mod files;
mod hash;
mod header;
mod host;
mod identity;
mod index;
mod merge;
pub mod peft;
mod size;
pub mod strict_json;
mod tensors;
mod tie;

pub use crate::count::Precision;
pub use atomic::{
    clear_leftovers, create_at, is_unfinished, lock_holder, replace_directory, write_atomically,
    write_to,
};
pub(crate) use codes::compose;
pub use codes::{Codes, StoredVbLora};
pub use compact::{Bank, Loss, MAX_DIMENSION, MAX_STORED_FACTORS, MAX_SUB_VECTORS, Precisions};
pub use convert::{from_f32, to_f32};
pub use files::{
    MAX_CONFIG_BYTES, MAX_INDEX_BYTES, RegularFile, is_own_stream, read_file, read_input, read_text,
};
pub use hash::sha256_hex;
pub use header::{Entry, Header, MAX_HEADER_BYTES, MAX_NAME_BYTES};
pub use host::{HostAdapter, HostLora, HostVbLora, HostVera};
pub use identity::{MAX_RECIPE_BYTES, sites_sha256};
pub use merge::{Merged, Whole, merge, merge_as};
pub use size::Part;
pub use tensors::{HostTensor, MAX_FILE_BYTES, TensorFile};
pub use tie::Tie;

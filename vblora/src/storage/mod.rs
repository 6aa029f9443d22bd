//! Adapters as files.

mod atomic;
mod codes;
mod convert;
mod header;
mod host;
pub mod peft;
mod tensors;

pub use atomic::write_atomically;
pub use codes::{Codes, StoredVbLora};
pub use convert::to_f32;
pub use header::{Entry, Header};
pub use host::{HostAdapter, HostLora, HostVbLora};
pub use tensors::{HostTensor, MAX_FILE_BYTES, TensorFile};

//! Adapters as files.

mod atomic;
mod codes;

pub use atomic::write_atomically;
pub use codes::{Codes, StoredVbLora};

//! Directories that one process at a time writes to: which process that is, and what stands in them.

mod entry;
mod lock;

pub(crate) use entry::{clear_leftovers, is_file, is_folder, is_leftover, names, require_no_link};
pub use lock::DirLock;

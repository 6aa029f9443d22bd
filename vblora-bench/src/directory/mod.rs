//! Directories that only one process at a time writes to: their lock and their entries.

mod entry;
mod lock;

pub(crate) use entry::{
    clear_leftovers, is_file, is_folder, is_leftover, is_same, names, require_no_link,
};
pub use lock::DirLock;

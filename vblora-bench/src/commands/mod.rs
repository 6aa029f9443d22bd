//! Subcommands that more than one program has: `vblora` and `cargo xtask` parse the same arguments and call the same functions.

pub mod figures;
pub mod progress;
pub mod report;
pub mod sweep;
pub mod view;

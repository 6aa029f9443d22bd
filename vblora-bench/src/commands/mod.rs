//! Subcommands that more than one program has: `vblora`, `cargo xtask` and the examples parse the same arguments and call the same functions.

mod device;
pub mod generate;
pub mod models;
pub mod train;

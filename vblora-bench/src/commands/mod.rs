//! Subcommands that several programs share. `vblora`, `cargo xtask` and the examples parse the same arguments and call the same functions.

pub mod adapter;
mod apart;
mod classifier;
pub mod config;
mod device;
pub mod evaluate;
pub mod figures;
pub mod generate;
pub mod models;
pub mod predict;
pub mod progress;
mod rank;
mod ranks;
pub mod report;
pub mod sweep;
pub mod train;
pub mod verify;
pub mod view;

//! What the ports are built of.

mod build;
mod norm;
mod rotary;
mod words;

pub(crate) use build::Builder;
pub use norm::{FrozenLayerNorm, FrozenRmsNorm};
pub(crate) use rotary::{Angles, Rotary};
pub use words::WordTable;
pub(crate) use words::rows;

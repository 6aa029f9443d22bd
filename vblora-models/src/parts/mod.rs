//! What the ports are built of.

mod build;
mod embedding;
mod norm;
mod rotary;

pub(crate) use build::Builder;
pub use embedding::TokenEmbedding;
pub(crate) use embedding::rows;
pub use norm::{FrozenLayerNorm, FrozenRmsNorm};
pub(crate) use rotary::{Angles, Rotary};

//! Building blocks of the models.

mod build;
mod embedding;
mod norm;
mod rotary;

pub(crate) use build::Builder;
pub use embedding::TokenEmbedding;
pub(crate) use embedding::rows;
pub use norm::{FrozenLayerNorm, FrozenNorm, FrozenRmsNorm};
pub(crate) use rotary::{Angles, Rotary};

//! Products over f32 slices: of many rows (`product.rs`), of a few rows (`thin.rs`, `thin_codes.rs`) and of few columns (`narrow.rs`).

mod narrow;
mod product;
mod quantised;
mod right;
mod sixteen;
mod thin;
mod thin_codes;

pub(super) use narrow::{input_gradient, input_gradient_through, narrow_product, output_gradients};
pub(super) use product::{Added, product};
pub(super) use quantised::Quantised;
pub(super) use right::{Matrix, RightHand};
pub(super) use thin::ROWS as FEW_ROWS;

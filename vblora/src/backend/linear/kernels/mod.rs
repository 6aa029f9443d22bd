//! Products over f32 slices: of many rows (`product.rs`), of a few rows (`thin.rs`) and of few columns (`narrow.rs`).

mod narrow;
mod product;
mod right;
mod thin;

pub(super) use narrow::{input_gradient, input_gradient_through, narrow_product, output_gradients};
pub(super) use product::{Added, product};
pub(super) use right::{Matrix, Quantised};
pub(super) use thin::ROWS as FEW_ROWS;

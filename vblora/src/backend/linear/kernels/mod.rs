//! Products over f32 slices: of many rows (`product.rs`, its right-hand sides kept by `panels.rs`), of a few rows (`thin.rs`) and of few columns (`narrow.rs`).

mod narrow;
mod panels;
mod product;
mod thin;

pub(super) use narrow::{input_gradient, input_gradient_through, narrow_product, output_gradients};
pub(super) use panels::Panels;
pub(super) use product::{Added, Matrix, is_large, product};

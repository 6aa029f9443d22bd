//! Products over f32 slices: of many rows ([`product`]), of a few rows, and of few columns.

mod narrow;
mod product;
mod thin;

pub(super) use narrow::{input_gradient, input_gradient_through, narrow_product, output_gradients};
pub(super) use product::{Added, Matrix, product};

//! Products over f32 slices: of many rows (`product.rs`), of a few rows (`thin.rs`, `thin_codes.rs`) and of few columns (`narrow.rs`).

mod narrow;
mod product;
mod quantised;
mod right;
mod sixteen;
mod thin;
mod thin_codes;
mod turn;

pub use narrow::{input_gradient, input_gradient_through, narrow_product, output_gradients};
pub use product::Added;
pub use quantised::Quantised;
pub use right::Matrix;
use right::RightHand;

/// `out = x w + added` for a matrix in memory.
///
/// # Shapes
/// - x: `[rows, inner]`, w: `[inner, columns]`, out: `[rows, columns]`
pub fn product(x: &[f32], w: Matrix<'_>, added: Added<'_>, out: &mut [f32]) {
    product::product(x, w, added, out);
}

/// [`product`] with a weight in 4 bits. It equals the product with the decoded weight to the bit.
pub fn quantised_product(x: &[f32], w: Quantised<'_>, added: Added<'_>, out: &mut [f32]) {
    let is_plain = added.bias.is_none() && added.narrow.is_none();
    let [_, columns] = w.shape();
    if w.is_turned && is_plain && out.len() <= thin::ROWS * columns {
        return decoded_product(x, w, out);
    }
    product::product(x, w, added, out);
}

/// The product of a few rows with a transposed weight in 4 bits. With a dense weight it is made of dot products, whose sums have an order of
/// their own. So the values are laid out here as a dense weight's are.
fn decoded_product(x: &[f32], w: Quantised<'_>, out: &mut [f32]) {
    let [d_out, d_in] = w.shape;
    let mut values = vec![0.0; d_out * d_in];
    let untransposed = Quantised {
        is_turned: false,
        ..w
    };
    untransposed.pack_panel(0, d_out, &mut values);
    let w = Matrix {
        values: &values,
        shape: [d_out, d_in],
        strides: [1, d_out],
    };
    product::product(x, w, Added::default(), out);
}

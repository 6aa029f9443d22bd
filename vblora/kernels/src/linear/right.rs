//! The right-hand side of a product.

use std::ops::Range;

use super::{product::Added, thin};

/// Rows of a panel that are laid out at once from a matrix that lies transposed.
const TURNED: usize = 64;

/// A matrix that a product can lay out in panels.
pub(super) trait RightHand: Copy + Sync {
    /// `[inner, columns]`
    fn shape(&self) -> [usize; 2];

    /// `out = x w + added`, if the product has few rows and there is a way for them. Returns true if it was done.
    fn few_rows(self, x: &[f32], added: Added<'_>, out: &mut [f32]) -> bool;

    /// Writes columns `range` as one panel, with its rows `width` apart. Columns that the matrix does not have are zero.
    fn pack(self, range: Range<usize>, width: usize, to: &mut [f32]);
}

/// A matrix in memory, by its strides: a weight, or its transpose.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// The memory from the matrix's first element on.
    pub values: &'a [f32],
    /// `[inner, columns]`
    pub shape: [usize; 2],
    /// The number of values from one row to the next, and from one column to the next.
    pub strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// A row-major matrix.
    pub fn rows(values: &'a [f32], shape: [usize; 2]) -> Self {
        Self {
            values,
            shape,
            strides: [shape[1], 1],
        }
    }
}

impl RightHand for Matrix<'_> {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn few_rows(self, x: &[f32], added: Added<'_>, out: &mut [f32]) -> bool {
        thin::product(x, self, added, out)
    }

    #[inline(always)]
    fn pack(self, range: Range<usize>, width: usize, to: &mut [f32]) {
        let columns = range.len().min(self.shape[1] - range.start);
        let from = &self.values[range.start * self.strides[1]..];
        if self.strides[1] == 1 {
            for (i, to) in to.chunks_exact_mut(width).enumerate() {
                to[..columns].copy_from_slice(&from[i * self.strides[0]..][..columns]);
                to[columns..].fill(0.0);
            }
            return;
        }
        if columns < width {
            to.fill(0.0);
        }
        // A block of `TURNED` rows of the panel stays in the first-level cache. As many elements of a row of memory are read at once.
        for (block, to) in to.chunks_mut(TURNED * width).enumerate() {
            let rows = to.len() / width;
            for j in 0..columns {
                let at = j * self.strides[1] + block * TURNED * self.strides[0];
                if self.strides[0] == 1 {
                    for (&value, to) in from[at..][..rows].iter().zip(to.chunks_exact_mut(width)) {
                        to[j] = value;
                    }
                } else {
                    for (i, to) in to.chunks_exact_mut(width).enumerate() {
                        to[j] = from[at + i * self.strides[0]];
                    }
                }
            }
        }
    }
}

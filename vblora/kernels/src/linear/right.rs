//! The right-hand side of a product.

use super::{product::Added, thin, turn::turn};
use crate::prefetch::{Level, prefetch};

/// Rows that are asked for before they are copied. They lie too far apart for the processor to guess the next one.
const AHEAD: usize = 6;

/// Parts for each thread. With fewer, some threads would wait for the last ones.
const PARTS: usize = 4;

/// The least number of rows of a part.
const LEAST_ROWS: usize = 64;

/// A matrix that a product can lay out in panels.
pub(super) trait RightHand: Copy + Sync {
    /// `[inner, columns]`
    fn shape(&self) -> [usize; 2];

    /// `out = x w + added`, if the product has few rows and there is a way for them. Returns true if it was done.
    fn few_rows(self, x: &[f32], added: Added<'_>, out: &mut [f32]) -> bool;

    /// The rows that are laid out at once, if columns are divided into this many groups.
    fn rows_at_once(self, groups: usize) -> usize;

    /// Writes a part of panels of `width` columns that follow one another, `from` this row and column on. In a panel, rows lie side by side.
    /// Columns that the matrix does not have are zero.
    fn pack(self, from: [usize; 2], width: usize, to: &mut [&mut [f32]]);
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

    fn rows_at_once(self, groups: usize) -> usize {
        let parts = (PARTS * rayon::current_num_threads()).div_ceil(groups);
        self.shape[0].div_ceil(parts).next_multiple_of(LEAST_ROWS)
    }

    #[inline(always)]
    fn pack(self, from: [usize; 2], width: usize, to: &mut [&mut [f32]]) {
        let [row, start] = from;
        let columns = (to.len() * width).min(self.shape[1] - start);
        let from = &self.values[row * self.strides[0] + start * self.strides[1]..];
        if self.strides[1] == 1 {
            return copy(from, self.strides[0], columns, width, to);
        }
        for (panel, to) in to.iter_mut().enumerate() {
            let first = panel * width;
            let columns = (columns - first).min(width);
            if columns < width {
                to.fill(0.0);
            }
            let from = &from[first * self.strides[1]..];
            if self.strides[0] == 1 {
                turn(from, self.strides[1], columns, width, to);
            } else {
                for (i, to) in to.chunks_exact_mut(width).enumerate() {
                    for (j, to) in to[..columns].iter_mut().enumerate() {
                        *to = from[i * self.strides[0] + j * self.strides[1]];
                    }
                }
            }
        }
    }
}

/// Copies rows that lie `stride` apart, all panels of a row at once, so that each visit to a row reads several cache lines.
#[inline(always)]
fn copy(from: &[f32], stride: usize, columns: usize, width: usize, to: &mut [&mut [f32]]) {
    let rows = to.first().map_or(0, |panel| panel.len() / width);
    for i in 0..rows {
        if i + AHEAD < rows {
            prefetch(&from[(i + AHEAD) * stride..][..columns], Level::Second);
        }
        let mut from = &from[i * stride..][..columns];
        for panel in &mut *to {
            let (here, others) = from.split_at(from.len().min(width));
            let to = &mut panel[i * width..][..width];
            to[..here.len()].copy_from_slice(here);
            to[here.len()..].fill(0.0);
            from = others;
        }
    }
}

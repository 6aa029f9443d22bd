//! The products of a low-rank update that have r columns or r rows. Each reads its wide operand once, with the sums in registers.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::product::{chunk_rows, split};
use crate::{
    activation::{Curve, gelu_both, silu_both, tanh_gelu_both},
    tile::{accumulate, load_part, store},
};

/// The number of elements of wide operands below which one thread does all the work.
const PARALLEL_FROM: usize = 1 << 16;

/// Rows of one call of a row kernel.
const ROWS: usize = 4;

/// The most rows that one thread takes at once. Gradients are added chunk by chunk, so another number gives other bits.
const CHUNK: usize = 120;

/// `out = scale x down`.
///
/// # Shapes
/// - x: `[rows, d]`, turned (the transpose of down): `[r, d]`, out: `[rows, r]`
pub fn narrow_product(x: &[f32], turned: &[f32], d: usize, scale: f32, out: &mut [f32]) {
    if out.is_empty() || d == 0 {
        return out.fill(0.0);
    }
    let rank = turned.len() / d;
    let rows = out.len() / rank;
    let body = |(first, out): (usize, &mut [f32])| {
        let count = out.len() / rank;
        let x = &x[first * d..][..count * d];
        dots(x, turned, d, scale, out);
    };
    if x.len() < PARALLEL_FROM {
        body((0, out));
    } else {
        split(out, rank, chunk_rows(rows, CHUNK))
            .into_par_iter()
            .for_each(body);
    }
}

/// The gradients on the output's side, in one pass over the rows: `d_narrow = scale grad up^T` and `d_up = narrow^T grad`.
///
/// # Shapes
/// - grad: `[rows, d]`, up: `[r, d]`, narrow: `[rows, r]`; outputs: `[rows, r]` and `[r, d]`
pub fn output_gradients(
    grad: &[f32],
    up: &[f32],
    narrow: &[f32],
    [rank, d]: [usize; 2],
    scale: f32,
) -> [Vec<f32>; 2] {
    let mut d_narrow = vec![0.0; narrow.len()];
    let d_up = summed(&mut d_narrow, rank, rank * d, d, |first, d_narrow, sums| {
        let count = d_narrow.len() / rank;
        let grad = &grad[first * d..][..count * d];
        dots(grad, up, d, scale, d_narrow);
        row_sums(&narrow[first * rank..][..count * rank], grad, rank, sums);
    });
    [d_narrow, d_up]
}

/// The gradient of down, turned: `d_narrow^T x`.
///
/// # Shapes
/// - x: `[rows, d]`, d_narrow: `[rows, r]`; output: `[r, d]`
pub fn input_gradient(x: &[f32], d_narrow: &mut [f32], [rank, d]: [usize; 2]) -> Vec<f32> {
    summed(d_narrow, rank, rank * d, d, |first, d_narrow, sums| {
        let x = &x[first * d..][..d_narrow.len() / rank * d];
        row_sums(d_narrow, x, rank, sums);
    })
}

/// [`input_gradient`] at `x = f(h)`. The same pass turns `grad`, the gradient to x, into the gradient to h.
///
/// # Shapes
/// - h and grad: `[rows, d]`
pub fn input_gradient_through(
    curve: Curve,
    h: &[f32],
    d_narrow: &[f32],
    sizes: [usize; 2],
    grad: &mut [f32],
) -> Vec<f32> {
    match curve {
        Curve::Gelu => through(gelu_both, h, d_narrow, sizes, grad),
        Curve::TanhGelu => through(tanh_gelu_both, h, d_narrow, sizes, grad),
        Curve::Silu => through(silu_both, h, d_narrow, sizes, grad),
    }
}

/// [`input_gradient_through`] of a function that returns its value and its slope.
fn through(
    f: impl Fn(f32) -> [f32; 2] + Sync,
    h: &[f32],
    d_narrow: &[f32],
    [rank, d]: [usize; 2],
    grad: &mut [f32],
) -> Vec<f32> {
    /// Rows whose x stays in the second-level cache.
    const BLOCK: usize = 16;
    summed(grad, d, rank * d, d, |first, grad, sums| {
        let mut x = vec![0.0; BLOCK * d];
        let mut part = vec![0.0; rank * d];
        for (block, grad) in grad.chunks_mut(BLOCK * d).enumerate() {
            let at = first + block * BLOCK;
            let count = grad.len() / d;
            let x = &mut x[..grad.len()];
            Arch::new().dispatch(|| {
                for ((x, grad), &h) in x.iter_mut().zip(grad).zip(&h[at * d..]) {
                    let [value, slope] = f(h);
                    *x = value;
                    *grad *= slope;
                }
            });
            row_sums(&d_narrow[at * rank..][..count * rank], x, rank, &mut part);
            for (sum, &part) in sums.iter_mut().zip(&part) {
                *sum += part;
            }
        }
    })
}

/// Calls `body(first row, rows, sums)` on chunks of the rows of `out`, each with `width` sums of its own. Adds these sums up in the rows'
/// order. `d` is the number of elements of a row of the widest operand.
fn summed(
    out: &mut [f32],
    row: usize,
    width: usize,
    d: usize,
    body: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    let mut total = vec![0.0; width];
    if out.is_empty() || width == 0 {
        return total;
    }
    let rows = out.len() / row;
    if rows * d < PARALLEL_FROM {
        body(0, out, &mut total);
        return total;
    }
    let step = chunk_rows(rows, CHUNK);
    let mut sums = vec![0.0; rows.div_ceil(step) * width];
    split(out, row, step)
        .into_par_iter()
        .zip(sums.par_chunks_mut(width))
        .for_each(|((first, out), sums)| body(first, out, sums));
    for sums in sums.chunks_exact(width) {
        for (total, &sum) in total.iter_mut().zip(sums) {
            *total += sum;
        }
    }
    total
}

/// `out[i, q] = scale <x_i, turned_q>`
fn dots(x: &[f32], turned: &[f32], d: usize, scale: f32, out: &mut [f32]) {
    Arch::new().dispatch(Dots {
        x,
        turned,
        d,
        scale,
        out,
    });
}

/// `out[q, :] = sum_i narrow[i, q] x[i, :]`
fn row_sums(narrow: &[f32], x: &[f32], rank: usize, out: &mut [f32]) {
    Arch::new().dispatch(RowSums {
        narrow,
        x,
        d: out.len() / rank,
        rank,
        out,
    });
}

struct Dots<'a> {
    x: &'a [f32],
    turned: &'a [f32],
    d: usize,
    scale: f32,
    out: &'a mut [f32],
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let rank = self.turned.len() / self.d;
        let rows = self.out.len() / rank;
        let mut row = 0;
        while row + ROWS <= rows {
            self.ranks::<S, ROWS>(simd, row);
            row += ROWS;
        }
        while row < rows {
            self.ranks::<S, 1>(simd, row);
            row += 1;
        }
    }
}

impl Dots<'_> {
    #[inline(always)]
    fn ranks<S: Simd, const R: usize>(&mut self, simd: S, row: usize) {
        let rank = self.turned.len() / self.d;
        let mut first = 0;
        while first + 4 <= rank {
            self.tile::<S, R, 4>(simd, row, first);
            first += 4;
        }
        while first < rank {
            self.tile::<S, R, 1>(simd, row, first);
            first += 1;
        }
    }

    /// `R` rows by `Q` ranks.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const Q: usize>(&mut self, simd: S, row: usize, first: usize) {
        let rank = self.turned.len() / self.d;
        let rows: [_; R] =
            std::array::from_fn(|r| S::as_simd_f32s(&self.x[(row + r) * self.d..][..self.d]));
        let turned: [_; Q] = std::array::from_fn(|q| {
            S::as_simd_f32s(&self.turned[(first + q) * self.d..][..self.d])
        });
        let whole = self.d / S::F32_LANES;
        let heads: [&[S::f32s]; R] = std::array::from_fn(|r| &rows[r].0[..whole]);
        let sides: [&[S::f32s]; Q] = std::array::from_fn(|q| &turned[q].0[..whole]);
        let mut sums = [[simd.splat_f32s(0.0); Q]; R];
        for i in 0..whole {
            let side: [S::f32s; Q] = std::array::from_fn(|q| sides[q][i]);
            for (sums, head) in sums.iter_mut().zip(&heads) {
                for (sum, &side) in sums.iter_mut().zip(&side) {
                    *sum = simd.mul_add_e_f32s(head[i], side, *sum);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (q, sum) in sums.into_iter().enumerate() {
                let rest = rows[r].1.iter().zip(turned[q].1);
                let rest: f32 = rest.map(|(x, w)| x * w).sum();
                self.out[(row + r) * rank + first + q] =
                    (simd.reduce_sum_f32s(sum) + rest) * self.scale;
            }
        }
    }
}

struct RowSums<'a> {
    narrow: &'a [f32],
    x: &'a [f32],
    d: usize,
    rank: usize,
    out: &'a mut [f32],
}

impl WithSimd for RowSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut first = 0;
        while first + 4 <= self.rank {
            self.columns::<S, 4>(simd, first);
            first += 4;
        }
        while first < self.rank {
            self.columns::<S, 1>(simd, first);
            first += 1;
        }
    }
}

impl RowSums<'_> {
    #[inline(always)]
    fn columns<S: Simd, const R: usize>(&mut self, simd: S, first: usize) {
        let rows = self.narrow.len() / self.rank;
        for at in (0..self.d).step_by(2 * S::F32_LANES) {
            let len = (2 * S::F32_LANES).min(self.d - at);
            let mut sums = [[simd.splat_f32s(0.0); 2]; R];
            let factor = |r: usize, i: usize| self.narrow[i * self.rank + first + r];
            let x = |i: usize| load_part::<S, 2>(simd, &self.x[i * self.d + at..][..len]);
            accumulate(simd, rows, factor, x, &mut sums);
            for (r, sums) in sums.into_iter().enumerate() {
                store(
                    simd,
                    sums,
                    &mut self.out[(first + r) * self.d + at..][..len],
                );
            }
        }
    }
}

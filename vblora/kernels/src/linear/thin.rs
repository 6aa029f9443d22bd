//! Products of a few rows, as in generation. Reading the right-hand side takes most of the time, so all threads read it once, in its order.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{narrow::narrow_product, product::Added, right::Matrix};

/// Rows up to which reading takes longer than multiplying.
pub(super) const ROWS: usize = 16;

/// The most columns whose sums one thread keeps in the first-level cache.
const STRIP: usize = 512;

/// Rows of the right-hand side that are added at once.
const AT_ONCE: usize = 8;

/// The number of multiplications below which one thread does all the work.
const PARALLEL_FROM: usize = 1 << 16;

/// [`product`](super::product::product) of few rows. The right-hand side must be row-major, or column-major if nothing is added. Returns
/// true if the product was done.
pub(super) fn product(x: &[f32], w: Matrix<'_>, added: Added<'_>, out: &mut [f32]) -> bool {
    let [inner, columns] = w.shape;
    let rows = out.len() / columns;
    if rows > ROWS || inner == 0 {
        return false;
    }
    let is_plain = added.bias.is_none() && added.narrow.is_none();
    if w.strides == [1, inner] && inner > 1 && is_plain {
        by_dots(x, w, out);
        return true;
    }
    if w.strides[1] != 1 {
        return false;
    }
    in_strips(out, columns, inner, |first, sums| {
        begin(added, first, rows, sums);
        Arch::new().dispatch(Sum { x, w, first, sums });
    });
    true
}

/// Calls `strip(first, sums)` for strips of the columns of `out`, each from a multiple of 16 on, on all threads if there is enough work.
/// `sums` is `[rows, columns of the strip]`, zeros at first.
pub(super) fn in_strips(
    out: &mut [f32],
    columns: usize,
    inner: usize,
    strip: impl Fn(usize, &mut [f32]) + Sync,
) {
    let rows = out.len() / columns;
    let threads = rayon::current_num_threads();
    let strips = columns.div_ceil(STRIP * threads) * threads;
    let width = columns.div_ceil(strips).next_multiple_of(16);
    let strip = |i: usize| {
        let range = i * width..((i + 1) * width).min(columns);
        let mut sums = vec![0.0; rows * range.len()];
        strip(range.start, &mut sums);
        sums
    };
    let strips = columns.div_ceil(width);
    let found: Vec<_> = if inner * columns < PARALLEL_FROM {
        (0..strips).map(strip).collect()
    } else {
        (0..strips).into_par_iter().map(strip).collect()
    };
    for (i, sums) in found.iter().enumerate() {
        let len = sums.len() / rows;
        for (row, sums) in sums.chunks_exact(len).enumerate() {
            out[row * columns + i * width..][..len].copy_from_slice(sums);
        }
    }
}

/// Starts the sums of a strip with the terms that are added to the product. The order of the sums is that of larger products.
pub(super) fn begin(added: Added<'_>, first: usize, rows: usize, sums: &mut [f32]) {
    if let Some(bias) = added.bias {
        let len = sums.len() / rows;
        for sums in sums.chunks_exact_mut(len) {
            sums.copy_from_slice(&bias[first..][..len]);
        }
    }
    if let Some((x, w)) = added.narrow {
        Arch::new().dispatch(Sum { x, w, first, sums });
    }
}

/// For right-hand sides whose columns are contiguous.
fn by_dots(x: &[f32], w: Matrix<'_>, out: &mut [f32]) {
    let [inner, columns] = w.shape;
    let rows = out.len() / columns;
    let mut turned = vec![0.0; out.len()];
    narrow_product(&w.values[..inner * columns], x, inner, 1.0, &mut turned);
    for (column, values) in turned.chunks_exact(rows).enumerate() {
        for (row, &value) in values.iter().enumerate() {
            out[row * columns + column] = value;
        }
    }
}

/// `sums += x w` for the columns from `first` on.
struct Sum<'a> {
    x: &'a [f32],
    w: Matrix<'a>,
    first: usize,
    sums: &'a mut [f32],
}

impl WithSimd for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        add(simd, self.x, self.w, self.first, self.sums);
    }
}

#[inline(always)]
fn add<S: Simd>(simd: S, x: &[f32], w: Matrix<'_>, first: usize, sums: &mut [f32]) {
    let [inner, _] = w.shape;
    if inner == 0 {
        return;
    }
    let len = sums.len() / (x.len() / inner);
    let row_of_w = |i: usize| &w.values[i * w.strides[0] + first..][..len];
    let mut i = 0;
    while i + AT_ONCE <= inner {
        let from: [&[f32]; AT_ONCE] = std::array::from_fn(|j| row_of_w(i + j));
        for (x, sums) in x.chunks_exact(inner).zip(sums.chunks_exact_mut(len)) {
            add_rows(simd, &x[i..i + AT_ONCE], from, sums);
        }
        i += AT_ONCE;
    }
    while i < inner {
        for (x, sums) in x.chunks_exact(inner).zip(sums.chunks_exact_mut(len)) {
            add_rows(simd, &x[i..=i], [row_of_w(i)], sums);
        }
        i += 1;
    }
}

#[inline(always)]
fn add_rows<S: Simd, const N: usize>(simd: S, x: &[f32], from: [&[f32]; N], sums: &mut [f32]) {
    let factors: [S::f32s; N] = std::array::from_fn(|j| simd.splat_f32s(x[j]));
    let len = sums.len();
    let (heads, tail) = S::as_mut_simd_f32s(sums);
    let from: [_; N] = std::array::from_fn(|j| S::as_simd_f32s(&from[j][..len]));
    let whole: [&[S::f32s]; N] = std::array::from_fn(|j| &from[j].0[..heads.len()]);
    for (i, sum) in heads.iter_mut().enumerate() {
        for (whole, &factor) in whole.iter().zip(&factors) {
            *sum = simd.mul_add_e_f32s(factor, whole[i], *sum);
        }
    }
    if tail.is_empty() {
        return;
    }
    let mut sum = simd.partial_load_f32s(tail);
    for (from, &factor) in from.iter().zip(&factors) {
        sum = simd.mul_add_e_f32s(factor, simd.partial_load_f32s(from.1), sum);
    }
    simd.partial_store_f32s(tail, sum);
}

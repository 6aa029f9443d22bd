//! Loops over f32 slices that several families of kernels use.

use pulp::Arch;
use rayon::prelude::*;

/// Partial sums kept side by side: two AVX2 registers, or one of AVX-512.
pub(crate) const LANES: usize = 16;

/// The number of elements below which waking another thread costs more than it saves.
pub(crate) const PARALLEL_FROM: usize = 1 << 15;

/// The least number of elements in a run of elementwise work.
pub(crate) const RUN: usize = 1024;

/// Calls `body(start, run)` on runs of whole rows of `out`, where `start` is the run's first element. All threads take part if there is
/// enough work.
pub(crate) fn over_rows(out: &mut [f32], row: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
    let arch = Arch::new();
    let run = run_length(out.len(), row);
    if run >= out.len() {
        return arch.dispatch(|| body(0, out));
    }
    out.par_chunks_mut(run)
        .enumerate()
        .for_each(|(i, out)| arch.dispatch(|| body(i * run, out)));
}

/// Each element becomes `change(value)`.
pub(crate) fn each(values: &mut [f32], change: impl Fn(f32) -> f32 + Sync) {
    over_rows(values, RUN.min(values.len()), |_, run| {
        for value in run {
            *value = change(*value);
        }
    });
}

/// Each element becomes `change(value, other)`.
pub(crate) fn each_with(
    values: &mut [f32],
    others: &[f32],
    change: impl Fn(f32, f32) -> f32 + Sync,
) {
    over_rows(values, RUN.min(values.len()), |start, run| {
        for (value, &other) in run.iter_mut().zip(&others[start..]) {
            *value = change(*value, other);
        }
    });
}

/// Two elements become `change(first, second, others)`.
pub(crate) fn each_pair_with(
    first: &mut [f32],
    second: &mut [f32],
    others: [&[f32]; 2],
    change: impl Fn(f32, f32, [f32; 2]) -> [f32; 2] + Sync,
) {
    let body = |first: &mut [f32], second: &mut [f32], a: &[f32], b: &[f32]| {
        Arch::new().dispatch(|| {
            let pairs = first.iter_mut().zip(second.iter_mut());
            for ((first, second), (&a, &b)) in pairs.zip(a.iter().zip(b)) {
                [*first, *second] = change(*first, *second, [a, b]);
            }
        });
    };
    let run = run_length(first.len(), RUN.min(first.len()));
    let [a, b] = others;
    if run >= first.len() {
        return body(first, second, a, b);
    }
    let pairs = first.par_chunks_mut(run).zip(second.par_chunks_mut(run));
    pairs
        .zip(a.par_chunks(run).zip(b.par_chunks(run)))
        .for_each(|((first, second), (a, b))| body(first, second, a, b));
}

/// Each row of `d` elements is changed by `change(row, other row)`.
pub(crate) fn each_row_with(
    values: &mut [f32],
    others: &[f32],
    d: usize,
    change: impl Fn(&mut [f32], &[f32]) + Sync,
) {
    over_rows(values, d, |start, run| {
        let others = others[start..].chunks_exact(d);
        for (row, other) in run.chunks_exact_mut(d).zip(others) {
            change(row, other);
        }
    });
}

/// Elements of a run: two runs for each thread, whole rows.
pub(crate) fn run_length(len: usize, row: usize) -> usize {
    if len < PARALLEL_FROM {
        return len;
    }
    let rows = len / row.max(1);
    rows.div_ceil(2 * rayon::current_num_threads()).max(1) * row
}

/// A matrix `[rows, columns]` with rows and columns exchanged.
pub fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    /// Rows and columns of a tile that fits the first-level cache.
    const TILE: usize = 32;
    let rows = values.len().checked_div(columns).unwrap_or(0);
    let mut turned = vec![0.0; rows * columns];
    for i0 in (0..rows).step_by(TILE) {
        for j0 in (0..columns).step_by(TILE) {
            for i in i0..(i0 + TILE).min(rows) {
                for j in j0..(j0 + TILE).min(columns) {
                    turned[j * rows + i] = values[i * columns + j];
                }
            }
        }
    }
    turned
}

/// `len` zeros, written by all threads. Reused memory must be cleared, and one thread alone would hold up the others.
pub fn zeros(len: usize) -> Vec<f32> {
    /// Values that are written at once.
    const RUN: usize = 256;
    /// The least number of runs for one thread.
    const LEAST: usize = PARALLEL_FROM / RUN;
    if len < PARALLEL_FROM {
        return vec![0.0; len];
    }
    let mut runs = Vec::new();
    rayon::iter::repeat_n([0.0; RUN], len.div_ceil(RUN))
        .with_min_len(LEAST)
        .collect_into_vec(&mut runs);
    let mut values = runs.into_flattened();
    values.truncate(len);
    values
}

/// `e^x` to rounding; 0 below the smallest normal result, infinity above 2.3e38, NaN for NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding this number rounds to an integer, which then lies in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.37);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first exact in products with n.
    let r = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let tail = ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2)
        * r
        + 1.666_666_5e-1)
        * r
        + 0.5;
    let fraction = tail * r * r + r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    let value = fraction * power;
    let value = if x < -87.3 { 0.0 } else { value };
    if x > 88.37 { f32::INFINITY } else { value }
}

/// The error function within 5e-7: an odd rational function on [-4, 4] (the coefficients are those of Eigen and XLA), constant beyond.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let s = x * x;
    let p = ((((((-2.726_142_4e-10 * s + 2.770_681_4e-8) * s - 2.101_024e-6) * s
        - 5.692_506_4e-5)
        * s
        - 7.349_906e-4)
        * s
        - 2.954_6e-3)
        * s
        - 1.609_603_3e-2)
        * x;
    let q = (((-1.456_607_2e-5 * s - 2.133_740_6e-4) * s - 1.682_827e-3) * s - 7.373_329e-3) * s
        - 1.426_473_9e-2;
    (p / q).clamp(-1.0, 1.0)
}

#[inline(always)]
pub(crate) fn sum_of(n: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let whole = n - n % LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    let rest: f32 = (whole..n).map(&term).sum();
    lanes.iter().sum::<f32>() + rest
}

#[inline(always)]
pub(crate) fn largest(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (best, &value) in lanes.iter_mut().zip(chunk) {
            *best = if value > *best { value } else { *best };
        }
    }
    lanes
        .iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, |a, &b| a.max(b))
}

/// `n` rounded up to whole lanes.
pub(crate) fn padded(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_moves_every_element() {
        let (rows, columns) = (37, 70);
        let matrix: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
        let turned = transposed(&matrix, columns);
        assert!(
            (0..rows)
                .all(|i| { (0..columns).all(|j| turned[j * rows + i] == matrix[i * columns + j]) })
        );
        assert_eq!(transposed(&turned, rows), matrix);
        assert!(transposed(&[], 3).is_empty() && transposed(&[], 0).is_empty());
    }

    #[test]
    fn exp_and_erf_are_right_to_rounding() {
        for i in -88_000..89_000 {
            let x = i as f32 * 1e-3;
            let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
            let error = if x < -87.3 {
                found
            } else if x > 88.37 {
                1.0 / found
            } else {
                (found - expected).abs() / expected
            };
            assert!(error < 3e-7, "exp({x}): {found} {expected}");
        }
        for i in -60_000..60_000 {
            let x = i as f32 * 1e-4;
            let error = (f64::from(erf(x)) - libm::erf(f64::from(x))).abs();
            assert!(error < 5e-7, "erf({x}) is off by {error}");
        }
    }

    #[test]
    fn exp_of_what_is_no_number_stays_none() {
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
    }

    #[test]
    fn zeros_are_as_many_as_asked_for() {
        for len in [0, 1, PARALLEL_FROM - 1, PARALLEL_FROM, 1_000_001] {
            let found = zeros(len);
            assert!(found.len() == len && found.iter().all(|&value| value == 0.0));
        }
    }

    #[test]
    fn runs_cover_every_element_once() {
        for (rows, row) in [(1, 5), (700, 100), (3, 40_000), (70_001, 1)] {
            let mut out = vec![0.0; rows * row];
            over_rows(&mut out, row, |start, run| {
                assert!(start % row == 0 && run.len() % row == 0);
                for (i, value) in run.iter_mut().enumerate() {
                    *value += (start + i) as f32;
                }
            });
            assert!(out.iter().enumerate().all(|(i, &v)| v == i as f32));
        }
    }
}

//! Loops over f32 slices for CPU backends: whole rows go to threads, and every loop is written so that the compiler turns it into the
//! vector instructions of the processor at hand. Products and sums are not contracted, so all processors with the same lanes agree.

mod attention;
mod narrow;
mod product;
mod thin;
mod tile;

use pulp::Arch;
use rayon::prelude::*;

use super::mask::Mask;

pub(super) use attention::{Attention, Visible, attend, attend_backward};
pub(super) use narrow::{input_gradient, input_gradient_through, narrow_product, output_gradients};
pub(super) use product::{Added, Matrix, product};

/// Partial sums kept side by side: two AVX2 registers, or one of AVX-512.
const LANES: usize = 16;

/// Elements below which waking another thread costs more than it brings.
const PARALLEL_FROM: usize = 1 << 15;

/// Calls `body(start, run)` on runs of whole rows of `out`, `start` being the run's first element; on all threads if there is enough to do.
pub(super) fn over_rows(out: &mut [f32], row: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
    let arch = Arch::new();
    let run = run_length(out.len(), row);
    if run >= out.len() {
        return arch.dispatch(|| body(0, out));
    }
    out.par_chunks_mut(run)
        .enumerate()
        .for_each(|(i, out)| arch.dispatch(|| body(i * run, out)));
}

/// Elements of a run: two runs for each thread, whole rows.
fn run_length(len: usize, row: usize) -> usize {
    if len < PARALLEL_FROM {
        return len;
    }
    let rows = len / row.max(1);
    rows.div_ceil(2 * rayon::current_num_threads()).max(1) * row
}

/// `e^x` to rounding; 0 below the smallest normal result, infinity above 2.3e38, NaN for NaN.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding it rounds to an integer, which then stands in the lowest bits.
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
fn erf(x: f32) -> f32 {
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

/// `1 / sqrt(2 pi)`
const INV_SQRT_TAU: f32 = 0.398_942_3;

/// `x Phi(x)`
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `Phi(x) + x phi(x)`
#[inline(always)]
pub(super) fn gelu_slope(x: f32) -> f32 {
    gelu_both(x)[1]
}

/// GELU and its slope.
#[inline(always)]
pub(super) fn gelu_both(x: f32) -> [f32; 2] {
    let cumulative = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    let density = exp(-0.5 * x * x) * INV_SQRT_TAU;
    [x * cumulative, cumulative + x * density]
}

/// `sqrt(2 / pi)` and the weight of the cube in GELU's approximation by tanh.
const TANH_GELU: [f32; 2] = [0.797_884_6, 0.044_715];

/// `1 / (1 + e^-x)`
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x sigmoid(x)` and its slope.
#[inline(always)]
pub(super) fn silu_both(x: f32) -> [f32; 2] {
    let open = sigmoid(x);
    [x * open, open * (1.0 + x * (1.0 - open))]
}

/// GELU by tanh, which is `x sigmoid(2 u)` with tanh's argument u, and its slope.
#[inline(always)]
pub(super) fn tanh_gelu_both(x: f32) -> [f32; 2] {
    let [scale, cube] = TANH_GELU;
    let square = x * x;
    let open = sigmoid(2.0 * scale * x * (1.0 + cube * square));
    let steep = 2.0 * scale * (1.0 + 3.0 * cube * square);
    [x * open, open * (1.0 + x * (1.0 - open) * steep)]
}

#[inline(always)]
fn sum_of(n: usize, term: impl Fn(usize) -> f32) -> f32 {
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
fn largest(row: &[f32]) -> f32 {
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

/// Softmax of one row in place.
#[inline(always)]
pub(super) fn softmax_row(row: &mut [f32]) {
    let max = largest(row);
    for value in row.iter_mut() {
        *value = exp(*value - max);
    }
    let scale = 1.0 / sum_of(row.len(), |i| row[i]);
    for value in row {
        *value *= scale;
    }
}

/// `grad <- y (grad - sum(grad y))`
#[inline(always)]
pub(super) fn softmax_row_backward(y: &[f32], grad: &mut [f32]) {
    let grad = &mut grad[..y.len()];
    let along = sum_of(y.len(), |i| y[i] * grad[i]);
    for (g, &y) in grad.iter_mut().zip(y) {
        *g = y * (*g - along);
    }
}

/// A row's mean, and `sqrt(var + epsilon)`.
#[inline(always)]
fn mean_and_deviation(x: &[f32], epsilon: f32) -> (f32, f32) {
    let n = x.len();
    let mean = sum_of(n, |i| x[i]) / n as f32;
    let variance = sum_of(n, |i| (x[i] - mean) * (x[i] - mean)) / n as f32;
    (mean, (variance + epsilon).sqrt())
}

/// A row's layer normalisation.
#[inline(always)]
pub(super) fn norm_row(x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32, out: &mut [f32]) {
    let n = x.len();
    let (gamma, beta, out) = (&gamma[..n], &beta[..n], &mut out[..n]);
    let (mean, deviation) = mean_and_deviation(x, epsilon);
    let inverse = 1.0 / deviation;
    for i in 0..n {
        out[i] = (x[i] - mean) * inverse * gamma[i] + beta[i];
    }
}

/// What [`norm_row`] divides each row of `x`, `[n, d]`, by.
pub(super) fn deviations(x: &[f32], d: usize, epsilon: f32, out: &mut [f32]) {
    // One number a row is written, so that runs are cut by what is read.
    let rows = run_length(x.len(), d).max(d) / d;
    let arch = Arch::new();
    out.par_chunks_mut(rows)
        .zip(x.par_chunks(rows * d))
        .for_each(|(out, x)| {
            arch.dispatch(|| {
                for (out, x) in out.iter_mut().zip(x.chunks_exact(d)) {
                    (_, *out) = mean_and_deviation(x, epsilon);
                }
            });
        });
}

/// A row's normalisation by its root mean square.
#[inline(always)]
pub(super) fn rms_row(x: &[f32], gamma: &[f32], epsilon: f32, out: &mut [f32]) {
    let n = x.len();
    let (gamma, out) = (&gamma[..n], &mut out[..n]);
    let inverse = 1.0 / (sum_of(n, |i| x[i] * x[i]) / n as f32 + epsilon).sqrt();
    for i in 0..n {
        out[i] = x[i] * inverse * gamma[i];
    }
}

/// The gradient of [`rms_row`] to the row, in place of the output's.
#[inline(always)]
pub(super) fn rms_row_backward(x: &[f32], gamma: &[f32], epsilon: f32, grad: &mut [f32]) {
    let n = x.len();
    let (gamma, grad) = (&gamma[..n], &mut grad[..n]);
    let inverse = 1.0 / (sum_of(n, |i| x[i] * x[i]) / n as f32 + epsilon).sqrt();
    let along = sum_of(n, |i| grad[i] * gamma[i] * x[i]) * inverse / n as f32;
    for i in 0..n {
        grad[i] = (grad[i] * gamma[i] - x[i] * inverse * along) * inverse;
    }
}

/// Turns each head of a token, `[heads, 2 half]`, by the token's angles.
#[inline(always)]
pub(super) fn rotate_row(cos: &[f32], sin: &[f32], values: &mut [f32]) {
    let half = cos.len();
    let sin = &sin[..half];
    for head in values.chunks_exact_mut(2 * half) {
        let (first, second) = head.split_at_mut(half);
        for i in 0..half {
            let (a, b) = (first[i], second[i]);
            first[i] = a * cos[i] - b * sin[i];
            second[i] = b * cos[i] + a * sin[i];
        }
    }
}

/// The gradient of a row's normalisation to the row, in place of the output's.
#[inline(always)]
pub(super) fn norm_row_backward(x: &[f32], gamma: &[f32], epsilon: f32, grad: &mut [f32]) {
    let n = x.len();
    let (gamma, grad) = (&gamma[..n], &mut grad[..n]);
    let (mean, deviation) = mean_and_deviation(x, epsilon);
    let inverse = 1.0 / deviation;
    let mean_grad = sum_of(n, |i| grad[i] * gamma[i]) / n as f32;
    let along = sum_of(n, |i| grad[i] * gamma[i] * (x[i] - mean)) * inverse / n as f32;
    for i in 0..n {
        let normal = (x[i] - mean) * inverse;
        grad[i] = (grad[i] * gamma[i] - mean_grad - normal * along) * inverse;
    }
}

/// [`norm_row_backward`] from the normalisation's output and what the row was divided by.
#[inline(always)]
pub(super) fn invertible_norm_row_backward(
    y: &[f32],
    weights: [&[f32]; 2],
    deviation: f32,
    grad: &mut [f32],
) {
    let n = y.len();
    let ([gamma, beta], grad) = (weights.map(|w| &w[..n]), &mut grad[..n]);
    let inverse = 1.0 / deviation;
    let mean_grad = sum_of(n, |i| grad[i] * gamma[i]) / n as f32;
    // grad gamma (y - beta) / gamma
    let along = sum_of(n, |i| grad[i] * (y[i] - beta[i])) / n as f32;
    for i in 0..n {
        let normal = (y[i] - beta[i]) / gamma[i];
        grad[i] = (grad[i] * gamma[i] - mean_grad - normal * along) * inverse;
    }
}

/// One sub-vector, `sum_j weights[j] bank[indices[j]]`.
#[inline(always)]
pub(super) fn mix_row(bank: &[f32], weights: &[f32], indices: &[i32], out: &mut [f32]) {
    let b = out.len();
    for (&weight, &index) in weights.iter().zip(indices) {
        for (out, &value) in out.iter_mut().zip(&bank[index as usize * b..][..b]) {
            *out += weight * value;
        }
    }
}

/// The gradients of all sub-vectors `[S, b]` to the bank `[h, b]`, added up row after row, and to the weights `[S, k]`.
pub(super) fn mix_backward(
    bank: &[f32],
    weights: &[f32],
    indices: &[i32],
    grad: &[f32],
    [k, b]: [usize; 2],
    [d_bank, d_weights]: [&mut [f32]; 2],
) {
    Arch::new().dispatch(|| {
        for (s, grad) in grad.chunks_exact(b).enumerate() {
            for at in s * k..(s + 1) * k {
                let row = indices[at] as usize * b..(indices[at] as usize + 1) * b;
                let vector = &bank[row.clone()];
                d_weights[at] = sum_of(b, |i| vector[i] * grad[i]);
                for (sum, &value) in d_bank[row].iter_mut().zip(grad) {
                    *sum += weights[at] * value;
                }
            }
        }
    });
}

/// Multiplies elements `start..` by their values of the mask.
#[inline(always)]
pub(super) fn drop_out(mask: &Mask, start: usize, values: &mut [f32]) {
    for (i, value) in values.iter_mut().enumerate() {
        *value *= mask.value((start + i) as u32);
    }
}

/// Multiplies rows by the mask's values of the rows at these places.
pub(super) fn drop_rows(mask: &Mask, places: &[usize], values: &mut [f32]) {
    let d = values.len() / places.len().max(1);
    over_rows(values, d, |start, run| {
        let rows = run.chunks_exact_mut(d.max(1));
        for (row, place) in rows.zip(&places[start / d.max(1)..]) {
            drop_out(mask, place * d, row);
        }
    });
}

/// `n` rounded up to whole lanes.
pub(super) fn padded(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_is_no_number_stays_none() {
        assert!(exp(f32::NAN).is_nan() && gelu(f32::NAN).is_nan() && gelu_slope(f32::NAN).is_nan());
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(gelu(f32::INFINITY), f32::INFINITY);
        let mut row = [1.0, f32::NAN, 2.0];
        softmax_row(&mut row);
        assert!(row.iter().all(|v| v.is_nan()));
        let mut row = [1.0, f32::NEG_INFINITY, 1.0];
        softmax_row(&mut row);
        assert_eq!(row, [0.5, 0.0, 0.5]);
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

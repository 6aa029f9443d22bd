//! The cross entropy of rows of logits with one target each, with label smoothing: a share of the target's probability is spread evenly over
//! all classes.

use pulp::Arch;
use rayon::prelude::*;

use crate::{exp, largest, run_length, sum_of};

/// Writes the loss of each row, and puts the row's probabilities in the place of its logits.
///
/// Panics on a target that is no class.
///
/// # Shapes
/// - logits: `[rows, classes]`, targets and losses: `[rows]`
pub fn cross_entropy(
    logits: &mut [f32],
    classes: usize,
    targets: &[i32],
    smoothing: f32,
    losses: &mut [f32],
) {
    let rows = run_length(logits.len(), classes) / classes.max(1);
    if rows == 0 {
        return;
    }
    let runs = logits.par_chunks_mut(rows * classes);
    runs.zip(targets.par_chunks(rows))
        .zip(losses.par_chunks_mut(rows))
        .for_each(|((logits, targets), losses)| {
            Arch::new().dispatch(|| {
                let rows = logits.chunks_exact_mut(classes);
                for ((row, &target), loss) in rows.zip(targets).zip(losses) {
                    *loss = row_loss(row, target as usize, smoothing);
                }
            });
        });
}

/// The gradient through [`cross_entropy`] to the logits, in the place of the probabilities.
///
/// # Shapes
/// - probabilities: `[rows, classes]`, targets and grad: `[rows]`
pub fn cross_entropy_backward(
    probabilities: &mut [f32],
    classes: usize,
    targets: &[i32],
    smoothing: f32,
    grad: &[f32],
) {
    let rows = run_length(probabilities.len(), classes) / classes.max(1);
    if rows == 0 {
        return;
    }
    let even = smoothing / classes as f32;
    let runs = probabilities.par_chunks_mut(rows * classes);
    runs.zip(targets.par_chunks(rows))
        .zip(grad.par_chunks(rows))
        .for_each(|((probabilities, targets), grad)| {
            Arch::new().dispatch(|| {
                let rows = probabilities.chunks_exact_mut(classes);
                for ((row, &target), &grad) in rows.zip(targets).zip(grad) {
                    for p in row.iter_mut() {
                        *p = (*p - even) * grad;
                    }
                    row[target as usize] -= (1.0 - smoothing) * grad;
                }
            });
        });
}

/// `-(1 - smoothing) log p(target) - smoothing mean(log p)`. The row becomes p.
#[inline(always)]
fn row_loss(row: &mut [f32], target: usize, smoothing: f32) -> f32 {
    let most = largest(row);
    let mut below = (1.0 - smoothing) * (most - row[target]);
    if smoothing != 0.0 {
        below += smoothing * sum_of(row.len(), |i| most - row[i]) / row.len() as f32;
    }
    for value in row.iter_mut() {
        *value = exp(*value - most);
    }
    let sum = sum_of(row.len(), |i| row[i]);
    let scale = 1.0 / sum;
    for value in row {
        *value *= scale;
    }
    sum.ln() + below
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Key;

    /// Few rows, and enough for several threads.
    #[test]
    fn losses_and_gradients_are_those_of_f64() {
        for (rows, classes) in [(3, 5), (70, 1100)] {
            let logits = Key::new(1).normal(rows * classes, 3.0);
            let targets: Vec<i32> = (0..rows).map(|row| (row * 7 % classes) as i32).collect();
            let grad = Key::new(2).normal(rows, 1.0);
            for smoothing in [0.0_f32, 0.1] {
                let mut found = logits.clone();
                let mut losses = vec![f32::NAN; rows];
                cross_entropy(&mut found, classes, &targets, smoothing, &mut losses);
                cross_entropy_backward(&mut found, classes, &targets, smoothing, &grad);
                let share = f64::from(smoothing);
                for row in 0..rows {
                    let logits = &logits[row * classes..][..classes];
                    let logits: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
                    let norm = logits.iter().map(|x| x.exp()).sum::<f64>().ln();
                    let mean = logits.iter().map(|x| x - norm).sum::<f64>() / classes as f64;
                    let target = targets[row] as usize;
                    let loss = -(1.0 - share) * (logits[target] - norm) - share * mean;
                    assert!((f64::from(losses[row]) - loss).abs() < 1e-5 * loss.abs());
                    for (i, x) in logits.iter().enumerate() {
                        let hit = if i == target { 1.0 - share } else { 0.0 };
                        let slope = (x - norm).exp() - hit - share / classes as f64;
                        let found = f64::from(found[row * classes + i]);
                        assert!((found - slope * f64::from(grad[row])).abs() < 1e-6, "{i}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_logit_of_minus_infinity_has_no_probability() {
        let mut row = [0.0, f32::NEG_INFINITY, 0.0];
        let mut loss = [0.0];
        cross_entropy(&mut row, 3, &[2], 0.0, &mut loss);
        assert_eq!((row, loss), ([0.5, 0.0, 0.5], [2.0_f32.ln()]));
        cross_entropy(&mut [], 3, &[], 0.0, &mut []);
        cross_entropy_backward(&mut [], 3, &[], 0.0, &[]);
    }
}

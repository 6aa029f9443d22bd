//! Top-k selection over rows, and the mixture of bank vectors.

use std::cmp::Ordering;

use pulp::Arch;

use crate::{over_rows, sum_of};

/// Up to this k, inserting one by one is faster than sorting.
const FEW: usize = 64;

/// The places of the `k` largest of each row of `h` values, largest first; ties go to the lowest index.
pub fn top_k_rows(values: &[f32], h: usize, k: usize) -> impl Iterator<Item = usize> {
    values.chunks_exact(h).flat_map(move |row| match k {
        0..=FEW => inserted(row, k),
        _ => sorted(row, k),
    })
}

/// An equal later value is inserted after the earlier one.
fn inserted(row: &[f32], k: usize) -> Vec<usize> {
    let mut best: Vec<(f32, usize)> = Vec::with_capacity(k + 1);
    for (i, &value) in row.iter().enumerate() {
        if best.len() < k || value > best[k - 1].0 {
            best.insert(best.partition_point(|&(v, _)| v >= value), (value, i));
            best.truncate(k);
        }
    }
    best.into_iter().map(|(_, i)| i).collect()
}

fn sorted(row: &[f32], k: usize) -> Vec<usize> {
    // Zeros of both signs are equal.
    let order = |&i: &usize, &j: &usize| -> Ordering {
        let [a, b] = [row[i] + 0.0, row[j] + 0.0];
        b.total_cmp(&a).then(i.cmp(&j))
    };
    let mut places: Vec<usize> = (0..row.len()).collect();
    if k < places.len() {
        places.select_nth_unstable_by(k, order);
        places.truncate(k);
    }
    places.sort_unstable_by(order);
    places
}

/// The sub-vectors, `out[s] = sum_j weights[s, j] bank[indices[s, j]]`, added to what `out` holds.
///
/// # Shapes
/// - bank: `[h, b]`; weights, indices: `[S, k]`; out: `[S, b]`
pub fn mix(bank: &[f32], weights: &[f32], indices: &[i32], [k, b]: [usize; 2], out: &mut [f32]) {
    over_rows(out, b, |start, run| {
        for (row, out) in run.chunks_exact_mut(b).enumerate() {
            let at = (start / b + row) * k;
            mix_row(bank, &weights[at..][..k], &indices[at..][..k], out);
        }
    });
}

/// One sub-vector, `sum_j weights[j] bank[indices[j]]`.
#[inline(always)]
fn mix_row(bank: &[f32], weights: &[f32], indices: &[i32], out: &mut [f32]) {
    let b = out.len();
    for (&weight, &index) in weights.iter().zip(indices) {
        for (out, &value) in out.iter_mut().zip(&bank[index as usize * b..][..b]) {
            *out += weight * value;
        }
    }
}

/// The gradients of all sub-vectors `[S, b]`: to the bank `[h, b]`, added up row after row, and to the weights `[S, k]`.
pub fn mix_backward(
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sorting_and_inserting_find_the_same(row in prop::collection::vec(-4_i8..4, 1..90), k in 1_usize..90) {
            let zeros = [-0.0, 0.0];
            let value = |(i, v): (usize, &i8)| if *v == 0 { zeros[i % 2] } else { f32::from(*v) };
            let row: Vec<f32> = row.iter().enumerate().map(value).collect();
            let k = k.min(row.len());
            prop_assert_eq!(sorted(&row, k), inserted(&row, k));
        }
    }

    #[test]
    fn a_large_k_takes_no_more_than_sorting() {
        let rising: Vec<f32> = (0..50_000).map(|i| i as f32).collect();
        let start = std::time::Instant::now();
        let found: Vec<usize> = top_k_rows(&rising.repeat(8), 50_000, 49_999).collect();
        assert_eq!(
            (found[0], found[49_998], found.len()),
            (49_999, 1, 8 * 49_999)
        );
        // Inserting one by one takes seconds a row.
        assert!(start.elapsed().as_secs() < 20);
    }
}

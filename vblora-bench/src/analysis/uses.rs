//! Counts of how often bank vectors are used.

use super::Group;
use crate::recordings::Picks;

/// The number of sub-vectors that select each bank vector.
///
/// # Shapes
/// - output: `[h]`
pub fn uses(picks: &Picks, h: usize) -> Vec<usize> {
    let mut uses = vec![0; h];
    for &index in picks.indices() {
        uses[index as usize] += 1;
    }
    uses
}

/// k S / h, the mean of [`uses`] for any selection.
pub fn mean_uses(picks: &Picks, h: usize) -> f64 {
    picks.indices().len() as f64 / h as f64
}

/// The entropy of the uses relative to uniform use: 1 if every vector is used equally often, 0 if all sub-vectors use one.
pub fn entropy(uses: &[usize]) -> f64 {
    let total = uses.iter().sum::<usize>() as f64;
    let share = |&n: &usize| n as f64 / total;
    let entropy: f64 = uses
        .iter()
        .filter(|&&n| n > 0)
        .map(|n| -share(n) * share(n).ln())
        .sum();
    match uses.len() {
        0 | 1 => 0.0,
        h => (entropy / (h as f64).ln()).max(0.0),
    }
}

/// The vectors that no sub-vector uses.
pub fn dead(uses: &[usize]) -> Vec<usize> {
    (0..uses.len())
        .filter(|&vector| uses[vector] == 0)
        .collect()
}

/// The `n` most used vectors, most used first. Ties go to the lowest index.
pub fn popular(uses: &[usize], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..uses.len()).collect();
    order.sort_by_key(|&vector| std::cmp::Reverse(uses[vector]));
    order.truncate(n);
    order
}

/// The share of selected vectors that their sub-vector did not select before. The order within a sub-vector does not count.
pub fn churn(before: &Picks, after: &Picks) -> f64 {
    let pairs = before.rows().zip(after.rows());
    let new = |((before, _), (after, _)): ((&[u32], _), (&[u32], _))| {
        let is_new = |index: &&u32| !before.contains(index);
        after.iter().filter(is_new).count()
    };
    let new: usize = pairs.map(new).sum();
    new as f64 / after.indices().len() as f64
}

/// The sum of each group's weights on each bank vector (the paper's Figures 6 and 7).
///
/// # Shapes
/// - output: one `[h]` per group
pub fn mass(picks: &Picks, groups: &[Group], h: usize) -> Vec<Vec<f64>> {
    let entries: Vec<_> = picks.entries().collect();
    let k = picks.topk();
    let of_group = |group: &Group| {
        let mut mass = vec![0.0; h];
        let rows = group.rows.iter().flat_map(|row| &entries[row * k..][..k]);
        for (index, weight) in rows {
            mass[*index] += weight;
        }
        mass
    };
    groups.iter().map(of_group).collect()
}

/// The bank's vectors sorted by norm, the longest first. Ties go to the lowest index.
///
/// # Shapes
/// - bank: `[h, b]`, row-major
pub fn by_norm(bank: &[f32], b: usize) -> Vec<usize> {
    let norm = |row: &[f32]| {
        row.iter()
            .map(|&v| f64::from(v) * f64::from(v))
            .sum::<f64>()
    };
    let norms: Vec<f64> = bank.chunks_exact(b).map(norm).collect();
    let mut order: Vec<usize> = (0..norms.len()).collect();
    order.sort_by(|&i, &j| norms[j].total_cmp(&norms[i]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recordings::tests::picks;

    /// Rows select {0, 1}, {1, 2}, {1, 0}; none selects 3.
    fn three() -> Picks {
        picks(2, &[0, 1, 1, 2, 1, 0], &[204, 51, 153, 102, 255, 0])
    }

    #[test]
    fn uses_are_counted_and_their_mean_is_k_s_over_h() {
        let uses = uses(&three(), 4);
        assert_eq!(uses, [2, 3, 1, 0]);
        assert_eq!(mean_uses(&three(), 4), 2.0 * 3.0 / 4.0);
        assert_eq!(
            mean_uses(&three(), 4),
            uses.iter().sum::<usize>() as f64 / 4.0
        );
        assert_eq!(dead(&uses), [3]);
        assert_eq!(popular(&uses, 2), [1, 0]);
        assert_eq!(popular(&[1, 5, 5], 9), [1, 2, 0]);
    }

    #[test]
    fn entropy_goes_from_one_use_to_even_use() {
        assert_eq!(entropy(&[0, 7, 0]), 0.0);
        assert!((entropy(&[3, 3, 3, 3, 3]) - 1.0).abs() < 1e-12);
        // One half and two quarters have 1.5 bits; four vectors can have at most 2.
        assert!((entropy(&[2, 1, 1, 0]) - 0.75).abs() < 1e-12);
        assert_eq!((entropy(&[5]), entropy(&[])), (0.0, 0.0));
    }

    #[test]
    fn churn_is_the_part_that_is_new_and_ignores_order() {
        let same = picks(2, &[1, 0, 2, 1, 0, 1], &[128; 6]);
        assert_eq!(churn(&three(), &same), 0.0);
        let one_of_six = picks(2, &[0, 1, 1, 3, 1, 0], &[128; 6]);
        assert_eq!(churn(&three(), &one_of_six), 1.0 / 6.0);
        let all = picks(2, &[2, 3, 0, 3, 2, 3], &[128; 6]);
        assert_eq!(churn(&three(), &all), 1.0);
    }

    #[test]
    fn mass_sums_the_weights_of_a_group() {
        let group = |rows: &[usize]| Group {
            name: String::new(),
            rows: rows.to_vec(),
        };
        let found = mass(&three(), &[group(&[0, 1]), group(&[2])], 4);
        let expected = [[0.8, 0.2 + 0.6, 0.4, 0.0], [0.0, 1.0, 0.0, 0.0]];
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn the_longest_vector_comes_first() {
        assert_eq!(by_norm(&[1.0, 0.0, -3.0, 4.0, 2.0, -2.0], 2), [1, 2, 0]);
    }
}

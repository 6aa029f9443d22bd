//! Projection of bank and sub-vectors to two dimensions by principal components (the paper's Figure 9 uses t-SNE).
//!
//! The components are those of the bank alone. The projection is affine, so a mixture of bank vectors is drawn at the same mixture of their
//! images. With k = 2 it lies on the line between two of them, which t-SNE cannot show.

use crate::recordings::Picks;
use vblora::rng::Key;

/// The limit of iterations. More of them change nothing visible.
const MAX_ROUNDS: usize = 500;

/// The iteration ends when the components move by less than this.
const TOLERANCE: f64 = 1e-10;

/// Points on the plane of the bank's two largest principal components.
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    /// One point per bank vector.
    pub bank: Vec<[f64; 2]>,
    /// One point per sub-vector.
    pub sub_vectors: Vec<[f64; 2]>,
    /// The share of the bank's variance along each component.
    pub explained: [f64; 2],
}

/// Mixes the sub-vectors `rows` from the bank.
///
/// # Shapes
/// - bank: `[h, b]`; output: one `[b]` per row
pub fn sub_vectors(picks: &Picks, bank: &[f32], b: usize, rows: &[usize]) -> Vec<Vec<f64>> {
    let entries: Vec<_> = picks.entries().collect();
    let k = picks.topk();
    let mix = |row: &usize| {
        let mut out = vec![0.0; b];
        for (index, weight) in &entries[row * k..][..k] {
            let vector = &bank[index * b..][..b];
            out.iter_mut()
                .zip(vector)
                .for_each(|(out, &v)| *out += weight * f64::from(v));
        }
        out
    };
    rows.iter().map(mix).collect()
}

/// Projects bank vectors `[h, b]` and other vectors `[b]` onto the bank's first two principal components.
pub fn project(bank: &[f32], b: usize, others: &[Vec<f64>]) -> Projection {
    let rows: Vec<Vec<f64>> = bank
        .chunks_exact(b)
        .map(|row| row.iter().copied().map(f64::from).collect())
        .collect();
    let mean = mean(&rows, b);
    let covariance = covariance(&rows, &mean);
    let total: f64 = (0..b).map(|i| covariance[i * b + i]).sum();
    let components = leading(&covariance, b);
    let place = |vector: &Vec<f64>| {
        let centred = |component: &Vec<f64>| {
            let terms = vector.iter().zip(&mean).zip(component);
            terms.map(|((v, m), c)| (v - m) * c).sum::<f64>()
        };
        components.each_ref().map(centred)
    };
    let share = |component: &Vec<f64>| {
        let along = dot(component, &times(&covariance, component));
        if total > 0.0 { along / total } else { 0.0 }
    };
    Projection {
        bank: rows.iter().map(place).collect(),
        sub_vectors: others.iter().map(place).collect(),
        explained: components.each_ref().map(share),
    }
}

fn mean(rows: &[Vec<f64>], b: usize) -> Vec<f64> {
    let column = |i: usize| rows.iter().map(|row| row[i]).sum::<f64>() / rows.len().max(1) as f64;
    (0..b).map(column).collect()
}

/// `[b, b]`
fn covariance(rows: &[Vec<f64>], mean: &[f64]) -> Vec<f64> {
    let b = mean.len();
    let mut out = vec![0.0; b * b];
    for row in rows {
        let centred: Vec<f64> = row.iter().zip(mean).map(|(v, m)| v - m).collect();
        for (out, &left) in out.chunks_exact_mut(b).zip(&centred) {
            out.iter_mut()
                .zip(&centred)
                .for_each(|(out, right)| *out += left * right / rows.len() as f64);
        }
    }
    out
}

/// The two leading eigenvectors of a positive semi-definite matrix, by orthogonal iteration. Each has the sign that makes its largest entry
/// positive.
fn leading(matrix: &[f64], b: usize) -> [Vec<f64>; 2] {
    let start = |column: u64| {
        let drawn = Key::new(column).name("projection").normal(b, 1.0);
        drawn.into_iter().map(f64::from).collect::<Vec<_>>()
    };
    let mut found = orthonormal([start(0), start(1)]);
    for _ in 0..MAX_ROUNDS {
        let next = orthonormal(found.each_ref().map(|v| times(matrix, v)));
        let pairs = found.iter().flatten().zip(next.iter().flatten());
        let moved = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        found = next;
        if moved < TOLERANCE {
            break;
        }
    }
    found.map(with_sign)
}

fn times(matrix: &[f64], vector: &[f64]) -> Vec<f64> {
    let rows = matrix.chunks_exact(vector.len());
    rows.map(|row| dot(row, vector)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Gram-Schmidt orthonormalization. A vector that vanishes becomes zero.
fn orthonormal([first, mut second]: [Vec<f64>; 2]) -> [Vec<f64>; 2] {
    let first = unit(first);
    let along = dot(&first, &second);
    second
        .iter_mut()
        .zip(&first)
        .for_each(|(s, f)| *s -= along * f);
    [first, unit(second)]
}

fn unit(mut vector: Vec<f64>) -> Vec<f64> {
    let norm = dot(&vector, &vector).sqrt();
    let factor = if norm > 0.0 { 1.0 / norm } else { 0.0 };
    vector.iter_mut().for_each(|v| *v *= factor);
    vector
}

fn with_sign(mut vector: Vec<f64>) -> Vec<f64> {
    let largest = vector
        .iter()
        .copied()
        .max_by(|a, b| a.abs().total_cmp(&b.abs()));
    if largest.is_some_and(|largest| largest < 0.0) {
        vector.iter_mut().for_each(|v| *v = -*v);
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recordings::tests::picks;

    /// Variances 9 along (0.6, 0.8, 0), 4 along (-0.8, 0.6, 0) and 1 along the third axis, around (5, 6, 7).
    fn bank() -> Vec<f32> {
        let axes = [[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0], [0.0, 0.0, 1.0]];
        let lengths = [3.0, 2.0, 1.0].map(|l: f32| l * 3.0_f32.sqrt());
        let both = axes.iter().zip(lengths).flat_map(|(axis, length)| {
            [1.0, -1.0].map(|sign| axis.map(|a: f32| sign * length * a))
        });
        both.flat_map(|v| [v[0] + 5.0, v[1] + 6.0, v[2] + 7.0])
            .collect()
    }

    #[track_caller]
    fn assert_near(found: [f64; 2], expected: [f64; 2]) {
        let off = |i: usize| (found[i] - expected[i]).abs();
        assert!(off(0) < 1e-6 && off(1) < 1e-6, "{found:?} {expected:?}");
    }

    #[test]
    fn components_are_those_of_the_largest_variances() {
        let found = project(&bank(), 3, &[vec![5.0, 6.0, 99.0]]);
        let root = 3.0_f64.sqrt();
        assert_near(found.bank[0], [3.0 * root, 0.0]);
        assert_near(found.bank[1], [-3.0 * root, 0.0]);
        // The sign that makes the largest entry of (-0.8, 0.6, 0) positive.
        assert_near(found.bank[2], [0.0, -2.0 * root]);
        assert_near(found.bank[4], [0.0, 0.0]);
        assert_near(found.sub_vectors[0], [0.0, 0.0]);
        assert_near(found.explained, [9.0 / 14.0, 4.0 / 14.0]);
    }

    #[test]
    fn a_mixture_lies_between_the_images_of_what_it_mixes() {
        let picks = picks(2, &[0, 2, 3, 1], &[204, 51, 102, 153]);
        let mixed = sub_vectors(&picks, &bank(), 3, &[1, 0]);
        let found = project(&bank(), 3, &mixed);
        let between = |i: usize, j: usize, w: f64| {
            [0, 1].map(|axis| w * found.bank[i][axis] + (1.0 - w) * found.bank[j][axis])
        };
        assert_near(found.sub_vectors[0], between(3, 1, 0.4));
        assert_near(found.sub_vectors[1], between(0, 2, 0.8));
    }

    #[test]
    fn vectors_that_are_all_one_have_no_components() {
        let found = project(&[1.0, 2.0, 1.0, 2.0], 2, &[]);
        assert_eq!(found.bank, [[0.0; 2]; 2]);
        assert_eq!(found.explained, [0.0; 2]);
        // One dimension has one component.
        let line = project(&[1.0, -1.0], 1, &[]);
        assert_near(line.bank[0], [1.0, 0.0]);
        assert_near(line.explained, [1.0, 0.0]);
    }
}

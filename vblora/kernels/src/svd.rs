//! The truncated singular value decomposition in f64.

use nalgebra::{DMatrix, SymmetricEigen};

use crate::transposed;

/// The leading r singular triplets of a weight `[d_in, d_out]`, whose transpose is `U S V^T`.
#[derive(Debug)]
pub struct Truncated {
    /// `S V^T`, `[r, d_in]` row-major.
    pub a: Vec<f32>,
    /// `U^T`, `[r, d_out]` row-major; the entry of largest magnitude of each row is positive.
    pub b: Vec<f32>,
}

/// Decomposes a finite weight `[d_in, d_out]`, row-major.
///
/// Uses the eigenvectors of the smaller of the two Gram matrices. In f64 its squares hold all digits of f32 weights. A map of 1024 x 4096
/// takes 3 seconds.
///
/// # Errors
/// The weight's rank if it is below `rank`.
pub fn truncated(
    weight: &[f32],
    [d_in, d_out]: [usize; 2],
    rank: usize,
) -> Result<Truncated, usize> {
    // Rows of the smaller side, `[n, m]`.
    let is_wide = d_in <= d_out;
    let (n, m) = (d_in.min(d_out), d_in.max(d_out));
    let rows = match is_wide {
        true => weight.to_vec(),
        false => transposed(weight, d_out),
    };
    let row = |i: usize| &rows[i * m..][..m];
    let SymmetricEigen {
        eigenvalues,
        eigenvectors,
    } = SymmetricEigen::new(gram(n, row));
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| eigenvalues[j].total_cmp(&eigenvalues[i]));
    // Smaller eigenvalues are rounding errors.
    let least = eigenvalues.max() * f64::EPSILON * m as f64;
    let found = order.iter().filter(|&&i| eigenvalues[i] > least).count();
    if found < rank {
        return Err(found);
    }
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for &i in &order[..rank] {
        let known = eigenvectors.column(i);
        // The weight turns this vector into sigma times the other side's vector.
        let mut other = vec![0.0; m];
        for (k, factor) in known.iter().enumerate() {
            let terms = other.iter_mut().zip(row(k));
            terms.for_each(|(sum, &value)| *sum += factor * f64::from(value));
        }
        let known: Vec<f64> = known.iter().copied().collect();
        let sigma = eigenvalues[i].sqrt();
        let ((v, of_v), (u, of_u)) = match is_wide {
            true => ((known, sigma), (other, 1.0 / sigma)),
            false => ((other, 1.0), (known, 1.0)),
        };
        let largest = u
            .iter()
            .fold(0.0_f64, |m, v| if v.abs() > m.abs() { *v } else { m });
        let sign = largest.signum();
        a.extend(v.iter().map(|v| (v * of_v * sign) as f32));
        b.extend(u.iter().map(|u| (u * of_u * sign) as f32));
    }
    Ok(Truncated { a, b })
}

/// The products of all pairs of `n` rows.
fn gram<'a>(n: usize, row: impl Fn(usize) -> &'a [f32]) -> DMatrix<f64> {
    let mut gram = DMatrix::zeros(n, n);
    for i in 0..n {
        for j in 0..=i {
            let product = dot(row(i), row(j));
            (gram[(i, j)], gram[(j, i)]) = (product, product);
        }
    }
    gram
}

/// The dot product in f64, as eight sums that a processor can take side by side.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 8;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    let rest = a_rest.iter().zip(b_rest);
    let rest: f64 = rest.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Key;

    fn product(a: &[f32], b: &[f32], [rank, d_in, d_out]: [usize; 3]) -> Vec<f64> {
        let entry = |i: usize, j: usize| {
            (0..rank).map(move |k| f64::from(a[k * d_in + i]) * f64::from(b[k * d_out + j]))
        };
        let places = (0..d_in).flat_map(|i| (0..d_out).map(move |j| (i, j)));
        places.map(|(i, j)| entry(i, j).sum()).collect()
    }

    /// At full rank the product is the weight. U is orthonormal; the rows of A are orthogonal, with falling norms.
    #[test]
    fn a_whole_decomposition_gives_the_weight_back() {
        for shape in [[5, 9], [9, 5], [6, 6], [1, 4], [4, 1]] {
            let [d_in, d_out] = shape;
            let rank = d_in.min(d_out);
            let weight = Key::new(1).name("w").normal(d_in * d_out, 1.0);
            let Truncated { a, b } = truncated(&weight, shape, rank).unwrap();
            let found = product(&a, &b, [rank, d_in, d_out]);
            for (found, expected) in found.iter().zip(&weight) {
                assert!((found - f64::from(*expected)).abs() < 1e-5, "{shape:?}");
            }
            let dot = |m: &[f32], d: usize, i: usize, j: usize| -> f64 {
                (0..d)
                    .map(|k| f64::from(m[i * d + k]) * f64::from(m[j * d + k]))
                    .sum()
            };
            for i in 0..rank {
                for j in 0..rank {
                    let unit = if i == j { 1.0 } else { 0.0 };
                    assert!((dot(&b, d_out, i, j) - unit).abs() < 1e-6);
                    assert!(i == j || dot(&a, d_in, i, j).abs() < 1e-5);
                }
                assert!(i == 0 || dot(&a, d_in, i, i) <= dot(&a, d_in, i - 1, i - 1));
                let row = &b[i * d_out..][..d_out];
                let largest = row
                    .iter()
                    .fold(0.0_f32, |m, v| if v.abs() > m.abs() { *v } else { m });
                assert!(largest > 0.0);
            }
        }
    }

    /// Singular values 5, 3 and two that are nearly equal. The matrix is made of known vectors: rotations of the axes.
    #[test]
    fn close_singular_values_are_told_apart() {
        let (d_in, d_out) = (40, 30);
        let values = [5.0, 3.0, 1.0, 0.999];
        let wave = |i: usize, k: usize, n: usize| {
            // The discrete cosine basis is orthonormal.
            let scale = (2.0 / n as f64).sqrt();
            scale * (std::f64::consts::PI * (i as f64 + 0.5) * (k + 1) as f64 / n as f64).cos()
        };
        let weight: Vec<f32> = (0..d_in)
            .flat_map(|i| (0..d_out).map(move |j| (i, j)))
            .map(|(i, j)| {
                let terms = values.iter().enumerate();
                let terms = terms.map(|(k, s)| s * wave(i, k, d_in) * wave(j, k, d_out));
                terms.sum::<f64>() as f32
            })
            .collect();
        let Truncated { a, b } = truncated(&weight, [d_in, d_out], 4).unwrap();
        for (k, sigma) in values.iter().enumerate() {
            let along = |m: &[f32], n: usize| -> f64 {
                (0..n)
                    .map(|i| f64::from(m[k * n + i]) * wave(i, k, n))
                    .sum()
            };
            assert!((along(&b, d_out).abs() - 1.0).abs() < 1e-5, "{k}");
            assert!((along(&a, d_in).abs() - sigma).abs() < 1e-4, "{k}");
            assert!(along(&a, d_in) * along(&b, d_out) > 0.0);
        }
        assert_eq!(truncated(&weight, [d_in, d_out], 5).unwrap_err(), 4);
        assert_eq!(truncated(&[0.0; 6], [2, 3], 1).unwrap_err(), 0);
    }
}

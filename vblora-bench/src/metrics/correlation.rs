//! Pearson and Spearman over scores.

/// Pearson's correlation of the pairs, in [-1, 1].
///
/// Returns `None` if it is undefined: fewer than two points, unequal lengths, a constant input, or a value that is not finite.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.len() != y.len() {
        return None;
    }
    let (x, y) = (unit(x)?, unit(y)?);
    let product: f64 = x.iter().zip(&y).map(|(x, y)| x * y).sum();
    Some(product.clamp(-1.0, 1.0))
}

/// Spearman's correlation: Pearson's correlation of the ranks. Ties get their mean rank.
///
/// Returns `None` in the same cases as [`pearson`].
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    let finite = x.iter().chain(y).all(|value| value.is_finite());
    if finite {
        pearson(&ranks(x), &ranks(y))
    } else {
        None
    }
}

/// The centred values, scaled to unit length.
fn unit(values: &[f64]) -> Option<Vec<f64>> {
    let first = *values.first()?;
    // A rounded mean would give a constant input a tiny spread.
    if values.iter().any(|value| !value.is_finite()) || values.iter().all(|value| *value == first) {
        return None;
    }
    // Scaling first keeps sums and squares in range for values of any size.
    let size = values
        .iter()
        .fold(0.0f64, |size, value| size.max(value.abs()));
    let mean = values.iter().map(|value| value / size).sum::<f64>() / values.len() as f64;
    let centred: Vec<f64> = values.iter().map(|value| value / size - mean).collect();
    let spread = centred
        .iter()
        .fold(0.0f64, |spread, value| spread.max(value.abs()));
    let length = centred
        .iter()
        .map(|value| (value / spread).powi(2))
        .sum::<f64>()
        .sqrt();
    let unit: Vec<f64> = centred
        .iter()
        .map(|value| value / spread / length)
        .collect();
    unit.iter().all(|value| value.is_finite()).then_some(unit)
}

/// The ranks from 1. Equal values share the mean of their positions.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    // 0.0 and -0.0 are equal values. `spearman` has refused NaN.
    order.sort_by(|i, j| (values[*i] + 0.0).total_cmp(&(values[*j] + 0.0)));
    let mut ranks = vec![0.0; values.len()];
    let mut below = 0;
    for tied in order.chunk_by(|i, j| values[*i] == values[*j]) {
        let mean = below as f64 + (tied.len() as f64 + 1.0) / 2.0;
        tied.iter().for_each(|i| ranks[*i] = mean);
        below += tied.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hand_computed_values() {
        // centred: (-1, 0, 1) and (-4/3, -1/3, 5/3): 3 / sqrt(2 * 42/9)
        let r = pearson(&[1.0, 2.0, 3.0], &[1.0, 2.0, 4.0]).unwrap();
        assert!(
            (r - 3.0 / (2.0f64 * 42.0 / 9.0).sqrt()).abs() < 1e-15,
            "{r}"
        );
        assert_eq!(
            ranks(&[3.0, 1.0, 3.0, -0.0, 0.0, 3.0]),
            [5.0, 3.0, 5.0, 1.5, 1.5, 5.0]
        );
        let rho = spearman(&[1.0, 2.0, 3.0], &[-7.0, 1.0, 900.0]).unwrap();
        assert!((rho - 1.0).abs() < 1e-15, "{rho}");
    }

    #[test]
    fn undefined_cases_are_none() {
        for (x, y) in [
            (vec![], vec![]),
            (vec![1.0], vec![2.0]),
            (vec![0.1, 0.1, 0.1], vec![1.0, 2.0, 3.0]),
            (vec![1.0, 2.0], vec![4.0, 4.0]),
            (vec![1.0, f64::NAN], vec![1.0, 2.0]),
            (vec![1.0, 2.0], vec![f64::INFINITY, 2.0]),
            (vec![1.0, 2.0], vec![1.0, 2.0, 3.0]),
        ] {
            assert_eq!(pearson(&x, &y), None, "{x:?} {y:?}");
            assert_eq!(spearman(&x, &y), None, "{x:?} {y:?}");
        }
    }

    #[test]
    fn huge_and_tiny_values_stay_in_range() {
        for size in [1e300, 1e-300] {
            let x = [size, 2.0 * size, 3.0 * size];
            assert!((pearson(&x, &[1.0, 2.0, 3.0]).unwrap() - 1.0).abs() < 1e-12);
        }
    }

    fn pairs() -> impl Strategy<Value = Vec<(f64, f64)>> {
        // Few distinct values, so that ties are common.
        prop::collection::vec((-6i32..6, -6i32..6), 2..40).prop_map(|pairs| {
            pairs
                .iter()
                .map(|(x, y)| (f64::from(*x) / 2.0, f64::from(*y) / 2.0))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn bounds_and_symmetries(pairs in pairs(), turn in 0usize..40, slope in 0.1f64..9.0, shift in -9.0f64..9.0) {
            let (x, y): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
            let mut turned = pairs.clone();
            turned.rotate_left(turn % pairs.len());
            let (tx, ty): (Vec<_>, Vec<_>) = turned.into_iter().unzip();
            let moved: Vec<f64> = x.iter().map(|x| slope * x + shift).collect();
            let mirrored: Vec<f64> = x.iter().map(|x| -x).collect();
            for metric in [pearson, spearman] {
                let Some(value) = metric(&x, &y) else {
                    prop_assert!(x.iter().all(|v| *v == x[0]) || y.iter().all(|v| *v == y[0]));
                    continue;
                };
                prop_assert!((-1.0..=1.0).contains(&value));
                for (same, sign) in [
                    (metric(&tx, &ty), 1.0), (metric(&y, &x), 1.0), (metric(&moved, &y), 1.0), (metric(&mirrored, &y), -1.0),
                ] {
                    prop_assert!((same.unwrap() - sign * value).abs() < 1e-10);
                }
            }
        }
    }
}

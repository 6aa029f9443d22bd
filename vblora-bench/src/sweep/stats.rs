//! Tests if two methods differ by more than their seeds.

use serde::{Deserialize, Serialize};

/// Maximum pairs. The test tries two to the power of this many sign choices.
const MAX_PAIRS: usize = 20;

/// Differences closer than this, relative to the sum of all, count as equal. Sums are taken in several orders.
const ROUNDING: f64 = 1e-12;

/// The exact sign-flip permutation test on paired differences.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedTest {
    /// The number of pairs.
    pub pairs: usize,
    /// The mean difference.
    pub difference: f64,
    /// The probability of a difference this large or larger, of either sign, if the members of each pair are swapped at random.
    pub p: f64,
}

impl PairedTest {
    /// Runs the test on the first 20 differences; `None` without any.
    pub fn of(differences: &[f64]) -> Option<Self> {
        let differences = &differences[..differences.len().min(MAX_PAIRS)];
        let pairs = differences.len();
        if pairs == 0 {
            return None;
        }
        let observed = differences.iter().sum::<f64>();
        let slack = ROUNDING * differences.iter().map(|d| d.abs()).sum::<f64>();
        let flipped = |signs: u64| {
            let signed = |(i, d): (usize, &f64)| if signs >> i & 1 == 1 { -d } else { *d };
            differences.iter().enumerate().map(signed).sum::<f64>()
        };
        let choices = 1u64 << pairs;
        let as_large = (0..choices).filter(|&signs| flipped(signs).abs() >= observed.abs() - slack);
        Some(Self {
            pairs,
            difference: observed / pairs as f64,
            p: as_large.count() as f64 / choices as f64,
        })
    }

    /// The smallest p value that this many pairs allow.
    pub fn smallest_p(pairs: usize) -> f64 {
        2.0 / 2f64.powi(pairs.min(MAX_PAIRS) as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(differences: &[f64]) -> f64 {
        PairedTest::of(differences).unwrap().p
    }

    #[test]
    fn matches_counts_by_hand() {
        // Only two of the eight sign choices, the unmixed ones, are as far from zero.
        assert_eq!(p(&[1.0, 2.0, 3.0]), 2.0 / 8.0);
        // 3 + 2 - 1 = 4 is reached by +++, ++- and their opposites.
        assert_eq!(p(&[3.0, 2.0, -1.0]), 4.0 / 8.0);
        assert_eq!(p(&[0.0, 0.0]), 1.0);
        let six = PairedTest::of(&[-0.1, -0.2, -0.1, -0.3, -0.2, -0.1]).unwrap();
        assert_eq!(six.p, PairedTest::smallest_p(6));
        assert!(six.p < 0.05 && PairedTest::smallest_p(5) > 0.05);
        assert!((six.difference + 1.0 / 6.0).abs() < 1e-12);
        assert_eq!(PairedTest::of(&[]), None);
    }

    #[test]
    fn sums_in_another_order_count_as_equal() {
        let thirds = [0.1, 0.2, 0.3, -0.6];
        // The sum is zero except for rounding, so no sign choice is nearer.
        assert_eq!(p(&thirds), 1.0);
        assert_eq!(p(&[0.1, 0.1, 0.1]), 0.25);
    }

    #[test]
    fn many_pairs_do_not_take_forever() {
        let many = [1.0; 30];
        assert_eq!(PairedTest::of(&many).unwrap().pairs, MAX_PAIRS);
    }
}

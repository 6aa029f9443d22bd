//! Dropout masks from a counter: a small Feistel network over the element's index. Its integer steps fit in an i32. So tensor operations on
//! a device and a loop on the host give the same bits.

use crate::{loops::RUN, over_rows, rng::Key};

/// Rounds of the network. Fewer leave neighbouring elements correlated (the test below sees it at 4).
const ROUNDS: usize = 6;

/// The number of values an element's random number takes; `p` is rounded to a multiple of its inverse.
const LEVELS: u32 = 1 << 16;

/// A mask's rounds and the number below which an element is dropped.
#[derive(Debug, Clone)]
pub struct Mask {
    /// The multiplier and addend of each round. The multiplier is odd and has 15 bits, so its product with 16 bits stays below 2^31.
    pub rounds: [(u32, u32); ROUNDS],
    /// Elements whose 16 random bits are below it are dropped.
    pub threshold: u32,
    /// The factor of the others, `1 / (1 - p)`.
    pub keep: f32,
}

impl Mask {
    /// The mask of a key, which drops an element with probability `p` in `[0, 1)`.
    pub fn new(key: u64, p: f64) -> Self {
        let bits = |i: usize| Key::new(key).bits(i as u64);
        let rounds = std::array::from_fn(|i| {
            let word = bits(i) as u32;
            ((word & 0x3fff) | 0x4001, word >> 16)
        });
        Self {
            rounds,
            threshold: (p * f64::from(LEVELS)).round() as u32,
            keep: (1.0 / (1.0 - p)) as f32,
        }
    }

    /// The 16 random bits of element `i`.
    #[inline]
    fn bits(&self, i: u32) -> u32 {
        let (mut left, mut right) = (i >> 16, i & 0xffff);
        for (multiplier, addend) in self.rounds {
            (left, right) = (
                right,
                left ^ (((right * multiplier + addend) >> 11) & 0xffff),
            );
        }
        right
    }

    /// 0 or `keep`, the factor of element `i`.
    #[inline]
    pub fn value(&self, i: u32) -> f32 {
        if self.bits(i) < self.threshold {
            0.0
        } else {
            self.keep
        }
    }
}

/// Multiplies elements by the mask's values, the first one by that of element 0.
pub fn drop_out(mask: &Mask, values: &mut [f32]) {
    over_rows(values, RUN.min(values.len()), |start, run| {
        drop_from(mask, start, run);
    });
}

/// Multiplies rows by the mask's values of the rows at these places.
pub fn drop_rows(mask: &Mask, places: &[usize], values: &mut [f32]) {
    let d = values.len() / places.len().max(1);
    over_rows(values, d, |start, run| {
        let rows = run.chunks_exact_mut(d.max(1));
        for (row, place) in rows.zip(&places[start / d.max(1)..]) {
            drop_from(mask, place * d, row);
        }
    });
}

/// Multiplies elements by their values of the mask, from that of element `start` on.
#[inline(always)]
pub(crate) fn drop_from(mask: &Mask, start: usize, values: &mut [f32]) {
    for (i, value) in values.iter_mut().enumerate() {
        *value *= mask.value((start + i) as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drops(key: u64, p: f64, n: u32) -> Vec<bool> {
        let mask = Mask::new(key, p);
        (0..n).map(|i| mask.value(i) == 0.0).collect()
    }

    /// The share of drops over many keys, and the share of keys that drop element i together with element i + lag.
    #[test]
    fn drops_are_as_frequent_as_asked_and_independent_of_their_neighbours() {
        let (p, n) = (0.1, 200_000);
        for key in 0..20 {
            let drops = drops(key, p, n);
            let share = |hits: usize, of: usize| hits as f64 / of as f64;
            let rate = share(drops.iter().filter(|&&d| d).count(), drops.len());
            assert!((rate - p).abs() < 0.005, "key {key}: rate {rate}");
            for lag in [1, 2, 3, 7, 64, 128, 768, 1024, 65_536] {
                let both = drops
                    .iter()
                    .zip(&drops[lag..])
                    .filter(|&(&a, &b)| a && b)
                    .count();
                let joint = share(both, drops.len() - lag);
                assert!(
                    (joint - p * p).abs() < 0.004,
                    "key {key}, lag {lag}: joint {joint}"
                );
            }
        }
    }

    #[test]
    fn masks_of_neighbouring_keys_are_independent() {
        for key in 0..20 {
            let (a, b) = (drops(key, 0.5, 100_000), drops(key + 1, 0.5, 100_000));
            let agree = a.iter().zip(&b).filter(|(a, b)| a == b).count() as f64 / 100_000.0;
            assert!((agree - 0.5).abs() < 0.01, "key {key}: {agree}");
        }
    }
}

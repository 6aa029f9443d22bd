//! Dropout masks from a counter: a small Feistel network over the element's index. Its integer steps fit in an i32. So tensor operations on
//! a device and a loop on the host give the same bits.

use burn::tensor::{ElementConversion, Int, Tensor, backend::Backend};

use crate::rng::Key;

/// Rounds of the network. Fewer leave neighbouring elements correlated (the test below sees it at 4).
const ROUNDS: usize = 6;

/// The number of values an element's random number takes; `p` is rounded to a multiple of its inverse.
const LEVELS: u32 = 1 << 16;

/// A mask's rounds and the number below which an element is dropped.
pub(in crate::backend) struct Mask {
    /// The multiplier and addend of each round. The multiplier is odd and has 15 bits, so its product with 16 bits stays below 2^31.
    pub(super) rounds: [(u32, u32); ROUNDS],
    pub(super) threshold: u32,
    pub(super) keep: f32,
}

impl Mask {
    pub(in crate::backend) fn new(key: u64, p: f64) -> Self {
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

    #[inline]
    pub(in crate::backend) fn value(&self, i: u32) -> f32 {
        if self.bits(i) < self.threshold {
            0.0
        } else {
            self.keep
        }
    }
}

/// The mask of `n` elements by tensor operations, without an upload.
pub(super) fn on_device<B: Backend>(
    n: usize,
    device: &B::Device,
    key: u64,
    p: f64,
) -> Tensor<B, 1> {
    let mask = Mask::new(key, p);
    let index = Tensor::<B, 1, Int>::arange(0..n as i64, device);
    let mut left = index.clone().bitwise_right_shift_scalar(16.elem());
    let mut right = index.bitwise_and_scalar(0xffff.elem());
    for (multiplier, addend) in mask.rounds {
        let mixed = right
            .clone()
            .mul_scalar(multiplier as i32)
            .add_scalar(addend as i32);
        let mixed = mixed
            .bitwise_right_shift_scalar(11.elem())
            .bitwise_and_scalar(0xffff.elem());
        (left, right) = (right, left.bitwise_xor(mixed));
    }
    let dropped = right.lower_elem(mask.threshold as i32);
    Tensor::<B, 1>::full([n], mask.keep, device).mask_fill(dropped, 0.0)
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

    /// The default body, on whichever CPU backend is there, against the loop that overrides it.
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    #[test]
    fn tensor_operations_give_the_same_bits_as_the_loop() {
        #[cfg(feature = "flex")]
        type B = burn::backend::Flex;
        #[cfg(not(feature = "flex"))]
        type B = burn::backend::NdArray;
        let n = 70_000;
        let found: Vec<f32> = on_device::<B>(n, &Default::default(), 5, 0.3)
            .into_data()
            .into_vec()
            .unwrap();
        let mask = Mask::new(5, 0.3);
        assert!(
            found
                .iter()
                .enumerate()
                .all(|(i, &v)| v == mask.value(i as u32))
        );
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

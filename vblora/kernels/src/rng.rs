//! A counter-based generator on the host. Value `i` of a stream depends on the stream's key and on `i` alone.
//!
//! The key of initial values, dropout masks and data order is a seed and a path. So they are the same on every backend and need no state in
//! a checkpoint. The order in which parameters are made does not matter.

/// Weyl increment of SplitMix64 (Steele, Lea and Flood 2014): 2^64 divided by the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64: a bijection on 64 bits in which every input bit moves every output bit.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The key of a stream of random values: a seed, narrowed by names and numbers.
///
/// ```
/// # use vblora_kernels as vblora;
/// use vblora::rng::Key;
/// let key = Key::new(7).name("encoder.layer.0").index(3);
/// assert_eq!(key.uniform(4, -1.0, 1.0), key.uniform(8, -1.0, 1.0)[..4]);
/// assert_ne!(key.bits(0), Key::new(8).name("encoder.layer.0").index(3).bits(0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(u64);

impl Key {
    /// The key of a run.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed.wrapping_add(GOLDEN)))
    }

    /// The key of a named part, for example a parameter's path.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        // The length goes in first, so that ("ab", "c") and ("a", "bc") differ.
        let start = self.index(name.len() as u64);
        name.as_bytes().chunks(8).fold(start, |key, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            key.index(u64::from_le_bytes(word))
        })
    }

    /// The key of a numbered part, for example a step.
    #[must_use]
    pub fn index(self, index: u64) -> Self {
        Self(mix(self.0 ^ mix(index.wrapping_add(GOLDEN))))
    }

    /// Word `counter` of this key's stream.
    pub fn bits(self, counter: u64) -> u64 {
        mix(self
            .0
            .wrapping_add(counter.wrapping_add(1).wrapping_mul(GOLDEN)))
    }

    /// Value `counter` of the stream as a number in `[0, 1)`.
    pub fn unit(self, counter: u64) -> f64 {
        unit(self.bits(counter))
    }

    /// `n` values uniform in `[low, high)`.
    pub fn uniform(self, n: usize, low: f64, high: f64) -> Vec<f32> {
        (0..n as u64)
            .map(|i| (low + (high - low) * self.unit(i)) as f32)
            .collect()
    }

    /// `n` normal values with mean 0 and standard deviation `std` (Box and Muller, computed in f64).
    pub fn normal(self, n: usize, std: f64) -> Vec<f32> {
        let pair = |i: u64| {
            // 1 - u is in (0, 1], so its logarithm is finite.
            let radius = std * (-2.0 * (1.0 - self.unit(2 * i)).ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * self.unit(2 * i + 1)).sin_cos();
            [(radius * cos) as f32, (radius * sin) as f32]
        };
        (0..n.div_ceil(2) as u64).flat_map(pair).take(n).collect()
    }

    /// `n` values of the standard Gumbel distribution, `-ln(-ln u)` with u uniform in the open interval from 0 to 1 (in f64).
    pub fn gumbel(self, n: usize) -> Vec<f32> {
        let open = |i: u64| ((self.bits(i) >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
        (0..n as u64)
            .map(|i| -(-open(i).ln()).ln() as f32)
            .collect()
    }

    /// The numbers `0..n` in random order (Fisher and Yates).
    pub fn permutation(self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }

    /// Puts items in the order that [`permutation`](Self::permutation) gives to their places.
    pub fn shuffle<T>(self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64, i + 1));
        }
    }

    /// Value `counter` of the stream as a number below `n` (`n > 0`).
    pub fn below(self, counter: u64, n: usize) -> usize {
        ((u128::from(self.bits(counter)) * n as u128) >> 64) as usize
    }
}

/// 53 random bits as a number in `[0, 1)`.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_have_the_moments_they_promise() {
        let uniform = Key::new(1).name("u").uniform(100_000, -0.02, 0.02);
        let normal = Key::new(1).name("n").normal(100_001, 0.01);
        let moments = |v: &[f32]| {
            let mean = v.iter().map(|&x| f64::from(x)).sum::<f64>() / v.len() as f64;
            let var = v
                .iter()
                .map(|&x| (f64::from(x) - mean).powi(2))
                .sum::<f64>()
                / v.len() as f64;
            (mean, var.sqrt())
        };
        let (mean, std) = moments(&uniform);
        assert!(
            mean.abs() < 2e-4 && (std - 0.04 / 12f64.sqrt()).abs() < 1e-4,
            "{mean} {std}"
        );
        assert!(uniform.iter().all(|x| (-0.02..0.02).contains(x)));
        let (mean, std) = moments(&normal);
        assert!(
            mean.abs() < 1.5e-4 && (std - 0.01).abs() < 1e-4,
            "{mean} {std}"
        );
        assert_eq!(normal.len(), 100_001);
        // Euler's constant and pi / sqrt(6).
        let gumbel = Key::new(1).name("g").gumbel(100_000);
        let (mean, std) = moments(&gumbel);
        assert!(
            (mean - 0.577_216).abs() < 0.015 && (std - 1.282_550).abs() < 0.015,
            "{mean} {std}"
        );
    }

    #[test]
    fn permutation_is_one_and_moves_things() {
        let order = Key::new(3).permutation(1000);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert!(order.iter().enumerate().filter(|&(i, &o)| i == o).count() < 10);
        assert!(Key::new(3).permutation(0).is_empty());
        let mut items: Vec<_> = (0..1000).map(|place| place * 7).collect();
        Key::new(3).shuffle(&mut items);
        assert!(items.into_iter().eq(order.iter().map(|place| place * 7)));
    }

    #[test]
    fn names_do_not_run_into_each_other() {
        let key = Key::new(0);
        assert_ne!(key.name("ab").name("c"), key.name("a").name("bc"));
        assert_ne!(key.name("a"), key.name("a\0"));
    }
}

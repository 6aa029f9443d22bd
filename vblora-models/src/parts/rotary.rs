//! Rotary position embedding (arXiv 2104.09864): the angles of positions.

use burn::tensor::{Tensor, TensorData, backend::Backend};

/// The angles of tokens: cos and sin, `[n, t, size / 2]` each.
pub(crate) type Angles<B> = [Tensor<B, 3>; 2];

/// The inverse frequencies of one head, `theta^(-2 i / size)`.
#[derive(Debug, Clone)]
pub(crate) struct Rotary {
    frequencies: Vec<f64>,
}

impl Rotary {
    /// Frequencies of heads of this size (even).
    pub(crate) fn new(size: usize, theta: f64) -> Self {
        let frequency = |i: usize| theta.powf(-2.0 * i as f64 / size as f64);
        Self {
            frequencies: (0..size / 2).map(frequency).collect(),
        }
    }

    /// The angles of positions `[n, t]`, computed on the host in f64 and rounded once.
    pub(crate) fn angles<B: Backend>(
        &self,
        positions: &[i64],
        [n, t]: [usize; 2],
        device: &B::Device,
    ) -> Angles<B> {
        let half = self.frequencies.len();
        [f64::cos, f64::sin].map(|function| {
            let row = |&position: &i64| {
                let angle = move |frequency: &f64| function(position as f64 * frequency) as f32;
                self.frequencies.iter().map(angle)
            };
            let values: Vec<f32> = positions.iter().flat_map(row).collect();
            Tensor::from_data(TensorData::new(values, [n, t, half]), device)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_fall_from_1_by_powers_of_theta() {
        let rotary = Rotary::new(8, 10_000.0);
        let expected = [1.0, 0.1, 0.01, 0.001];
        for (found, expected) in rotary.frequencies.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
    }
}

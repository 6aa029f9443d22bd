//! Rotary position embedding (arXiv 2104.09864): the angles of positions.

use std::f64::consts::TAU;

use burn::tensor::{Tensor, TensorData, backend::Backend};

use crate::config::{RopeScaling, RotaryConfig};

/// The angles of tokens: cos and sin, `[n, t, turning / 2]` each.
pub(crate) type Angles<B> = [Tensor<B, 3>; 2];

/// The frequencies of the pairs of one head's turning values.
#[derive(Debug, Clone)]
pub(crate) struct Rotary {
    frequencies: Vec<f64>,
}

impl Rotary {
    /// `theta^(-2 i / turning)` of heads of this size, scaled.
    pub(crate) fn new(head_size: usize, config: &RotaryConfig) -> Self {
        let turning = config.rotated(head_size);
        let frequency = |i: usize| config.theta.powf(-2.0 * i as f64 / turning as f64);
        let frequencies = (0..turning / 2).map(frequency);
        Self {
            frequencies: frequencies.map(|f| scaled(f, config.scaling)).collect(),
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

/// Llama 3's rule is that of `_compute_llama3_parameters` in transformers.
fn scaled(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 {
            factor,
            low,
            high,
            original,
        } => {
            // How often a wave of this frequency turns within the first training's texts.
            let turns = original * frequency / TAU;
            let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 - kept) * frequency / factor + kept * frequency
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_fall_from_1_by_powers_of_theta() {
        let rotary = Rotary::new(8, &RotaryConfig::plain(10_000.0));
        let expected = [1.0, 0.1, 0.01, 0.001];
        for (found, expected) in rotary.frequencies.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
    }

    #[test]
    fn low_frequencies_alone_are_scaled_in_llama_3() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low: 1.0,
            high: 4.0,
            original: 100.0 * TAU,
        };
        for (frequency, expected) in [
            (0.1, 0.1),
            (0.04, 0.04),
            (0.025, 0.5 * 0.025 + 0.5 * 0.025 / 8.0),
            (0.01, 0.01 / 8.0),
            (0.001, 0.001 / 8.0),
        ] {
            let found = scaled(frequency, scaling);
            assert!((found - expected).abs() < 1e-15, "{frequency}: {found}");
        }
    }
}

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
    /// Those of texts with more tokens than this, where they are others.
    long: Option<(usize, Vec<f64>)>,
    /// The factor on cos and sin.
    factor: f64,
}

impl Rotary {
    /// `theta^(-2 i / turning)` of heads of this size, scaled.
    pub(crate) fn new(head_size: usize, config: &RotaryConfig) -> Self {
        let turning = config.rotated(head_size);
        let frequency = |i: usize| config.theta.powf(-2.0 * i as f64 / turning as f64);
        let plain: Vec<f64> = (0..turning / 2).map(frequency).collect();
        let (mut long, mut attention_factor) = (None, 1.0);
        let frequencies = match &config.scaling {
            RopeScaling::None => plain,
            RopeScaling::Linear { factor } => plain.iter().map(|f| f / factor).collect(),
            RopeScaling::Llama3 {
                factor,
                low,
                high,
                original,
            } => {
                // How often a wave turns within the first training's texts decides how much of it is kept.
                let kept = |f: f64| (original * f / TAU - low) / (high - low);
                plain.iter().map(|&f| mixed(f, *factor, kept(f))).collect()
            }
            RopeScaling::Yarn {
                factor, attention, ..
            } => {
                attention_factor = *attention;
                let kept = yarn_kept(config, turning);
                let pairs = plain.iter().zip(kept);
                pairs.map(|(&f, kept)| mixed(f, *factor, kept)).collect()
            }
            RopeScaling::LongRope {
                short,
                long: in_long,
                original,
                attention,
            } => {
                attention_factor = *attention;
                let by =
                    |divisors: &[f64]| plain.iter().zip(divisors).map(|(f, by)| f / by).collect();
                long = Some((*original, by(in_long)));
                by(short)
            }
        };
        Self {
            frequencies,
            long,
            factor: attention_factor,
        }
    }

    /// The angles of positions `[n, t]`, computed on the host in f64 and rounded once. Each of the `n` rows turns as in a text of its length.
    pub(crate) fn angles<B: Backend>(
        &self,
        positions: &[i64],
        lengths: &[usize],
        t: usize,
        device: &B::Device,
    ) -> Angles<B> {
        let (n, half) = (lengths.len(), self.frequencies.len());
        [f64::cos, f64::sin].map(|function| {
            let rows = positions.chunks(t.max(1)).zip(lengths);
            let angles = rows.flat_map(|(row, &length)| {
                let frequencies = self.of_length(length);
                let angle = move |position: i64, frequency: &f64| {
                    (function(position as f64 * frequency) * self.factor) as f32
                };
                row.iter()
                    .flat_map(move |&position| frequencies.iter().map(move |f| angle(position, f)))
            });
            let values: Vec<f32> = angles.collect();
            Tensor::from_data(TensorData::new(values, [n, t, half]), device)
        })
    }

    /// The frequencies in a text of this many tokens.
    fn of_length(&self, length: usize) -> &[f64] {
        match &self.long {
            Some((original, long)) if length > *original => long,
            Some(_) | None => &self.frequencies,
        }
    }
}

/// A frequency of which a share, cut to 0 to 1, is kept, and the rest divided.
fn mixed(frequency: f64, factor: f64, kept: f64) -> f64 {
    let kept = kept.clamp(0.0, 1.0);
    (1.0 - kept) * frequency / factor + kept * frequency
}

/// The share of each pair's frequency that YaRN keeps, by the rule of `_compute_yarn_parameters` in transformers. It may lie outside 0 to 1.
fn yarn_kept(config: &RotaryConfig, turning: usize) -> Vec<f64> {
    let RopeScaling::Yarn {
        fast,
        slow,
        truncate,
        original,
        ..
    } = config.scaling
    else {
        return Vec::new();
    };
    // The pair that turns this often in a text of the first training.
    let place = |turns: f64| {
        let logarithm = (original / (turns * TAU)).ln();
        turning as f64 * logarithm / (2.0 * config.theta.ln())
    };
    let (first, last) = match truncate {
        true => (place(fast).floor(), place(slow).ceil()),
        false => (place(fast), place(slow)),
    };
    let (first, last) = (first.max(0.0), last.min(turning as f64 - 1.0));
    // Where both are one, transformers sets them apart by this much.
    let width = if first == last { 0.001 } else { last - first };
    let pairs = 0..turning / 2;
    pairs
        .map(|pair| 1.0 - (pair as f64 - first) / width)
        .collect()
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
            // The second of two pairs has the frequency theta^(-1/2).
            let theta = 1.0 / (frequency * frequency);
            let config = RotaryConfig {
                scaling: scaling.clone(),
                ..RotaryConfig::plain(theta)
            };
            let found = Rotary::new(4, &config).frequencies[1];
            assert!((found - expected).abs() < 1e-15, "{frequency}: {found}");
        }
    }

    /// The values of `ROPE_INIT_FUNCTIONS` of transformers 5.23.0, for heads of 12 and a theta of 10,000:
    ///
    /// ```python
    /// config = LlamaConfig(hidden_size=48, num_attention_heads=4, max_position_embeddings=4096,
    ///     rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 1024})
    /// frequencies, factor = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
    /// ```
    ///
    /// The second YaRN has `beta_fast` 16, `beta_slow` 2, `truncate` false, `mscale` 0.7 and `mscale_all_dim` 0.3. LongRoPE is that of
    /// `Phi3Config(hidden_size=64, num_attention_heads=4, max_position_embeddings=64, original_max_position_embeddings=10,
    /// partial_rotary_factor=0.75)` at `seq_len` 10 and 11.
    #[test]
    fn scaled_frequencies_are_those_of_transformers() {
        let yarn = |factor, original, attention| RopeScaling::Yarn {
            factor,
            fast: 32.0,
            slow: 1.0,
            truncate: true,
            original,
            attention,
        };
        let exact = RopeScaling::Yarn {
            factor: 4.0,
            fast: 16.0,
            slow: 2.0,
            truncate: false,
            original: 1024.0,
            attention: (0.07 * 4_f64.ln() + 1.0) / (0.03 * 4_f64.ln() + 1.0),
        };
        let long = RopeScaling::LongRope {
            short: vec![1.0, 1.15, 1.3, 1.45, 1.6, 1.75],
            long: vec![1.0, 2.7, 4.4, 6.1, 7.8, 9.5],
            original: 10,
            attention: (1.0 + 6.4_f64.ln() / 10_f64.ln()).sqrt(),
        };
        let linear = RopeScaling::Linear { factor: 4.0 };
        let llama3 = RopeScaling::Llama3 {
            factor: 4.0,
            low: 1.0,
            high: 4.0,
            original: 1024.0,
        };
        for (scaling, length, factor, expected) in [
            (
                linear,
                1,
                1.0,
                [
                    0.25,
                    0.053_860_86,
                    0.011_603_97,
                    0.0025,
                    0.000_538_608_6,
                    0.000_116_039_7,
                ],
            ),
            (
                llama3,
                1,
                1.0,
                [
                    1.0,
                    0.215_443_4,
                    0.046_415_88,
                    0.004_074_366,
                    0.000_538_608_6,
                    0.000_116_039_7,
                ],
            ),
            (
                yarn(4.0, 1024.0, 0.1 * 4_f64.ln() + 1.0),
                1,
                1.138_629_44,
                [
                    1.0,
                    0.215_443_4,
                    0.034_811_91,
                    0.005,
                    0.000_538_608_6,
                    0.000_116_039_7,
                ],
            ),
            (
                exact,
                1,
                1.053_237_68,
                [
                    1.0,
                    0.215_443_4,
                    0.033_875_08,
                    0.0025,
                    0.000_538_608_6,
                    0.000_116_039_7,
                ],
            ),
            (
                yarn(8.0, 512.0, 1.25),
                1,
                1.25,
                [
                    1.0,
                    0.152_605_8,
                    0.019_339_95,
                    0.00125,
                    0.000_269_304_3,
                    5.801_987e-5,
                ],
            ),
            (
                long.clone(),
                10,
                1.343_941_95,
                [
                    1.0,
                    0.187_342_2,
                    0.035_704_53,
                    0.006_896_552,
                    0.001_346_521,
                    0.000_265_233_7,
                ],
            ),
            (
                long,
                11,
                1.343_941_95,
                [
                    1.0,
                    0.079_793_87,
                    0.010_549_06,
                    0.001_639_344,
                    0.000_276_209_5,
                    4.885_884e-5,
                ],
            ),
        ] {
            let config = RotaryConfig {
                scaling,
                ..RotaryConfig::plain(10_000.0)
            };
            let rotary = Rotary::new(12, &config);
            assert!((rotary.factor - factor).abs() < 1e-8, "{config:?}");
            let found = rotary.of_length(length);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found / expected - 1.0).abs() < 1e-6,
                    "{config:?}: {found} {expected}"
                );
            }
        }
    }
}

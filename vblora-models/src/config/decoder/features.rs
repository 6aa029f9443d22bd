//! The features in which decoders differ. A family is a choice of them.

use vblora::ops::Gate;

use crate::{Activation, Result, config::wrong};

/// The tokens of a text in the first training, in `config.json`.
pub(super) const ORIGINAL: &str = "original_max_position_embeddings";

/// The normalisation of hidden states.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NormForm {
    /// Layer normalisation, with a weight and a bias.
    Layer,
    /// Normalisation by the root mean square (arXiv 1910.07467).
    Rms {
        /// Added to the stored weight: 1 in Gemma, 0 elsewhere.
        offset: f32,
    },
}

/// The values over which the RMS norms of queries and keys are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// The values of one head.
    Head,
    /// The values of all heads together.
    AllHeads,
}

/// The MLP of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mlp {
    /// `down(f(up(x)))`
    Plain(Activation),
    /// `down(f(gate(x)) up(x))`
    Gated(Gate),
}

/// The factor on token embeddings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum EmbeddingScale {
    /// None.
    One,
    /// The root of the model's width (Gemma).
    RootOfWidth,
    /// A number (Granite).
    By(f64),
}

/// The factor on the products of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AttentionScale {
    /// One over the root of the head's size.
    RootOfHead,
    /// One over the root of a number (`query_pre_attn_scalar` of Gemma 2 and 3).
    RootOf(f64),
    /// A number (Granite).
    By(f64),
}

/// Rotary positions (arXiv 2104.09864).
#[derive(Debug, Clone, PartialEq)]
pub struct RotaryConfig {
    /// The base of the frequencies.
    pub theta: f64,
    /// How the frequencies are scaled for longer texts.
    pub scaling: RopeScaling,
    /// The share of a head's values that turn, its first ones.
    pub share: f64,
}

/// How rotary frequencies are scaled so that a model reads longer texts than it was first trained on.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All frequencies are divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3: low frequencies are divided by `factor`, high ones stay, and those between are interpolated.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Waves longer than `original / low` are scaled.
        low: f64,
        /// Waves shorter than `original / high` stay.
        high: f64,
        /// Tokens of a text in the first training.
        original: f64,
    },
    /// YaRN (arXiv 2309.00071): as Llama 3, but the pairs of a head are interpolated by their places.
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// Pairs that turn more often than this in a text of the first training stay.
        fast: f64,
        /// Pairs that turn less often than this are scaled.
        slow: f64,
        /// True if the places of these pairs are rounded to whole pairs, outwards.
        truncate: bool,
        /// Tokens of a text in the first training.
        original: f64,
        /// The factor on cos and sin.
        attention: f64,
    },
    /// LongRoPE (arXiv 2402.13753): each frequency has a divisor of its own, another one in long texts.
    LongRope {
        /// The divisors in texts of at most `original` tokens.
        short: Vec<f64>,
        /// The divisors in longer texts.
        long: Vec<f64>,
        /// Tokens of a text in the first training.
        original: usize,
        /// The factor on cos and sin.
        attention: f64,
    },
}

/// Some of a model's layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerSet {
    /// Every layer.
    All,
    /// The layers whose entry is true.
    Listed(Vec<bool>),
}

impl NormForm {
    /// The number added to stored weights.
    pub(crate) fn offset(self) -> f32 {
        match self {
            Self::Layer => 0.0,
            Self::Rms { offset } => offset,
        }
    }
}

impl RotaryConfig {
    /// Whole heads turn, by unscaled frequencies of this base.
    pub fn plain(theta: f64) -> Self {
        Self {
            theta,
            scaling: RopeScaling::None,
            share: 1.0,
        }
    }

    /// Refuses divisors that are not one for each of this many pairs, and frequencies that do not fall.
    pub(super) fn check_pairs(&self, file: &str, pairs: usize) -> Result<()> {
        match &self.scaling {
            RopeScaling::LongRope { short, long, .. } => {
                for (field, found) in [("short_factor", short), ("long_factor", long)] {
                    if found.len() != pairs {
                        let problem = format!(
                            "expected {pairs} numbers, one for each pair of a head's values, found {}",
                            found.len()
                        );
                        return Err(wrong(file, field, problem));
                    }
                }
                Ok(())
            }
            RopeScaling::Yarn { .. } if self.theta <= 1.0 => {
                let problem = format!("expected a number over 1 for yarn, found {}", self.theta);
                Err(wrong(file, "rope_theta", problem))
            }
            RopeScaling::None
            | RopeScaling::Linear { .. }
            | RopeScaling::Llama3 { .. }
            | RopeScaling::Yarn { .. } => Ok(()),
        }
    }

    /// How many of a head's values turn.
    pub(crate) fn rotated(&self, head_size: usize) -> usize {
        (head_size as f64 * self.share) as usize
    }
}

impl RopeScaling {
    /// Its numbers, which are all over 0, as `config.json` calls them.
    pub(super) fn numbers(&self) -> Vec<(&'static str, f64)> {
        match *self {
            Self::None => Vec::new(),
            Self::Linear { factor } => vec![("factor", factor)],
            Self::Yarn {
                factor,
                fast,
                slow,
                original,
                attention,
                ..
            } => vec![
                ("factor", factor),
                ("beta_fast", fast),
                ("beta_slow", slow),
                (ORIGINAL, original),
                ("attention_factor", attention),
            ],
            Self::LongRope {
                ref short,
                ref long,
                original,
                attention,
            } => {
                let short = short.iter().map(|&value| ("short_factor", value));
                let long = long.iter().map(|&value| ("long_factor", value));
                let others = [(ORIGINAL, original as f64), ("attention_factor", attention)];
                short.chain(long).chain(others).collect()
            }
            Self::Llama3 {
                factor,
                low,
                high,
                original,
            } => vec![
                ("factor", factor),
                ("low_freq_factor", low),
                ("high_freq_factor", high),
                ("high_freq_factor over low_freq_factor", high - low),
                (ORIGINAL, original),
            ],
        }
    }
}

impl LayerSet {
    /// The layers for which `listed` is true.
    pub(super) fn of(listed: Vec<bool>) -> Self {
        match listed.iter().all(|&has| has) {
            true => Self::All,
            false => Self::Listed(listed),
        }
    }

    /// Returns true if the layer of this index is one of them.
    pub fn has(&self, index: usize) -> bool {
        match self {
            Self::All => true,
            Self::Listed(listed) => listed.get(index).copied().unwrap_or(false),
        }
    }
}

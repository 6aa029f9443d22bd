//! The settings that causal models have besides the others.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How a causal model learns from texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextSettings {
    /// What becomes of a text longer than `max_length`.
    pub too_long: TooLong,
    /// Whether the prompt is to be predicted too.
    pub on_prompt: bool,
    /// Whether texts are put one after another into rows of `max_length` tokens; a batch is then so many rows.
    pub packing: bool,
    /// The share of a target's weight that is spread over the vocabulary, in training.
    pub label_smoothing: f64,
    /// Whether activations are computed again on the way back instead of kept: less memory, more time, the same gradients.
    pub recompute: bool,
}

impl TextSettings {
    /// Whether nothing is set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of a text that is longer than the maximum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TooLong {
    /// Its prompt loses tokens from its beginning; a text whose response alone is too long is left out.
    #[default]
    Cut,
    /// It is left out.
    Drop,
    /// It is an error.
    Refuse,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cut => "cut",
            Self::Drop => "drop",
            Self::Refuse => "refuse",
        })
    }
}

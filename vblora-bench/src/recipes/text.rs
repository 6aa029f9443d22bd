//! Settings that only causal models have.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The settings with which a causal model learns from texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextSettings {
    /// The treatment of a text longer than `max_length`.
    pub too_long: TooLong,
    /// True if the loss includes the prompt's tokens.
    pub on_prompt: bool,
    /// True if several texts are packed into each row of `max_length` tokens. The batch size then counts rows.
    pub packing: bool,
    /// The share of a target's probability that is spread over the vocabulary, in training only.
    pub label_smoothing: f64,
    /// True if activations are recomputed in the backward pass. This takes less memory and more time. The gradients are the same up to the
    /// order of sums.
    pub recompute: bool,
}

impl TextSettings {
    /// Returns true if all settings have their default.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The treatment of a text that is longer than the maximum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TooLong {
    /// The prompt loses tokens from its start, and a conversation its last turns. A text is left out if its response alone, or the
    /// conversation up to its first answer, is too long.
    #[default]
    Cut,
    /// The text is left out.
    Drop,
    /// The text is an error.
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

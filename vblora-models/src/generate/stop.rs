//! The end of a row: stop tokens and stop strings.

use std::fmt;

use crate::{Result, TextTokenizer};

use super::GenerationConfig;

/// Why a row ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its last token is a stop token.
    StopToken,
    /// Its text has a stop string.
    StopString,
    /// It has as many new tokens as asked for.
    Length,
    /// Prompt and new tokens fill the model's memory.
    Capacity,
    /// Every next token would have repeated a sequence of tokens.
    NothingLeft,
    /// The caller broke it off.
    BrokenOff,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StopToken => "a stop token",
            Self::StopString => "a stop string",
            Self::Length => "its length",
            Self::Capacity => "the model's capacity",
            Self::NothingLeft => "no token that is left",
            Self::BrokenOff => "its caller",
        })
    }
}

/// The settings that end a row.
pub(super) struct Stops<'a> {
    pub(super) config: &'a GenerationConfig,
    /// Reads the text in which stop strings are looked for.
    tokenizer: Option<&'a TextTokenizer>,
    capacity: usize,
}

impl<'a> Stops<'a> {
    pub(super) fn new(
        config: &'a GenerationConfig,
        tokenizer: Option<&'a TextTokenizer>,
        capacity: usize,
    ) -> Self {
        Self {
            config,
            tokenizer,
            capacity,
        }
    }

    pub(super) fn tokens(&self) -> usize {
        self.config.stop_tokens.len()
    }

    /// The most new tokens after a prompt of so many.
    pub(super) fn longest(&self, prompt: usize) -> usize {
        let total = self.config.max_total_tokens.unwrap_or(usize::MAX);
        let room = self.capacity.min(total).saturating_sub(prompt);
        self.config.max_new_tokens.min(room)
    }

    /// Why a row ends with the last of its new tokens, if it does.
    pub(super) fn reason(&self, prompt: usize, new: &[u32]) -> Result<Option<Ended>> {
        let last_stops = |last| self.config.stop_tokens.contains(last);
        Ok(if new.last().is_some_and(last_stops) {
            Some(Ended::StopToken)
        } else if self.has_stop_string(new)? {
            Some(Ended::StopString)
        } else if new.len() >= self.config.max_new_tokens
            || self
                .config
                .max_total_tokens
                .is_some_and(|most| prompt + new.len() >= most)
        {
            Some(Ended::Length)
        } else if prompt + new.len() >= self.capacity {
            Some(Ended::Capacity)
        } else {
            None
        })
    }

    fn has_stop_string(&self, new: &[u32]) -> Result<bool> {
        let strings = &self.config.stop_strings;
        let Some(tokenizer) = self.tokenizer.filter(|_| !strings.is_empty()) else {
            return Ok(false);
        };
        let text = tokenizer.decode(new)?;
        Ok(strings.iter().any(|string| text.contains(string)))
    }
}

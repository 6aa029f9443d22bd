//! A question of a benchmark, and an answer as a line of a file.

use std::path::Path;

use serde::{Deserialize, Serialize};
use vblora_models::generate::Ended;

use crate::{
    Error, Result,
    tasks::causal::{Form, Texts, read_texts},
};

/// A question of a benchmark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The name in files of answers, unique in the benchmark.
    pub id: String,
    /// The text that the model continues.
    pub prompt: String,
    /// The expected answers; a scorer knows their form.
    pub references: Vec<String>,
}

/// The texts of a file of questions. A row without a response is an error, since the scores without it would be others.
///
/// # Errors
/// The file cannot be read; the field `response` is empty in a row.
pub(super) fn whole_texts(path: &Path, form: &Form, response: &str) -> Result<Texts> {
    let texts = read_texts(path, form)?;
    match texts.empty {
        0 => Ok(texts),
        empty => Err(Error::Entry {
            file: path.display().to_string(),
            place: format!("field \"{response}\""),
            expected: "text in every row".into(),
            found: format!("{empty} empty"),
        }),
    }
}

/// A model's answer: one line of a file of answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The question's id.
    pub id: String,
    /// The question's prompt.
    pub prompt: String,
    /// The expected answers.
    pub references: Vec<String>,
    /// The generated text, up to the first stop text. Blanks at its ends are kept.
    pub answer: String,
    /// The number of generated tokens, with those of the stop.
    pub tokens: usize,
    /// The reason why the answer ended.
    pub stop: StopReason,
}

/// The reason why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// A token that ends a text.
    StopToken,
    /// One of the benchmark's stop texts.
    StopText,
    /// The maximum number of new tokens.
    Length,
    /// Prompt and answer fill the model's positions.
    Capacity,
    /// Every next token was forbidden.
    NothingLeft,
}

impl StopReason {
    /// The reason of a generated row; `None` for a row that was broken off and has no answer.
    pub(super) fn of(ended: Ended) -> Option<Self> {
        match ended {
            Ended::StopToken => Some(Self::StopToken),
            Ended::StopString => Some(Self::StopText),
            Ended::Length => Some(Self::Length),
            Ended::Capacity => Some(Self::Capacity),
            Ended::NothingLeft => Some(Self::NothingLeft),
            Ended::BrokenOff => None,
        }
    }
}

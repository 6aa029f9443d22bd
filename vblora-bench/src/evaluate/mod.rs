//! Benchmarks of generated text: questions, a model's answers, and their scores.
//!
//! A benchmark makes [`Question`]s. A [`Responder`] answers them into an [`AnswerFile`], which can be scored again without a model.

mod answer;
mod file;
mod respond;

pub use answer::{Answer, Question, StopReason};
pub use file::{AnswerFile, Origin, read_answers};
pub use respond::{Asking, Responder};

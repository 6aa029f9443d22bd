//! Evaluations beside training: a folder for each task, over files that other tools read and write.
//!
//! A benchmark makes [`Question`]s. A [`Responder`] answers them into an [`AnswerFile`], which can be scored again without a model.

mod answer;
pub mod e2e;
mod file;
pub mod math;
mod respond;

pub use answer::{Answer, Question, StopReason};
pub use file::{AnswerFile, Origin, read_answers};
pub use respond::{Asking, Responder};

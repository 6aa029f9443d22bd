//! Evaluations beside training: a folder for each task, over files that other tools read and write.
//!
//! A [`Benchmark`] makes [`Question`]s. A [`Responder`] answers them into an [`AnswerFile`], which can be scored again without a model.

mod answer;
mod benchmark;
pub mod e2e;
mod file;
mod generated;
pub mod math;
mod model;
pub mod mtbench;
mod respond;
mod tally;
mod together;
mod trained;

pub use answer::{Answer, Question, StopReason};
pub use benchmark::{Benchmark, Evaluation, asked};
pub use file::{AnswerFile, Origin, note, question_counts, read_answers, recorded_note};
pub(crate) use file::{check_origin, origin_path};
pub use generated::output;
pub use model::{AnswerJob, AnsweringModel};
pub(crate) use respond::encoded;
pub use respond::{Asking, Keep, KeepAnswers, Responder};
pub use tally::{Score, Tally, named};
pub use together::{Keeper, deal};
pub use trained::Trained;

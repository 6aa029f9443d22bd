//! Training of causal models on prompts and responses.

mod batch;
mod encode;
mod loss;
mod objective;
mod samples;
mod source;

pub use batch::TextBatch;
pub use encode::{EncodedTexts, Encoding};
pub use loss::token_loss;
pub use objective::Causal;
pub use samples::{Question, Sample, answer, answerable, answers_bleu};
pub use source::{TextSource, encoding};

//! Training of causal models on prompts and responses, conversations, and documents.

mod batch;
mod blocks;
mod encode;
mod loss;
mod objective;
mod samples;
mod source;
mod turns;

pub use batch::TextBatch;
pub use encode::{EncodedTexts, Encoding};
pub use loss::token_loss;
pub use objective::Causal;
pub use samples::{Sample, answer, answerable, answers_bleu};
pub use source::{TextSource, encoding};

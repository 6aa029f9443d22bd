//! Predictions of a trained encoder with a head: labels and probabilities for texts, without training.

mod classifier;
mod head;
mod outcome;
mod read;
mod run;
mod together;
mod whole;
mod write;

pub use classifier::{Classifier, compare_base};
pub use head::with_head_beside;
pub use outcome::{Outcome, outcomes};
pub use read::{Rows, open, read, read_glue, read_labelled};
pub use run::{Text, run};
pub use together::{join, terms};
pub use whole::whole;
pub use write::{Form, check, encode};

//! Training tasks: tasks with labels (the paper's GLUE tasks and the demonstration task), and texts to continue.

pub mod causal;
mod evaluation;
mod example;
mod folder;
mod glue;
mod known;
pub mod own;
mod own_task;
mod place;
mod rows;
mod score;
mod sets;
mod split;
pub mod table;
mod task;

pub use evaluation::{ByClass, Evaluation, NamedScores};
pub(crate) use example::class_counts;
pub use example::{Example, Label, Split, SplitName};
pub(crate) use place::counted;
pub(crate) use score::check_scores;
pub use score::{Predictions, evaluate, score};
pub(crate) use split::read_sentences;
pub use split::{check_splits, parse_split, read_split, read_split_file};
pub use task::{Columns, Fields, Kind, Target, Task, Written};

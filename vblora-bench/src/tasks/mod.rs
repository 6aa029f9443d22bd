//! What is trained on: the GLUE tasks of the paper and the demonstration set, and texts to continue.

pub mod causal;
mod folder;
pub mod glue;
mod rows;

pub use glue::{Example, Label, Split, SplitName, Task, parse_split, read_split};

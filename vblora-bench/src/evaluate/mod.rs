//! Evaluations beside training: a folder for each task, over files that other tools read and write.

pub mod e2e;

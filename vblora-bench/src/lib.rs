//! The paper's benchmarks: tasks, metrics, schedules, recipes and reports.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`tasks`] | GLUE's TSV files to examples, files of prompts and responses to texts, every malformed row an error with file and line |
//! | [`metrics`] | accuracy, F1, Matthews, Pearson, Spearman, BLEU in double precision |
//! | [`schedule`] | the learning-rate factor of each step |
//! | [`recipes`] | hyperparameters of published runs as TOML |
//! | [`analysis`], [`figures`] | what recorded selections say, and the paper's figures of them |
//! | [`chart`] | one style for every picture: colours and marks by method, axes, labels, light and dark pages |
//! | [`view`] | a page to scrub through a recording |
//! | [`record`] | what VB-LoRA selects while it trains, in a file that can be cut off |
//! | [`report`] | `results.json`, the summary table, the curve picture; a sweep's page with the paper's tables |
//! | [`sweep`] | a TOML file of axes to many runs: planned, content-addressed, resumed, on several devices |
//! | [`program`] | signals, exit codes and lines on the terminal, for the programs that use all this |
#![forbid(unsafe_code)]

pub mod analysis;
#[cfg(test)]
mod browser;
pub mod chart;
pub mod demo;
mod directory;
pub mod error;
pub mod figures;
pub mod limits;
pub mod metrics;
pub mod pretrain;
pub mod program;
pub mod recipes;
pub mod record;
pub mod report;
pub mod schedule;
pub mod sweep;
pub mod tasks;
pub mod train;
pub mod view;

pub use error::{Error, Result};

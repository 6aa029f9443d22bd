//! Fine-tuning of frozen transformers with VB-LoRA and the methods it is compared with, and the paper's benchmarks.
//!
//! # A run
//!
//! A [`train::Session`] has a recipe, methods, a model and data. It trains every method with every seed, and writes the results to a
//! directory. A killed session continues from that directory. This one trains the bundled model on a few sentences:
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//! use vblora_bench::{demo, recipes::{Recipe, Size}, report::draw, tasks::Task,
//!     train::{CheckpointSettings, DataSource, Method, Output, Session, run_encoder}};
//!
//! let place = tempfile::tempdir()?;
//! let rows = "x\t1\t\tThe cats sleep.\nx\t0\t\tThe cats sleeps.\n".repeat(8);
//! for split in ["train.tsv", "dev.tsv"] {
//!     std::fs::write(place.path().join(split), &rows)?;
//! }
//! let session = Session {
//!     recipe: Recipe { epochs: 4, batch: 4, ..Recipe::builtin(Size::Demo, &Task::demo())? },
//!     methods: vec![Method::VbLora],
//!     files: demo::model_files(),
//!     data: DataSource::Directory(place.path().into()),
//!     out: Some(Output::new(place.path().join("run"), draw)),
//!     overwrite: false, resume: false, checkpoints: CheckpointSettings::default(),
//!     record_every: None, quiet: true, command: String::new(),
//! };
//! let backend = vblora::backend::DEFAULT_BACKEND.parse()?;
//! let results = run_encoder(backend, 0, &session, &AtomicBool::new(false))?;
//! let run = &results.runs[0];
//! assert!(run.epochs[3].train_loss < run.epochs[0].train_loss);
//! assert!(place.path().join("run/vblora-seed1/adapter_model.safetensors").exists()); // PEFT loads it
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Parts
//!
//! The first table lists the parts that training needs. The parts of the second table use them and are never imported by them
//! (`tests/imports.rs`).
//!
//! | part | what it does |
//! | --- | --- |
//! | [`train`] | trains an adapter: optimizer steps, evaluation, checkpoints, sessions of many runs |
//! | [`recipes`], [`schedule`] | hyperparameters of published runs as TOML; the learning-rate factor of each step |
//! | [`tasks`], [`demo`] | GLUE's TSV files to examples, files of prompts and responses to texts; the bundled models and data |
//! | [`metrics`] | accuracy, F1, Matthews, Pearson, Spearman, BLEU in double precision |
//! | [`results`] | the results of runs (`results.json`), with medians over seeds |
//! | [`recordings`] | VB-LoRA's selections during training, in a file that stays readable if it is cut off |
//! | [`tensorboard`] | event files that TensorBoard reads |
//! | [`program`], [`terminal`] | signals, exit codes and terminal output; escaping of untrusted text for the terminal |
//! | [`group`] | processes that do one job together, over MPI |
//! | [`limits`], [`error`] | size limits of readers; the errors of this crate |
//!
//! | part | what it does |
//! | --- | --- |
//! | [`predict`] | labels and probabilities from a trained encoder, without training |
//! | [`evaluate`] | the paper's evaluations of texts, over files |
//! | [`sweep`] | a TOML file of axes to many runs: planned, content-addressed, resumed, on several devices |
//! | [`report`] | a session's table and curves; a sweep's page with the paper's tables |
//! | [`analysis`], [`figures`] | statistics of recorded selections, and the paper's figures of them |
//! | [`chart`] | one style for every picture: colours and marks by method, axes, labels, light and dark pages |
//! | [`view`] | an interactive page of a recording |
//! | [`pretrain`] | pretraining of the bundled RoBERTa |
//! | [`commands`] | the subcommands that `vblora` and other programs share |
#![forbid(unsafe_code)]

pub mod analysis;
#[cfg(test)]
mod browser;
mod card;
pub mod chart;
pub mod commands;
pub mod demo;
mod directory;
pub mod error;
pub mod evaluate;
pub mod figures;
pub mod group;
pub mod limits;
pub mod metrics;
pub mod predict;
pub mod pretrain;
pub mod program;
pub mod recipes;
pub mod recordings;
pub mod report;
pub mod results;
pub mod schedule;
pub mod sweep;
pub mod tasks;
pub mod tensorboard;
pub mod terminal;
pub mod train;
pub mod view;

pub use error::{Error, Result};

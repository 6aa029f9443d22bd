//! The metrics of the E2E NLG challenge over files of references and outputs (Dušek et al. 2020), as `tuetschek/e2e-metrics` computes them.
//!
//! METEOR comes from its own program, the jar of release 1.5, or not at all. No other program gives the same numbers.

mod java;
mod reader;
mod scores;

pub use java::{HOW_TO_GET_METEOR, JavaMetrics};
pub use reader::{Corpus, References};
pub use scores::{E2eScores, Scored, SegmentScores};

//! The metrics of the E2E NLG challenge, over files of references and outputs (Dušek et al. 2020, `tuetschek/e2e-metrics`).

mod reader;

pub use reader::{read_outputs, read_references};

//! `vblora evaluate e2e` with a model: texts for meaning representations, or a file of answers.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use vblora::storage::write_atomically;

use super::answers::{ANSWERS, AnswerArguments, Found, SCORES};
use crate::evaluate::{Benchmark, Evaluation, output};

/// The flags that score texts which are there.
const WITHOUT_MODEL: [&str; 2] = ["score", "refs"];

// Plain comments: a doc comment on flattened flags would become the command's description.
#[derive(Debug, Args)]
pub(super) struct GeneratedArguments {
    #[command(flatten)]
    answers: AnswerArguments,
    /// Width of beam search; 1 is greedy [default: 10, as in LoRA's paper]
    #[arg(
        long,
        value_name = "N",
        requires = "model",
        conflicts_with_all = WITHOUT_MODEL,
        help_heading = ANSWERS
    )]
    beams: Option<usize>,
    /// Length penalty of beam search; above 0 it favours long texts [default: 0.9]
    #[arg(
        long,
        value_name = "X",
        requires = "model",
        conflicts_with_all = WITHOUT_MODEL,
        allow_negative_numbers = true,
        help_heading = ANSWERS
    )]
    length_penalty: Option<f64>,
    /// Never repeat a sequence of N tokens; 0 allows repeats [default: 4]
    #[arg(
        long,
        value_name = "N",
        requires = "model",
        conflicts_with_all = WITHOUT_MODEL,
        help_heading = ANSWERS
    )]
    no_repeat_ngram_size: Option<usize>,
    /// Write the answers one a line, as other programs read outputs
    #[arg(long, value_name = "FILE", conflicts_with = "refs", help_heading = SCORES)]
    export: Option<PathBuf>,
}

impl GeneratedArguments {
    /// Returns true if several processes share the work.
    pub(super) fn is_shared(&self) -> bool {
        self.answers.is_shared()
    }

    /// Answers and scores.
    pub(super) fn run(&self, java: Option<&Path>) -> Result<Found> {
        self.answers.check_apart(self.export.as_deref())?;
        let settings = Evaluation {
            beams: self.beams,
            length_penalty: self.length_penalty,
            no_repeat_ngram_size: self.no_repeat_ngram_size,
            java_metrics: java.map(|dir| dir.display().to_string()),
            ..Evaluation::default()
        };
        let found = self.answers.scored(Benchmark::E2e, &settings)?;
        if let (Found::Scored(scored), Some(file)) = (&found, &self.export) {
            let lines = scored.answers.iter().map(|answer| output(answer) + "\n");
            write_atomically(file, lines.collect::<String>().as_bytes())?;
        }
        Ok(found)
    }

    /// The file of answers.
    pub(super) fn file(&self) -> &Path {
        self.answers.file()
    }
}

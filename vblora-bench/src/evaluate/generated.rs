//! Scores of answers to E2E's meaning representations.

use std::path::Path;

use super::{
    Answer,
    e2e::{JavaMetrics, Scored},
    tally::Score,
};
use crate::Result;

/// The metrics of e2e-metrics. METEOR has a value only with the folder of its program.
pub(super) fn score_answers(answers: &[Answer], java: Option<&Path>) -> Result<Vec<Score>> {
    let java = java.map(JavaMetrics::open).transpose()?;
    let outputs: Vec<String> = answers.iter().map(output).collect();
    let references: Vec<Vec<String>> = answers.iter().map(|a| a.references.clone()).collect();
    let scores = Scored::new(&outputs, &references, java.as_ref())?.scores();
    let score = |(name, value): (&str, Option<f64>)| Score {
        name: name.into(),
        value,
        tally: None,
    };
    Ok(scores.named().into_iter().map(score).collect())
}

/// An answer as one line of a file of outputs: without blanks at its ends, and a line break counts as a blank.
pub fn output(answer: &Answer) -> String {
    let words = answer.answer.split_whitespace();
    words.collect::<Vec<_>>().join(" ")
}

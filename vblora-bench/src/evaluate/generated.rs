//! Scores of answers to E2E's meaning representations.

use super::{Answer, tally::Score};
use crate::metrics::bleu;

/// The metrics over trimmed answers. A line break in an answer counts as a blank.
pub(super) fn score_answers(answers: &[Answer]) -> Vec<Score> {
    let outputs: Vec<String> = answers.iter().map(output).collect();
    let corpus = outputs.iter().zip(answers);
    let value =
        bleu(corpus.map(|(output, answer)| (output.as_str(), answer.references.as_slice())));
    vec![Score {
        name: "bleu".into(),
        value: Some(value),
        tally: None,
    }]
}

/// An answer as one line of a file of outputs.
pub fn output(answer: &Answer) -> String {
    answer
        .answer
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

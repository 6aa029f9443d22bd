//! Metrics of generated texts, as e2e-metrics (`tuetschek/e2e-metrics`) computes them.
//!
//! | metric | words | what it compares |
//! | --- | --- | --- |
//! | [`bleu`], [`nist`] | mteval-v13a | n-grams up to 4 and 5, over the whole corpus |
//! | [`rouge_l`] | Penn Treebank, without punctuation | longest common subsequences |
//! | [`cider`] | Penn Treebank, without punctuation | n-grams up to 4, weighted by how rare they are |
//!
//! [`text_scores`] computes them all. Other programs have other metrics of the same names: their scores do not compare.

mod bleu;
mod cider;
mod mteval;
mod ngrams;
mod nist;
mod ptb;
mod rouge_l;
mod tokenized;

use ngrams::CorpusNgrams;
use serde::Serialize;

pub use bleu::{bleu, smoothed_bleu};
pub use cider::cider;
pub use nist::nist;
pub use ptb::ptb_lines;
pub use rouge_l::rouge_l;
pub use tokenized::Tokenized;

/// An output and the references that it is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// The text that a system wrote. It may be empty.
    pub output: &'a str,
    /// The texts that people wrote. There must be at least one.
    pub references: &'a [String],
}

/// The scores of a corpus.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TextScores {
    /// BLEU-4 in 0..=1.
    pub bleu: f64,
    /// NIST-5, not bounded; `None` if all outputs together have no n-gram of some length.
    pub nist: Option<f64>,
    /// ROUGE-L in 0..=1.
    pub rouge_l: f64,
    /// CIDEr in 0..=10.
    pub cider: f64,
}

/// All scores of a corpus but METEOR, which no one has but its own program. All are 0 for a corpus without segments.
pub fn text_scores(corpus: &[Segment<'_>], tokenized: &Tokenized) -> TextScores {
    let mut ngrams = CorpusNgrams::default();
    for segment in corpus {
        ngrams.push_mteval(segment.output, segment.references, nist::ORDER);
    }
    TextScores {
        bleu: bleu::bleu_of(&ngrams),
        nist: nist::nist_of(&ngrams),
        rouge_l: mean(&rouge_l(tokenized)),
        cider: mean(&cider(tokenized)),
    }
}

/// White space by Python's rule, which counts four more control characters than Unicode does.
pub(crate) fn is_blank(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// The mean, which is 0 for no value.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

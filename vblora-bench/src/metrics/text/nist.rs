//! NIST-5 over several references (Doddington 2002), as e2e-metrics' `pymteval.py` computes it.

use super::{
    Segment,
    ngrams::{CorpusNgrams, Numbering},
};

/// The maximum n-gram length.
pub(super) const ORDER: usize = 5;

/// NIST-5 of a corpus, or `None` if all outputs together have no n-gram of some length up to 5.
///
/// An n-gram in common counts by its information: log2 of how often the references continue its first n - 1 words in this way. All
/// references of the corpus count, equal ones again. The penalty compares the length of the outputs with the mean length of their
/// references; it is 1/2 for outputs two thirds as long. The words are those of [`super::bleu`].
pub fn nist(corpus: &[Segment<'_>]) -> Option<f64> {
    let mut ngrams = CorpusNgrams::default();
    for segment in corpus {
        ngrams.push_mteval(segment.output, segment.references, ORDER);
    }
    nist_of(&ngrams)
}

/// NIST-5 of n-grams up to 5.
pub(super) fn nist_of(ngrams: &CorpusNgrams) -> Option<f64> {
    let information = Information::new(ngrams);
    let (mut score, mut outputs, mut references) = (0.0, 0, 0.0);
    for segment in &ngrams.segments {
        let lengths = segment
            .references
            .iter()
            .map(|reference| reference[0].len());
        outputs += segment.output[0].len();
        references += lengths.sum::<usize>() as f64 / segment.references.len() as f64;
    }
    for n in 0..ORDER {
        let hits = ngrams.hits.iter().flat_map(|hits| &hits[n]);
        let found: f64 = hits
            .map(|&(ngram, hits)| information.of(ngram) * f64::from(hits))
            .sum();
        let lengths = ngrams
            .segments
            .iter()
            .map(|segment| segment.output[0].len());
        let all: i64 = lengths.map(|length| length as i64 - n as i64).sum();
        if all == 0 {
            return None;
        }
        score += found / all as f64;
    }
    Some(score * penalty(outputs as f64 / references))
}

/// How informative an n-gram of the references is.
struct Information<'a> {
    numbering: &'a Numbering,
    /// How often the references have an n-gram, by its number.
    counts: Vec<u32>,
    words: u32,
}

impl<'a> Information<'a> {
    fn new(ngrams: &'a CorpusNgrams) -> Self {
        let mut counts = vec![0; ngrams.numbering.len()];
        let mut words = 0;
        for reference in ngrams
            .segments
            .iter()
            .flat_map(|segment| &segment.references)
        {
            words += reference[0].len() as u32;
            for &ngram in reference.iter().flatten() {
                counts[ngram as usize] += 1;
            }
        }
        Self {
            numbering: &ngrams.numbering,
            counts,
            words,
        }
    }

    /// The information in bits of an n-gram that is in a reference.
    fn of(&self, ngram: u32) -> f64 {
        let count = |ngram: u32| self.counts[ngram as usize];
        let shorter = self.numbering.shorter(ngram).map_or(self.words, count);
        (f64::from(shorter) / f64::from(count(ngram))).log2()
    }
}

/// The factor for outputs whose length has this ratio to that of their references.
fn penalty(ratio: f64) -> f64 {
    let beta = 0.5f64.ln() / 1.5f64.ln().powi(2);
    (beta * ratio.min(1.0).ln().powi(2)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_computed_values() {
        let references = ["a b c d e f".to_owned()];
        let of = |output| {
            nist(&[Segment {
                output,
                references: &references,
            }])
        };
        // Each word has log2(6) bits. Each longer n-gram has none, since its start has one continuation.
        assert!((of("a b c d e f").unwrap() - 6f64.log2()).abs() < 1e-12);
        // Five of six words, and the penalty for that length.
        let short = 0.5f64.powf((5.0f64 / 6.0).ln().powi(2) / 1.5f64.ln().powi(2));
        assert!((of("a b c d e").unwrap() - 6f64.log2() * short).abs() < 1e-12);
        assert_eq!(of("u v w x y z").unwrap(), 0.0);
    }

    #[test]
    fn outputs_without_five_words_have_no_score() {
        let references = ["a b c d e f".to_owned()];
        for output in ["", "a", "a b", "a b c", "a b c d"] {
            assert_eq!(
                nist(&[Segment {
                    output,
                    references: &references
                }]),
                None,
                "{output}"
            );
        }
        assert_eq!(nist(&[]), None);
    }
}

//! Corpus BLEU-4 over several references (Papineni et al. 2002), as e2e-metrics' `pymteval.py` computes it.

use super::{
    Segment,
    ngrams::{self, CorpusNgrams, SegmentNgrams},
};

/// The maximum n-gram length.
const ORDER: usize = 4;

/// BLEU-4 of a corpus, in 0..=1. Each pair is an output and its references, of which there must be at least one.
///
/// The words are mteval-v13a's in lower case. The brevity penalty uses the reference closest in length, and the shorter one of two equally
/// close. The result equals that of `pymteval.py` also where other programs differ:
///
/// - A text without words has one word, which is empty.
/// - An output of m words adds m - n + 1 to the number of n-grams, also where that is negative.
/// - No n-gram in common counts as 1e-15 n-grams, and no n-gram at all as 1e-9. So the score is small then, but not 0.
///
/// The score of no pair is 0.
pub fn bleu<'a, R: AsRef<str> + 'a>(corpus: impl IntoIterator<Item = (&'a str, &'a [R])>) -> f64 {
    let mut ngrams = CorpusNgrams::default();
    for (output, references) in corpus {
        ngrams.push_mteval(output, references, ORDER);
    }
    bleu_of(&ngrams)
}

/// BLEU-4 of one segment with 1 added to all counts, as for the column `sentBLEU` of e2e-metrics.
///
/// It exceeds 1 for outputs of fewer than three words, since the number of their n-grams is negative.
pub fn smoothed_bleu(segment: Segment<'_>) -> f64 {
    let mut ngrams = CorpusNgrams::default();
    ngrams.push_mteval(segment.output, segment.references, ORDER);
    Counts::new(&ngrams).score(1.0)
}

/// BLEU-4 of n-grams up to 4 or longer.
pub(super) fn bleu_of(ngrams: &CorpusNgrams) -> f64 {
    if ngrams.segments.is_empty() {
        return 0.0;
    }
    Counts::new(ngrams).score(0.0)
}

#[derive(Default)]
struct Counts {
    /// N-grams of the outputs that are in a reference, by n - 1.
    hits: [u32; ORDER],
    /// All n-grams of the outputs, by n - 1. Outputs shorter than n - 1 words take some away.
    all: [i64; ORDER],
    /// Total words of the closest references.
    references: usize,
}

impl Counts {
    fn new(ngrams: &CorpusNgrams) -> Self {
        let mut counts = Self::default();
        for (segment, hits) in ngrams.segments.iter().zip(&ngrams.hits) {
            counts.add(segment, hits);
        }
        counts
    }

    fn add(&mut self, segment: &SegmentNgrams, hits: &[ngrams::Counts]) {
        let length = segment.output[0].len();
        for n in 0..ORDER {
            self.hits[n] += hits[n].iter().map(|(_, hits)| hits).sum::<u32>();
            self.all[n] += length as i64 - n as i64;
        }
        let lengths = segment
            .references
            .iter()
            .map(|reference| reference[0].len());
        let closest = lengths.min_by_key(|&other| (other.abs_diff(length), other));
        self.references += closest.unwrap_or(0);
    }

    /// The score with a number added to all counts.
    fn score(&self, added: f64) -> f64 {
        let precision = |(&hits, &all): (&u32, &i64)| {
            let hits = (f64::from(hits) + added).max(1e-15);
            let all = (all as f64 + added).max(1e-9);
            (hits / all).ln()
        };
        let precisions: f64 = self.hits.iter().zip(&self.all).map(precision).sum();
        let brevity = (1.0 - self.references as f64 / self.all[0] as f64).min(0.0);
        (brevity + precisions / ORDER as f64).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(output: &str, references: &[&str]) -> f64 {
        bleu([(output, references)])
    }

    #[test]
    fn hand_computed_values() {
        // 7 tokens: 6 words, 4 bigrams, 2 trigrams and 1 four-gram ("a b c d") of 7, 6, 5 and 4 are in the reference.
        let reference = ["a b c d x e f"];
        let hits = 6.0 / 7.0 * (4.0 / 6.0) * (2.0 / 5.0) * (1.0 / 4.0);
        let expected = f64::powf(hits, 0.25);
        assert!((one("a b c d e f g", &reference) - expected).abs() < 1e-12);
        // A word counts at most as often as in the reference that has it most often: 2 of 5.
        let twice = ["a a b c d", "a b c d e"];
        let hits = 4.0f64 / 5.0 * (3.0 / 4.0) * (2.0 / 3.0) * (1.0 / 2.0);
        assert!((one("a b c d d", &twice) - hits.powf(0.25)).abs() < 1e-12);
    }

    #[test]
    fn short_outputs_are_penalised_against_the_closest_reference() {
        let whole = "a b c d e f";
        let references = [whole, "a b c d e f g h i j k l"];
        assert!((one(whole, &references) - 1.0).abs() < 1e-12);
        // 4 tokens; references of 6 and 12: exp(1 - 6 / 4).
        assert!((one("a b c d", &references) - (-0.5f64).exp()).abs() < 1e-12);
        // The shorter of two equally close references counts, so there is no penalty.
        assert!((one("a b c d e", &["a b c d", "a b c d e f"]) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn counts_are_summed_over_the_corpus() {
        let references = [["a b c d"], ["p q r s"]];
        let corpus = [
            ("a b c d", &references[0][..]),
            ("p q r", &references[1][..]),
        ];
        let precisions = 1.0f64 * 1.0 * 1.0 * 1.0;
        let expected = (1.0 - 8.0 / 7.0f64).exp() * precisions;
        assert!((bleu(corpus) - expected).abs() < 1e-12);
    }

    /// Values of `pymteval.py`.
    #[test]
    fn short_and_empty_outputs_have_small_scores() {
        let close = |found: f64, expected: f64| {
            let error = (found - expected).abs();
            assert!(error < 1e-9 * expected.max(1e-9), "{found}, not {expected}");
        };
        // No four-gram at all: (1e-15 / 1e-9)^(1/4).
        close(one("a b c", &["a b c"]), 1e-6f64.powf(0.25));
        // No four-gram in common, of two.
        close(
            one("a b c x d", &["a b c d"]),
            (0.8 * 0.5 / 3.0 * 1e-15 / 2.0f64).powf(0.25),
        );
        // An empty text is one word: exp(1 - 4) * (1e-15 / 1 * 1e-6^3)^(1/4).
        close(one("", &["a b c d"]), (-3.0f64).exp() * 1e-33f64.powf(0.25));
        assert_eq!(bleu::<&str>([]), 0.0);
    }

    /// The output of one word takes two trigrams and three four-grams less one away.
    #[test]
    fn a_short_output_takes_ngrams_away() {
        let references = [["a b c d e"], ["x"]];
        let corpus = [("a b c d e", &references[0][..]), ("x", &references[1][..])];
        // 6 of 6 words, 4 of 4 bigrams, 3 trigrams of 3 - 1, 2 four-grams of 2 - 2, which counts as 1e-9.
        let expected = (1.0 * 1.0 * (3.0 / 2.0) * (2.0 / 1e-9f64)).powf(0.25);
        assert!((bleu(corpus) / expected - 1.0).abs() < 1e-12);
    }
}

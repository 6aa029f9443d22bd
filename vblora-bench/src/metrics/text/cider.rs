//! CIDEr over several references (Vedantam et al. 2015), as e2e-metrics and coco-caption compute it.

use super::{
    Tokenized, mean,
    ngrams::{CorpusNgrams, Counts, Ngrams, common, count},
};

/// The maximum n-gram length.
const ORDER: usize = 4;

/// The standard deviation, in bigrams, of the penalty for a difference in length.
const SIGMA: f64 = 6.0;

/// CIDEr of each segment, in 0..=10; the score of a corpus is their mean.
///
/// An n-gram weighs more the fewer segments have it in a reference. In a corpus of one segment all weights are 0, and so is the score.
pub fn cider(corpus: &Tokenized) -> Vec<f64> {
    let mut ngrams = CorpusNgrams::default();
    let words = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for (output, references) in corpus.outputs.iter().zip(&corpus.references) {
        let references = references.iter().map(|text| words(text));
        ngrams.push(&words(output), references, ORDER);
    }
    let weights = weights(&ngrams);
    let segments = ngrams.segments.iter().map(|segment| {
        let output = Vector::new(&segment.output, &weights);
        let references = segment.references.iter();
        let similarities = references.map(|text| output.similarity(&Vector::new(text, &weights)));
        10.0 * mean(&similarities.collect::<Vec<_>>())
    });
    segments.collect()
}

/// The weight of each n-gram by its number: ln of the number of segments per segment that has it in a reference.
fn weights(ngrams: &CorpusNgrams) -> Vec<f64> {
    let mut segments_with = vec![0u32; ngrams.numbering.len()];
    for segment in &ngrams.segments {
        let mut found: Vec<u32> = segment
            .references
            .iter()
            .flatten()
            .flatten()
            .copied()
            .collect();
        found.sort_unstable();
        found.dedup();
        for ngram in found {
            segments_with[ngram as usize] += 1;
        }
    }
    let all = (ngrams.segments.len() as f64).ln();
    let weight = |count: &u32| all - f64::from(*count.max(&1)).ln();
    segments_with.iter().map(weight).collect()
}

/// The weighted n-grams of a text.
struct Vector<'a> {
    counts: Vec<Counts>,
    weights: &'a [f64],
    /// Euclidean norms, by n - 1.
    norms: [f64; ORDER],
    /// The number of bigrams, which stands for the length.
    bigrams: usize,
}

impl<'a> Vector<'a> {
    fn new(text: &Ngrams, weights: &'a [f64]) -> Self {
        let counts: Vec<_> = text.iter().map(|ngrams| count(ngrams)).collect();
        let square =
            |&(ngram, count): &(u32, u32)| (f64::from(count) * weights[ngram as usize]).powi(2);
        let norm = |n: usize| counts[n].iter().map(square).sum::<f64>().sqrt();
        Self {
            norms: std::array::from_fn(norm),
            bigrams: text[1].len(),
            counts,
            weights,
        }
    }

    /// The mean over n of the cosine to a reference, where no n-gram counts more often than in the reference. It falls with the difference
    /// in length.
    fn similarity(&self, reference: &Self) -> f64 {
        let cosine = |n: usize| {
            let product = |(ngram, count, other): (u32, u32, u32)| {
                let weight = self.weights[ngram as usize];
                f64::from(count.min(other)) * f64::from(other) * weight * weight
            };
            let product: f64 = common(&self.counts[n], &reference.counts[n])
                .map(product)
                .sum();
            let norms = self.norms[n] * reference.norms[n];
            if norms == 0.0 { 0.0 } else { product / norms }
        };
        let cosines: [f64; ORDER] = std::array::from_fn(cosine);
        let difference = self.bigrams as f64 - reference.bigrams as f64;
        mean(&cosines) * (-difference.powi(2) / (2.0 * SIGMA * SIGMA)).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(segments: &[(&str, &[&str])]) -> Vec<f64> {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        cider(&Tokenized {
            outputs: segments
                .iter()
                .map(|(output, _)| (*output).to_owned())
                .collect(),
            references: segments
                .iter()
                .map(|(_, references)| owned(references))
                .collect(),
        })
    }

    #[test]
    fn equal_texts_score_ten_and_different_ones_nothing() {
        let found = scores(&[("a b c d", &["a b c d"]), ("a b c d", &["p q r s"])]);
        assert!((found[0] - 10.0).abs() < 1e-12, "{found:?}");
        assert_eq!(found[1], 0.0);
    }

    #[test]
    fn one_segment_scores_nothing() {
        assert_eq!(scores(&[("a b c d", &["a b c d"])]), [0.0]);
        assert_eq!(scores(&[]), [0.0; 0]);
    }

    /// Twice the reference: its words count once each, and two bigrams more are penalised.
    #[test]
    fn words_are_worth_their_rarity_and_lengths_must_agree() {
        let found = scores(&[("a b", &["a b"]), ("x", &["y"])]);
        // No trigram or four-gram: two of four cosines.
        assert!((found[0] - 5.0).abs() < 1e-12, "{found:?}");
        let long = scores(&[("a b a b", &["a b"]), ("x", &["y"])]);
        let cosines = [0.5, 1.0 / 5f64.sqrt(), 0.0, 0.0];
        let expected = 10.0 * mean(&cosines) * (-4.0f64 / 72.0).exp();
        assert!((long[0] - expected).abs() < 1e-12, "{long:?}");
    }
}

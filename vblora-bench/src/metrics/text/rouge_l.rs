//! ROUGE-L over several references (Lin 2004), as e2e-metrics and coco-caption compute it.

use super::Tokenized;

/// The weight of recall against precision.
const BETA: f64 = 1.2;

/// ROUGE-L of each segment, in 0..=1; the score of a corpus is their mean.
///
/// The best precision and the best recall are taken over all references, each on its own. A text without words has one word, which is
/// empty. Google's `rouge_score` is another metric.
pub fn rouge_l(corpus: &Tokenized) -> Vec<f64> {
    let segments = corpus.outputs.iter().zip(&corpus.references);
    segments
        .map(|(output, references)| segment(output, references))
        .collect()
}

fn segment(output: &str, references: &[String]) -> f64 {
    let output: Vec<_> = output.split(' ').collect();
    let (mut precision, mut recall) = (0.0f64, 0.0f64);
    for reference in references {
        let reference: Vec<_> = reference.split(' ').collect();
        let common = longest_common_subsequence(&output, &reference) as f64;
        precision = precision.max(common / output.len() as f64);
        recall = recall.max(common / reference.len() as f64);
    }
    if precision == 0.0 || recall == 0.0 {
        return 0.0;
    }
    let weight = BETA * BETA;
    (1.0 + weight) * precision * recall / (recall + weight * precision)
}

/// The number of words in the longest common subsequence.
fn longest_common_subsequence(one: &[&str], other: &[&str]) -> usize {
    // The lengths for all starts of `other`, after each word of `one`.
    let mut lengths = vec![0; other.len() + 1];
    for word in one {
        let mut diagonal = 0;
        for (at, found) in other.iter().enumerate() {
            let above = lengths[at + 1];
            lengths[at + 1] = if word == found {
                diagonal + 1
            } else {
                above.max(lengths[at])
            };
            diagonal = above;
        }
    }
    lengths[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsequences_keep_the_order() {
        let length = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|text| text.split(' ').collect::<Vec<_>>());
            longest_common_subsequence(&one, &other)
        };
        assert_eq!(length("a b c d", "a x c y d"), 3);
        assert_eq!(length("a b", "b a"), 1);
        assert_eq!(length("a a a", "a a"), 2);
        assert_eq!(length("a", "b"), 0);
    }

    #[test]
    fn precision_and_recall_may_be_of_different_references() {
        let references = ["a b x y".to_owned(), "a".to_owned()];
        // Precision 2/2 by the first reference, recall 1/1 by the second.
        assert!((segment("a b", &references) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn an_empty_text_is_one_word() {
        assert_eq!(segment("", &["a b".to_owned()]), 0.0);
        assert_eq!(segment("", &[String::new()]), 1.0);
    }
}

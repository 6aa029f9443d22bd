//! Corpus BLEU-4 over several references, as computed by mteval-v13a (Papineni et al. 2002).

use std::{collections::HashMap, sync::LazyLock};

use regex::Regex;

/// The maximum n-gram length.
const ORDER: usize = 4;

/// BLEU-4 of a corpus, in 0..=1. Each pair is an output and its references, of which there must be at least one.
///
/// The result equals that of e2e-metrics' `pymteval.py`. It uses mteval-v13a's tokens in lower case. The brevity penalty uses the reference
/// closest in length, and the shorter one of two equally close. There is no smoothing: BLEU is 0 if no n-gram of some order is in a
/// reference, or if there is none.
pub fn bleu<'a, R: AsRef<str> + 'a>(corpus: impl IntoIterator<Item = (&'a str, &'a [R])>) -> f64 {
    let mut counts = Counts::default();
    for (output, references) in corpus {
        let references: Vec<_> = references.iter().map(|r| tokens(r.as_ref())).collect();
        counts.add(&tokens(output), &references);
    }
    counts.score()
}

#[derive(Default)]
struct Counts {
    /// N-grams of the outputs that are in a reference, by n - 1.
    hits: [usize; ORDER],
    /// All n-grams of the outputs, by n - 1.
    all: [usize; ORDER],
    /// Total tokens of the closest references.
    references: usize,
}

impl Counts {
    fn add(&mut self, output: &[String], references: &[Vec<String>]) {
        for n in 1..=ORDER {
            let mut allowed: HashMap<&[String], usize> = HashMap::new();
            for reference in references {
                for (ngram, count) in ngrams(reference, n) {
                    let most = allowed.entry(ngram).or_default();
                    *most = count.max(*most);
                }
            }
            let hit = |(ngram, count): (&[String], usize)| {
                count.min(allowed.get(ngram).copied().unwrap_or(0))
            };
            self.hits[n - 1] += ngrams(output, n).into_iter().map(hit).sum::<usize>();
            self.all[n - 1] += (output.len() + 1).saturating_sub(n);
        }
        let lengths = references.iter().map(Vec::len);
        let closest = lengths.min_by_key(|&length| (length.abs_diff(output.len()), length));
        self.references += closest.unwrap_or(0);
    }

    fn score(&self) -> f64 {
        if self.hits.contains(&0) {
            return 0.0;
        }
        let precision = |(&hits, &all): (&usize, &usize)| (hits as f64 / all as f64).ln();
        let precisions: f64 = self.hits.iter().zip(&self.all).map(precision).sum();
        let brevity = (1.0 - self.references as f64 / self.all[0] as f64).min(0.0);
        (brevity + precisions / ORDER as f64).exp()
    }
}

fn ngrams(tokens: &[String], n: usize) -> HashMap<&[String], usize> {
    let mut counts = HashMap::new();
    for ngram in tokens.windows(n) {
        *counts.entry(ngram).or_default() += 1;
    }
    counts
}

/// Tokenizes a text in a Western language like mteval-v13a, in lower case.
fn tokens(text: &str) -> Vec<String> {
    static RULES: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
        [
            // Separates punctuation other than full stops, commas, hyphens and apostrophes.
            (r"([\{-\~\[-\x60 -\&\(-\+:-@/])", " $1 "),
            // Separates full stops and commas, unless a digit is before or after them.
            (r"([^0-9])([.,])", "$1 $2 "),
            (r"([.,])([^0-9])", " $1 $2"),
            // Separates a hyphen after a digit.
            (r"([0-9])(-)", "$1 $2 "),
        ]
        .map(|(rule, with)| (Regex::new(rule).expect("a constant"), with))
    });
    const ENTITIES: [(&str, &str); 7] = [
        ("<skipped>", ""),
        ("-\n", ""),
        ("\n", " "),
        ("&quot;", "\""),
        ("&amp;", "&"),
        ("&lt;", "<"),
        ("&gt;", ">"),
    ];
    let text = ENTITIES
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    let text = RULES
        .iter()
        .fold(format!(" {text} "), |text, (rule, with)| {
            rule.replace_all(&text, *with).into_owned()
        });
    text.split_whitespace().map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, path::PathBuf};

    use super::*;

    fn one(output: &str, references: &[&str]) -> f64 {
        bleu([(output, references)])
    }

    #[test]
    fn tokens_are_those_of_mteval() {
        let found = |text: &str| tokens(text).join(" ");
        assert_eq!(
            found("It's near Café-Bar, (20-25)."),
            "it's near café-bar , ( 20 - 25 ) ."
        );
        assert_eq!(found("£1,000.50 &amp; more..."), "£1,000.50 & more . . .");
        assert_eq!(found("1 out of 5,"), "1 out of 5 ,");
        assert_eq!(found(" a-\nb\nc <skipped>"), "ab c");
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

    #[test]
    fn nothing_in_common_and_nothing_at_all_are_zero() {
        assert_eq!(one("a b c", &["a b c"]), 0.0, "no four-gram at all");
        assert_eq!(one("", &["a b c d"]), 0.0);
        assert_eq!(
            one("a b c x d", &["a b c d"]),
            0.0,
            "no four-gram in common"
        );
        assert_eq!(bleu::<&str>([]), 0.0);
    }

    /// Blocks of lines with an empty line between them.
    fn blocks(text: &str) -> Vec<Vec<String>> {
        let lines: Vec<&str> = text.lines().collect();
        let blocks = lines.split(|line| line.is_empty());
        let owned = |block: &[&str]| block.iter().map(|&line| line.to_owned()).collect();
        blocks.filter(|b| !b.is_empty()).map(owned).collect()
    }

    /// The references of an E2E file by meaning representation, in order of first appearance.
    fn by_meaning(text: &str) -> Vec<Vec<String>> {
        let (mut places, mut groups) = (HashMap::new(), Vec::<Vec<String>>::new());
        for record in csv::Reader::from_reader(text.as_bytes()).records() {
            let record = record.unwrap();
            let place = *places.entry(record[0].to_owned()).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            groups[place].push(record[1].to_owned());
        }
        groups
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "a skipped test says why")]
    fn matches_the_scores_of_e2e_metrics() {
        let dir = PathBuf::from(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../shared/data/e2e/metric_checks"
        ));
        if !dir.is_dir() {
            println!("skipped: no {} in this checkout", dir.display());
            return;
        }
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        let golden: serde_json::Value = serde_json::from_str(&read("golden.json")).unwrap();
        let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let column = |line: &str| {
            line.split('\t')
                .nth(1)
                .unwrap()
                .trim_matches(['"', ' '])
                .to_owned()
        };
        let (dev, test) = ("../devset.csv", "../testset_w_refs.csv");
        let cases = [
            (
                blocks(&read("example_refs_devel-conc.txt")),
                lines(read("example_sys_baseline-output.txt")),
            ),
            (
                by_meaning(&read(dev)),
                lines(read("ukp_seed6_predictions.epoch14")),
            ),
            (
                by_meaning(&read(dev)),
                lines(read("ukp_seed1_predictions.epoch16")),
            ),
            (
                by_meaning(&read(test)),
                read("tgen_test.tsv").lines().skip(1).map(column).collect(),
            ),
        ];
        for (check, (references, outputs)) in golden["checks"].as_array().unwrap().iter().zip(cases)
        {
            assert_eq!(references.len(), outputs.len(), "{}", check["sys"]);
            let expected = check["computed"]["BLEU"].as_f64().unwrap();
            let corpus = outputs.iter().zip(&references);
            let found = bleu(corpus.map(|(output, of)| (output.as_str(), of.as_slice())));
            assert!(
                (found - expected).abs() < 5e-7,
                "{}: {found}, not {expected}",
                check["sys"]
            );
        }
    }
}

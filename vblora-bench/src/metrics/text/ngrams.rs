//! N-grams as numbers, which are cheaper to count and compare than words.

use std::collections::HashMap;

use super::mteval;

/// N-grams of one length with their counts, in ascending order.
pub(super) type Counts = Vec<(u32, u32)>;

/// The n-grams of a text in their order, for each n: `[n - 1][position]`.
pub(super) type Ngrams = Vec<Vec<u32>>;

/// The n-grams of an output and of its references.
pub(super) struct SegmentNgrams {
    pub(super) output: Ngrams,
    pub(super) references: Vec<Ngrams>,
}

impl SegmentNgrams {
    fn hits(&self) -> Vec<Counts> {
        let hits = self.output.iter().enumerate().map(|(n, output)| {
            hits(
                &count(output),
                self.references.iter().map(|reference| &reference[n][..]),
            )
        });
        hits.collect()
    }
}

/// The n-grams of a corpus.
#[derive(Default)]
pub(super) struct CorpusNgrams {
    pub(super) numbering: Numbering,
    pub(super) segments: Vec<SegmentNgrams>,
    /// The n-grams of each output that are in a reference, for each n. An n-gram counts at most as often as in the reference that has it
    /// most often. Only [`Self::push_mteval`] adds some.
    pub(super) hits: Vec<Vec<Counts>>,
}

impl CorpusNgrams {
    /// Adds an output and its references, each as words, with n-grams up to `longest`.
    pub(super) fn push<W: AsRef<str>>(
        &mut self,
        output: &[W],
        references: impl IntoIterator<Item = Vec<W>>,
        longest: usize,
    ) {
        let numbering = &mut self.numbering;
        self.segments.push(SegmentNgrams {
            output: numbering.ngrams(output, longest),
            references: references
                .into_iter()
                .map(|words| numbering.ngrams(&words, longest))
                .collect(),
        });
    }

    /// Adds an output and its references with n-grams of mteval's words up to `longest`, and the hits.
    pub(super) fn push_mteval<R: AsRef<str>>(
        &mut self,
        output: &str,
        references: &[R],
        longest: usize,
    ) {
        let references = references.iter().map(|text| mteval::words(text.as_ref()));
        self.push(&mteval::words(output), references, longest);
        let hits = self.segments.last().map(SegmentNgrams::hits);
        self.hits.extend(hits);
    }
}

/// Gives equal n-grams of a corpus equal numbers. An n-gram is the n-gram of all its words but the last, and its last word.
#[derive(Default)]
pub(super) struct Numbering {
    words: HashMap<String, u32>,
    longer: HashMap<(u32, u32), u32>,
    /// The n-gram without its last word, by number; a word has none.
    shorter: Vec<Option<u32>>,
}

impl Numbering {
    /// The n-grams of a text for each n from 1 to `longest`.
    fn ngrams<W: AsRef<str>>(&mut self, words: &[W], longest: usize) -> Ngrams {
        let words: Vec<u32> = words.iter().map(|word| self.word(word.as_ref())).collect();
        let mut all = vec![words.clone()];
        for n in 1..longest {
            let last = words.iter().skip(n);
            let pairs = all[n - 1].iter().zip(last);
            all.push(
                pairs
                    .map(|(&start, &last)| self.longer(start, last))
                    .collect(),
            );
        }
        all
    }

    fn word(&mut self, word: &str) -> u32 {
        if let Some(&number) = self.words.get(word) {
            return number;
        }
        let number = self.new_number(None);
        self.words.insert(word.to_owned(), number);
        number
    }

    fn longer(&mut self, start: u32, last: u32) -> u32 {
        if let Some(&number) = self.longer.get(&(start, last)) {
            return number;
        }
        let number = self.new_number(Some(start));
        self.longer.insert((start, last), number);
        number
    }

    fn new_number(&mut self, shorter: Option<u32>) -> u32 {
        let number = self.len() as u32;
        self.shorter.push(shorter);
        number
    }

    /// The n-gram without its last word, or `None` for a word.
    pub(super) fn shorter(&self, ngram: u32) -> Option<u32> {
        self.shorter[ngram as usize]
    }

    /// How many different n-grams there are. All their numbers are less.
    pub(super) fn len(&self) -> usize {
        self.shorter.len()
    }
}

/// Counts n-grams.
pub(super) fn count(ngrams: &[u32]) -> Counts {
    let mut sorted = ngrams.to_vec();
    sorted.sort_unstable();
    let runs = sorted.chunk_by(|a, b| a == b);
    runs.map(|run| (run[0], run.len() as u32)).collect()
}

/// The n-grams of an output that are in one of several texts. Each counts at most as often as in the text that has it most often.
fn hits<'a>(output: &Counts, texts: impl Iterator<Item = &'a [u32]>) -> Counts {
    let mut most = vec![0; output.len()];
    let mut counts = vec![0; output.len()];
    for text in texts {
        counts.fill(0);
        for ngram in text {
            if let Ok(at) = output.binary_search_by_key(ngram, |&(ngram, _)| ngram) {
                counts[at] += 1;
            }
        }
        for (most, count) in most.iter_mut().zip(&counts) {
            *most = (*most).max(*count);
        }
    }
    let hits = output.iter().zip(most);
    let hits = hits.map(|(&(ngram, count), most)| (ngram, count.min(most)));
    hits.filter(|&(_, hits)| hits > 0).collect()
}

/// The n-grams that are in both, with both counts.
pub(super) fn common<'a>(
    one: &'a Counts,
    other: &'a Counts,
) -> impl Iterator<Item = (u32, u32, u32)> + 'a {
    let mut rest = &other[..];
    one.iter().filter_map(move |&(ngram, count)| {
        while rest.first().is_some_and(|&(first, _)| first < ngram) {
            rest = &rest[1..];
        }
        let &(first, other) = rest.first()?;
        (first == ngram).then_some((ngram, count, other))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_ngrams_have_equal_numbers() {
        let mut numbering = Numbering::default();
        let one = numbering.ngrams(&["a", "b", "a", "b"], 3);
        let other = numbering.ngrams(&["b", "a", "b"], 3);
        assert_eq!(one[0][0], one[0][2]);
        assert_eq!(one[1][1..], other[1][..]);
        assert_eq!(one[2][1..], other[2][..]);
        assert_eq!(numbering.shorter(other[2][0]), Some(other[1][0]));
        assert_eq!(numbering.shorter(other[0][0]), None);
        // a, b; ab, ba; aba, bab
        assert_eq!(numbering.len(), 6);
        assert_eq!(
            numbering.ngrams(&["a"], 3),
            [vec![one[0][0]], vec![], vec![]]
        );
    }

    #[test]
    fn counts_are_clipped_by_the_text_that_has_most() {
        assert_eq!(count(&[3, 1, 3]), [(1, 1), (3, 2)]);
        let texts: [&[u32]; 2] = [&[3, 1, 3], &[3, 2, 2, 2]];
        let output = count(&[0, 3, 3, 3, 2, 9]);
        assert_eq!(hits(&output, texts.into_iter()), [(2, 1), (3, 2)]);
        let found: Vec<_> = common(&output, &count(&[3, 3, 9, 10])).collect();
        assert_eq!(found, [(3, 3, 2), (9, 1, 1)]);
    }
}

//! Texts as ROUGE-L, CIDEr and METEOR see them.

use super::{Segment, ptb_lines};

/// Tokens that are left out, as in e2e-metrics.
const PUNCTUATION: [&str; 17] = [
    "''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--",
    "...", ";",
];

/// A corpus as Penn Treebank tokens in lower case, without punctuation, with a blank between tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenized {
    /// The outputs.
    pub outputs: Vec<String>,
    /// The references of each output.
    pub references: Vec<Vec<String>>,
}

impl Tokenized {
    /// Tokenizes a corpus with [`ptb_lines`].
    pub fn new(corpus: &[Segment<'_>]) -> Self {
        let tokenized: Result<_, std::convert::Infallible> =
            Self::with(corpus, |lines| Ok(ptb_lines(lines)));
        let Ok(tokenized) = tokenized;
        tokenized
    }

    /// Tokenizes a corpus with another program. It is called once with all references and once with all outputs, as lines, and gives a line
    /// of tokens for each. Lines that it does not give are empty.
    ///
    /// # Errors
    /// The program's error.
    pub fn with<E>(
        corpus: &[Segment<'_>],
        mut tokenize: impl FnMut(&[String]) -> Result<Vec<String>, E>,
    ) -> Result<Self, E> {
        let references = corpus.iter().flat_map(|segment| segment.references);
        let references: Vec<_> = references.map(|text| on_one_line(text)).collect();
        let outputs: Vec<_> = corpus
            .iter()
            .map(|segment| on_one_line(segment.output))
            .collect();
        let mut references = tokenize(&references)?
            .into_iter()
            .map(|line| without_punctuation(&line));
        let outputs = tokenize(&outputs)?;
        let mut take = |count| references.by_ref().take(count).collect();
        Ok(Self {
            outputs: outputs
                .iter()
                .map(|line| without_punctuation(line))
                .collect(),
            references: corpus
                .iter()
                .map(|segment| take(segment.references.len()))
                .collect(),
        })
    }
}

fn without_punctuation(line: &str) -> String {
    let tokens = line.split(' ').filter(|token| !PUNCTUATION.contains(token));
    tokens.collect::<Vec<_>>().join(" ")
}

/// The text with blanks for line ends, as the tokenizers know them.
fn on_one_line(text: &str) -> String {
    const ENDS: [char; 7] = [
        '\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}',
    ];
    text.replace(ENDS, " ")
}

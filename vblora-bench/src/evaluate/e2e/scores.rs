//! The five scores of a corpus and of its segments.

use serde::Serialize;

use super::{JavaMetrics, java::Meteor};
use crate::{
    Error, Result,
    metrics::text::{
        Segment, TextScores, Tokenized, bleu, cider, nist, rouge_l, smoothed_bleu, text_scores,
    },
};

/// The scores of a corpus.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct E2eScores {
    /// All but METEOR.
    #[serde(flatten)]
    pub text: TextScores,
    /// METEOR 1.5 in 0..=1, or `None` without its program.
    pub meteor: Option<f64>,
}

impl E2eScores {
    /// The scores by the names of results, in the order of e2e-metrics' tables.
    pub fn named(&self) -> [(&'static str, Option<f64>); 5] {
        [
            ("bleu", Some(self.text.bleu)),
            ("nist", self.text.nist),
            ("meteor", self.meteor),
            ("rouge_l", Some(self.text.rouge_l)),
            ("cider", Some(self.text.cider)),
        ]
    }
}

/// The scores of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SegmentScores {
    /// BLEU-4, which is small if no four-gram is in a reference.
    pub bleu: f64,
    /// BLEU-4 with 1 added to all counts.
    pub smoothed_bleu: f64,
    /// NIST-5 of the segment as a corpus, or `None` for an output of four words or fewer.
    pub nist: Option<f64>,
    /// METEOR 1.5, or `None` without its program.
    pub meteor: Option<f64>,
    /// ROUGE-L.
    pub rouge_l: f64,
    /// CIDEr with the weights of the whole corpus.
    pub cider: f64,
}

/// A corpus with everything that its scores are made from.
#[derive(Debug)]
pub struct Scored<'a> {
    corpus: Vec<Segment<'a>>,
    tokenized: Tokenized,
    meteor: Option<Meteor>,
}

impl<'a> Scored<'a> {
    /// Tokenizes the texts, and runs METEOR if there is its program.
    ///
    /// # Errors
    /// There is no output. Outputs and lists of references differ in number. An output has no reference. A Java program fails.
    pub fn new(
        outputs: &'a [String],
        references: &'a [Vec<String>],
        java: Option<&JavaMetrics>,
    ) -> Result<Self> {
        check(outputs, references)?;
        let segment =
            |(output, references): (&'a String, &'a Vec<String>)| Segment { output, references };
        let corpus: Vec<_> = outputs.iter().zip(references).map(segment).collect();
        let tokenized = match java {
            Some(java) => java.tokenize(&corpus)?,
            None => Tokenized::new(&corpus),
        };
        let meteor = java.map(|java| java.meteor(&tokenized)).transpose()?;
        Ok(Self {
            corpus,
            tokenized,
            meteor,
        })
    }

    /// The texts as METEOR, ROUGE-L and CIDEr see them.
    pub fn tokenized(&self) -> &Tokenized {
        &self.tokenized
    }

    /// The scores of the corpus.
    pub fn scores(&self) -> E2eScores {
        E2eScores {
            text: text_scores(&self.corpus, &self.tokenized),
            meteor: self.meteor.as_ref().map(|meteor| meteor.corpus),
        }
    }

    /// The scores of each segment.
    pub fn segments(&self) -> Vec<SegmentScores> {
        let rouge_l = rouge_l(&self.tokenized);
        let cider = cider(&self.tokenized);
        let segment = |(at, &segment): (usize, &Segment<'_>)| SegmentScores {
            bleu: bleu([(segment.output, segment.references)]),
            smoothed_bleu: smoothed_bleu(segment),
            nist: nist(&[segment]),
            meteor: self.meteor.as_ref().map(|meteor| meteor.segments[at]),
            rouge_l: rouge_l[at],
            cider: cider[at],
        };
        self.corpus.iter().enumerate().map(segment).collect()
    }
}

fn check(outputs: &[String], references: &[Vec<String>]) -> Result<()> {
    let wrong = |expected: String, found: String| {
        Err(Error::Score {
            task: "e2e".to_owned(),
            expected,
            found,
        })
    };
    if outputs.is_empty() {
        return wrong("an output".to_owned(), "none".to_owned());
    }
    if outputs.len() != references.len() {
        let expected = format!("references for {} outputs", outputs.len());
        return wrong(expected, format!("references for {}", references.len()));
    }
    match references.iter().position(Vec::is_empty) {
        Some(at) => wrong(
            format!("a reference for output {}", at + 1),
            "none".to_owned(),
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_without_references_are_refused() {
        let texts = |count: usize| vec!["a".to_owned(); count];
        for (outputs, references, expected) in [
            (0, vec![], "expected an output, found none"),
            (
                2,
                vec![texts(1)],
                "expected references for 2 outputs, found references for 1",
            ),
            (
                2,
                vec![texts(1), vec![]],
                "expected a reference for output 2, found none",
            ),
        ] {
            let error = Scored::new(&texts(outputs), &references, None).unwrap_err();
            assert_eq!(error.to_string(), format!("cannot score e2e: {expected}"));
        }
    }
}

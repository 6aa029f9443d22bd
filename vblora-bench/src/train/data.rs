//! Encodes sentences as token ids.

use std::borrow::Cow;

use vblora::storage::sha256_hex;
use vblora_models::{Encoded, Labels, PaddedBatch, TextTokenizer, pad};

use crate::{
    Error, Result,
    tasks::{Label, Split, class_counts, own::StoredSplit},
};

/// Splits of the user's own data with more bytes of text than this are encoded batch by batch, as they are needed. Tokens take several
/// times the memory of text, and a million rows take a minute to encode.
const WHOLE_BYTES: usize = 8 << 20;

/// The number of texts of own data that are encoded at a time. The tokenizer's own form of tokens takes some 150 bytes for each.
const CHUNK: usize = 1 << 11;

/// The number of texts of such a split from which the number of truncated ones is estimated.
const SAMPLE: usize = 10_000;

/// A split as tokens.
#[derive(Debug)]
pub struct EncodedSplit {
    inputs: Inputs,
    /// The weight of each class in the loss; all weigh the same if empty.
    class_weights: Vec<f32>,
}

/// The examples of a split.
#[derive(Debug)]
enum Inputs {
    /// All of them are encoded.
    Encoded {
        encoded: Vec<Encoded>,
        labels: Vec<Label>,
    },
    /// Each is encoded when a batch needs it.
    Stored(Box<Stored>),
}

/// Examples as text.
#[derive(Debug)]
struct Stored {
    split: StoredSplit,
    tokenizer: TextTokenizer,
    max_length: usize,
    /// The number of texts that are longer than the maximum length, estimated.
    truncated: u64,
}

impl Stored {
    /// The number of texts that are cut, estimated from a sample.
    fn estimate(&self) -> Result<u64> {
        let rows = self.split.len();
        let sampled = SAMPLE.min(rows);
        let sample: Vec<usize> = (0..sampled).map(|i| i * rows / sampled).collect();
        let mut cut = 0;
        for rows in sample.chunks(CHUNK) {
            let encoded = self.encode(rows)?;
            cut += encoded.iter().filter(|encoded| encoded.truncated).count();
        }
        Ok((cut * rows / sampled.max(1)) as u64)
    }

    fn encode(&self, rows: &[usize]) -> Result<Vec<Encoded>> {
        let texts: Vec<_> = rows.iter().map(|&row| self.split.texts(row)).collect();
        Ok(self.tokenizer.encode_batch(&texts, self.max_length)?)
    }
}

/// A padded batch and its labels.
#[derive(Debug)]
pub struct LabelledBatch {
    /// Ids, type ids and mask.
    pub inputs: PaddedBatch,
    /// One label per row.
    pub labels: Labels,
}

impl EncodedSplit {
    /// Encodes a split. Inputs longer than `max_length` tokens are truncated.
    ///
    /// # Errors
    /// The tokenizer refuses a text.
    pub fn new(split: &Split, tokenizer: &TextTokenizer, max_length: usize) -> Result<Self> {
        let texts: Vec<_> = split
            .examples
            .iter()
            .map(|e| (e.a.as_str(), e.b.as_deref()))
            .collect();
        let encoded = tokenizer.encode_batch(&texts, max_length)?;
        let labels = split.examples.iter().map(|e| e.label.clone()).collect();
        Ok(Self::whole(encoded, labels))
    }

    /// A split of the user's own data. A large one is encoded as it is needed.
    ///
    /// # Errors
    /// The tokenizer refuses a text.
    pub fn of_stored(
        split: StoredSplit,
        tokenizer: &TextTokenizer,
        max_length: usize,
    ) -> Result<Self> {
        let mut stored = Stored {
            split,
            tokenizer: tokenizer.clone(),
            max_length,
            truncated: 0,
        };
        let rows = 0..stored.split.len();
        let bytes: usize = rows.clone().map(|row| stored.split.bytes(row)).sum();
        if bytes <= WHOLE_BYTES {
            let mut encoded = Vec::with_capacity(rows.len());
            for rows in rows.collect::<Vec<_>>().chunks(CHUNK) {
                encoded.extend(stored.encode(rows)?);
            }
            return Ok(Self::whole(encoded, stored.split.labels()));
        }
        stored.truncated = stored.estimate()?;
        Ok(Self {
            inputs: Inputs::Stored(Box::new(stored)),
            class_weights: Vec::new(),
        })
    }

    fn whole(encoded: Vec<Encoded>, labels: Vec<Label>) -> Self {
        Self {
            inputs: Inputs::Encoded { encoded, labels },
            class_weights: Vec::new(),
        }
    }

    /// The same split with a weight for each class in the loss, by class id.
    #[must_use]
    pub fn with_class_weights(self, class_weights: Vec<f32>) -> Self {
        Self {
            class_weights,
            ..self
        }
    }

    /// The tokens in the split's order, in chunks that bound the memory they take.
    pub(super) fn chunks(&self) -> impl Iterator<Item = Result<Cow<'_, [Encoded]>>> {
        let chunk = match self.inputs {
            Inputs::Encoded { .. } => self.len(),
            Inputs::Stored(_) => CHUNK,
        };
        (0..self.len()).step_by(chunk.max(1)).map(move |start| {
            let end = (start + chunk).min(self.len());
            match &self.inputs {
                Inputs::Encoded { encoded, .. } => Ok(Cow::Borrowed(&encoded[start..end])),
                Inputs::Stored(stored) => {
                    let rows: Vec<usize> = (start..end).collect();
                    stored.encode(&rows).map(Cow::Owned)
                }
            }
        })
    }

    /// The number of examples.
    pub fn len(&self) -> usize {
        match &self.inputs {
            Inputs::Encoded { encoded, .. } => encoded.len(),
            Inputs::Stored(stored) => stored.split.len(),
        }
    }

    /// Returns true if there are no examples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of truncated inputs. For a large split of the user's own data it is an estimate from 10,000 of them.
    pub fn truncated(&self) -> u64 {
        match &self.inputs {
            Inputs::Encoded { encoded, .. } => {
                encoded.iter().filter(|e| e.truncated).count() as u64
            }
            Inputs::Stored(stored) => stored.truncated,
        }
    }

    /// Returns true if [`truncated`](Self::truncated) is an estimate.
    pub fn is_estimate(&self) -> bool {
        match &self.inputs {
            Inputs::Encoded { .. } => false,
            Inputs::Stored(stored) => stored.split.len() > SAMPLE,
        }
    }

    /// The labels in the split's order.
    pub fn labels(&self) -> Cow<'_, [Label]> {
        match &self.inputs {
            Inputs::Encoded { labels, .. } => labels.into(),
            Inputs::Stored(stored) => stored.split.labels().into(),
        }
    }

    /// The number of examples of each class.
    pub fn counts(&self, classes: usize) -> Vec<usize> {
        match &self.inputs {
            Inputs::Encoded { labels, .. } => class_counts(labels, classes),
            Inputs::Stored(stored) => stored.split.counts(classes),
        }
    }

    /// SHA-256 of every token and label, or of every text and label of a large split of the user's own data.
    pub fn sha256(&self) -> String {
        let (encoded, labels) = match &self.inputs {
            Inputs::Encoded { encoded, labels } => (encoded, labels),
            Inputs::Stored(stored) => return stored.split.sha256(),
        };
        let example = |(encoded, label): (&Encoded, &Label)| {
            let words = encoded.ids.iter().chain(&encoded.type_ids);
            let mut bytes = (encoded.ids.len() as u64).to_le_bytes().to_vec();
            bytes.extend(words.flat_map(|word| word.to_le_bytes()));
            bytes.extend(label_words(label).flat_map(u64::to_le_bytes));
            bytes
        };
        sha256_hex(encoded.iter().zip(labels).map(example))
    }

    /// The length of an example: its tokens, or its bytes of text in a large split of the user's own data.
    pub fn length(&self, row: usize) -> usize {
        match &self.inputs {
            Inputs::Encoded { encoded, .. } => encoded[row].ids.len(),
            Inputs::Stored(stored) => stored.split.bytes(row),
        }
    }

    /// Builds a batch of the chosen examples, padded to the longest of them.
    ///
    /// # Errors
    /// The labels have two kinds; the tokenizer refuses a text.
    pub fn batch(&self, rows: &[usize], pad_id: u32) -> Result<LabelledBatch> {
        let fresh;
        let (inputs, all): (Vec<&Encoded>, Vec<Label>) = match &self.inputs {
            Inputs::Encoded { encoded, labels } => (
                rows.iter().map(|&i| &encoded[i]).collect(),
                rows.iter().map(|&i| labels[i].clone()).collect(),
            ),
            Inputs::Stored(stored) => {
                fresh = stored.encode(rows)?;
                (
                    fresh.iter().collect(),
                    rows.iter().map(|&i| stored.split.label(i)).collect(),
                )
            }
        };
        Ok(LabelledBatch {
            inputs: pad(&inputs, pad_id),
            labels: self.weighted(labels(all.iter())?),
        })
    }

    /// The labels with the weights of their classes, if the split has weights.
    fn weighted(&self, labels: Labels) -> Labels {
        match labels {
            Labels::Classes(classes) if !self.class_weights.is_empty() => {
                let weights = classes.iter().map(|&class| self.class_weights[class]);
                Labels::Weighted {
                    weights: weights.collect(),
                    classes,
                }
            }
            labels => labels,
        }
    }
}

/// A label as numbers, for hashes. A set begins with its size.
fn label_words(label: &Label) -> impl Iterator<Item = u64> {
    let words = match label {
        Label::Class(class) => vec![*class as u64],
        Label::Classes(set) => {
            let size = std::iter::once(set.len() as u64);
            size.chain(set.iter().map(|class| *class as u64)).collect()
        }
        Label::Value(score) => vec![u64::from(score.to_bits())],
    };
    words.into_iter()
}

fn labels<'a>(all: impl Iterator<Item = &'a Label>) -> Result<Labels> {
    let (mut classes, mut sets, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for label in all {
        match label {
            Label::Class(class) => classes.push(*class),
            Label::Classes(set) => sets.push(set.clone()),
            Label::Value(value) => values.push(*value),
        }
    }
    match (classes.is_empty(), sets.is_empty(), values.is_empty()) {
        (false, true, true) => Ok(Labels::Classes(classes)),
        (true, false, true) => Ok(Labels::Sets(sets)),
        (true, true, false) => Ok(Labels::Scores(values)),
        _ => Err(Error::Setting {
            setting: "labels".into(),
            expected: "classes, sets of classes or scores".into(),
            found: found(classes.len(), sets.len(), values.len()),
        }),
    }
}

fn found(classes: usize, sets: usize, values: usize) -> String {
    let sets = match sets {
        0 => String::new(),
        sets => format!(", {sets} sets of classes"),
    };
    format!("{classes} classes{sets} and {values} scores in one batch")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(n: usize) -> EncodedSplit {
        let one = |i: usize| Encoded {
            ids: vec![5; 3 + (i * 7) % 11],
            type_ids: vec![0; 3 + (i * 7) % 11],
            truncated: i == 2,
        };
        EncodedSplit::whole((0..n).map(one).collect(), vec![Label::Class(1); n])
    }

    #[test]
    fn truncated_inputs_are_counted() {
        assert_eq!(split(50).truncated(), 1);
        assert_eq!([0, 1, 2].map(|row| split(3).length(row)), [3, 10, 6]);
    }

    #[test]
    fn mixed_labels_are_refused() {
        let mut split = split(3);
        let Inputs::Encoded { labels, .. } = &mut split.inputs else {
            unreachable!("made whole")
        };
        labels[1] = Label::Value(2.5);
        assert!(split.batch(&[0, 2], 1).is_ok());
        assert!(
            split
                .batch(&[0, 1], 1)
                .unwrap_err()
                .to_string()
                .contains("1 classes and 1 scores")
        );
    }
}

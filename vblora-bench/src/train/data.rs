//! Encodes sentences as token ids.

use vblora::storage::sha256_hex;
use vblora_models::{Encoded, Labels, PaddedBatch, TextTokenizer, pad};

use crate::{
    Error, Result,
    tasks::{Label, Split},
};

/// A tokenized split.
#[derive(Debug)]
pub struct EncodedSplit {
    encoded: Vec<Encoded>,
    labels: Vec<Label>,
    /// The weight of each class in the loss; all weigh the same if empty.
    class_weights: Vec<f32>,
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
        Ok(Self {
            encoded,
            labels: split.examples.iter().map(|e| e.label.clone()).collect(),
            class_weights: Vec::new(),
        })
    }

    /// The same split with a weight for each class in the loss, by class id.
    #[must_use]
    pub fn with_class_weights(self, class_weights: Vec<f32>) -> Self {
        Self {
            class_weights,
            ..self
        }
    }

    /// The tokens in the split's order.
    pub(super) fn encoded(&self) -> &[Encoded] {
        &self.encoded
    }

    /// The number of examples.
    pub fn len(&self) -> usize {
        self.encoded.len()
    }

    /// Returns true if there are no examples.
    pub fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }

    /// The number of truncated inputs.
    pub fn truncated(&self) -> u64 {
        self.encoded.iter().filter(|e| e.truncated).count() as u64
    }

    /// The labels in the split's order.
    pub fn labels(&self) -> &[Label] {
        &self.labels
    }

    /// SHA-256 of every token and label.
    pub fn sha256(&self) -> String {
        let example = |(encoded, label): (&Encoded, &Label)| {
            let words = encoded.ids.iter().chain(&encoded.type_ids);
            let mut bytes = (encoded.ids.len() as u64).to_le_bytes().to_vec();
            bytes.extend(words.flat_map(|word| word.to_le_bytes()));
            bytes.extend(label_words(label).flat_map(u64::to_le_bytes));
            bytes
        };
        sha256_hex(self.encoded.iter().zip(&self.labels).map(example))
    }

    /// The number of tokens of each example.
    pub fn lengths(&self) -> Vec<usize> {
        self.encoded.iter().map(|e| e.ids.len()).collect()
    }

    /// Builds a batch of the chosen examples, padded to the longest of them.
    ///
    /// # Errors
    /// The labels have two kinds.
    pub fn batch(&self, rows: &[usize], pad_id: u32) -> Result<LabelledBatch> {
        let inputs = pad(
            &rows.iter().map(|&i| &self.encoded[i]).collect::<Vec<_>>(),
            pad_id,
        );
        Ok(LabelledBatch {
            inputs,
            labels: self.weighted(labels(rows.iter().map(|&i| &self.labels[i]))?),
        })
    }
}

impl EncodedSplit {
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
        EncodedSplit {
            encoded: (0..n).map(one).collect(),
            labels: vec![Label::Class(1); n],
            class_weights: Vec::new(),
        }
    }

    #[test]
    fn truncated_inputs_are_counted() {
        assert_eq!(split(50).truncated(), 1);
        assert_eq!(split(3).lengths(), [3, 10, 6]);
    }

    #[test]
    fn mixed_labels_are_refused() {
        let mut split = split(3);
        split.labels[1] = Label::Value(2.5);
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

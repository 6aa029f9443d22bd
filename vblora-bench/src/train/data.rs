//! Sentences as token ids, in an order that depends on (seed, epoch) alone.

use vblora::{rng::Key, storage::sha256_hex};
use vblora_models::{Encoded, Labels, PaddedBatch, TextTokenizer, pad};

use crate::{
    Error, Result,
    tasks::{Label, Split},
};

/// Batches among which rows are sorted by length (transformers: 50).
const WINDOW: usize = 50;

/// A split after the tokenizer.
#[derive(Debug)]
pub struct EncodedSplit {
    encoded: Vec<Encoded>,
    labels: Vec<Label>,
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
    /// Encodes a split; longer inputs are truncated to `max_length` tokens.
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
            labels: split.examples.iter().map(|e| e.label).collect(),
        })
    }

    /// The number of examples.
    pub fn len(&self) -> usize {
        self.encoded.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }

    /// How many inputs were truncated.
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
            let label = match label {
                Label::Class(class) => *class as u64,
                Label::Score(score) => u64::from(score.to_bits()),
            };
            let words = encoded.ids.iter().chain(&encoded.type_ids);
            let mut bytes = (encoded.ids.len() as u64).to_le_bytes().to_vec();
            bytes.extend(words.flat_map(|word| word.to_le_bytes()));
            bytes.extend(label.to_le_bytes());
            bytes
        };
        sha256_hex(self.encoded.iter().zip(&self.labels).map(example))
    }

    /// The batches of a training epoch: shuffled by (seed, epoch), the last one shorter.
    pub fn shuffled(&self, seed: u64, epoch: usize, batch: usize) -> Vec<Vec<usize>> {
        let order = order(seed, epoch).permutation(self.len());
        order.chunks(batch).map(<[usize]>::to_vec).collect()
    }

    /// The batches of a training epoch with rows of like length together: within each run of 50 shuffled batches rows are sorted by
    /// length, then the batches are shuffled.
    pub fn grouped(&self, seed: u64, epoch: usize, batch: usize) -> Vec<Vec<usize>> {
        let mut rows = order(seed, epoch).permutation(self.len());
        for window in rows.chunks_mut(WINDOW * batch) {
            window.sort_by_key(|&row| self.encoded[row].ids.len());
        }
        let batches: Vec<_> = rows.chunks(batch).collect();
        let places = order(seed, epoch)
            .name("batches")
            .permutation(batches.len());
        places
            .into_iter()
            .map(|place| batches[place].to_vec())
            .collect()
    }

    /// The batches of an evaluation: by length, so that little is padding.
    pub fn by_length(&self, batch: usize) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|&i| self.encoded[i].ids.len());
        order.chunks(batch).map(<[usize]>::to_vec).collect()
    }

    /// Pads the chosen examples to the longest of them.
    ///
    /// # Errors
    /// The labels are of two kinds.
    pub fn batch(&self, rows: &[usize], pad_id: u32) -> Result<LabelledBatch> {
        let inputs = pad(
            &rows.iter().map(|&i| &self.encoded[i]).collect::<Vec<_>>(),
            pad_id,
        );
        Ok(LabelledBatch {
            inputs,
            labels: labels(rows.iter().map(|&i| self.labels[i]))?,
        })
    }
}

fn order(seed: u64, epoch: usize) -> Key {
    Key::new(seed).name("order").index(epoch as u64)
}

fn labels(all: impl Iterator<Item = Label>) -> Result<Labels> {
    let (mut classes, mut scores) = (Vec::new(), Vec::new());
    for label in all {
        match label {
            Label::Class(class) => classes.push(class),
            Label::Score(score) => scores.push(score),
        }
    }
    match (classes.is_empty(), scores.is_empty()) {
        (false, true) => Ok(Labels::Classes(classes)),
        (true, false) => Ok(Labels::Scores(scores)),
        _ => Err(Error::Setting {
            setting: "labels".into(),
            expected: "classes or scores".into(),
            found: format!(
                "{} classes and {} scores in one batch",
                classes.len(),
                scores.len()
            ),
        }),
    }
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
        }
    }

    #[test]
    fn order_is_a_function_of_seed_and_epoch() {
        let split = split(50);
        assert_eq!(split.shuffled(1, 2, 8), split.shuffled(1, 2, 8));
        assert_ne!(split.shuffled(1, 2, 8), split.shuffled(1, 3, 8));
        assert_ne!(split.shuffled(1, 2, 8), split.shuffled(2, 2, 8));
        let mut all = split.shuffled(1, 2, 8).concat();
        assert_eq!((all.len(), split.shuffled(1, 2, 8).len()), (50, 7));
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
        assert_eq!(split.truncated(), 1);
    }

    #[test]
    fn grouped_batches_hold_every_row_once_and_pad_less() {
        let split = split(400);
        let padding = |batches: &[Vec<usize>]| -> usize {
            let length = |row: &usize| split.encoded[*row].ids.len();
            batches
                .iter()
                .map(|b| b.len() * b.iter().map(length).max().unwrap())
                .sum()
        };
        let grouped = split.grouped(1, 2, 8);
        assert!(padding(&grouped) * 10 < padding(&split.shuffled(1, 2, 8)) * 8);
        assert_ne!(grouped, split.grouped(1, 3, 8));
        let mut all = grouped.concat();
        all.sort_unstable();
        assert_eq!(all, (0..400).collect::<Vec<_>>());
    }

    #[test]
    fn mixed_labels_are_refused() {
        let mut split = split(3);
        split.labels[1] = Label::Score(2.5);
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

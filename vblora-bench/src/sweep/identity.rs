//! The identity of data, independent of its location.

use vblora::storage::sha256_hex;
use vblora_models::ModelFiles;

use super::text::{TextRun, texts_hash};
use crate::{
    Result,
    recipes::Recipe,
    tasks::{Label, Split, SplitName},
    train::{DataSource, causal::TextSource},
};

/// The hash and the size of a task's data.
#[derive(Debug, Clone)]
pub(super) struct DataIdentity {
    /// SHA-256 of every sentence and label.
    pub(super) hash: String,
    /// Rows of the training split.
    pub(super) train: usize,
    /// Rows of the development split.
    pub(super) dev: usize,
}

impl DataIdentity {
    pub(super) fn of(source: &DataSource, recipe: &Recipe) -> Result<Self> {
        let train = source.read(recipe, SplitName::Train)?;
        let dev = source.read(recipe, SplitName::Dev)?;
        Ok(Self {
            hash: sha256_hex([split_hash(&train), split_hash(&dev)]),
            train: train.examples.len(),
            dev: dev.examples.len(),
        })
    }

    /// The identity of texts and of a run's questions.
    pub(super) fn of_texts(
        source: &TextSource,
        text: &TextRun,
        files: &ModelFiles,
    ) -> Result<Self> {
        let mut hashes = vec![texts_hash(&source.train), texts_hash(&source.held_out)];
        if !text.evaluate.is_empty() {
            hashes.push(text.questions_hash(files)?);
        }
        Ok(Self {
            hash: sha256_hex(hashes),
            train: source.train.texts.len(),
            dev: source.held_out.texts.len(),
        })
    }
}

fn split_hash(split: &Split) -> String {
    sha256_hex(split.examples.iter().map(|example| {
        let label = match &example.label {
            Label::Class(class) => class.to_string(),
            Label::Classes(set) => format!("{set:?}"),
            Label::Value(score) => score.to_string(),
        };
        format!("{:?} {:?} {label}\n", example.a, example.b)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::{Task, parse_split};

    #[test]
    fn a_splits_hash_sees_labels_and_where_a_sentence_ends() {
        let hash = |text: &str| split_hash(&parse_split(text, "a test", &Task::demo()).unwrap());
        let first = hash("x\t1\t\tone two\nx\t0\t\tthree\n");
        assert_ne!(first, hash("x\t1\t\tone two\nx\t1\t\tthree\n"));
        assert_ne!(first, hash("x\t1\t\tone\nx\t0\t\ttwo three\n"));
        assert_eq!(first, hash("y\t1\t\tone two\ny\t0\t\tthree\n"));
    }
}

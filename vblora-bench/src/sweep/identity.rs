//! What tells models and data apart, wherever they lie.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use vblora::storage::{sha256_hex, strict_json};
use vblora_models::ModelFiles;

use crate::{
    Error, Result,
    recipes::Recipe,
    tasks::{Label, Split, SplitName},
    train::DataSource,
};

/// The files by which a model is told apart; shards are named by the index.
const MODEL_FILES: [&str; 7] = [
    "config.json",
    "model.safetensors",
    INDEX,
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
];

const INDEX: &str = "model.safetensors.index.json";

/// A file is read in pieces of this size, so that weights are never held whole.
const PIECE: usize = 1 << 22;

/// SHA-256 of the files that a model is read from.
///
/// # Errors
/// A file cannot be read.
pub(super) fn model_hash(files: &ModelFiles) -> Result<String> {
    let known = MODEL_FILES.iter().map(|name| (*name).to_owned());
    let names = known.chain(shards(files)?);
    let present: Vec<String> = names.filter(|name| files.contains(name)).collect();
    let mut hashes = Vec::new();
    for name in present {
        let reader = files.reader(&name)?;
        hashes.push(name);
        for start in (0..reader.size()).step_by(PIECE) {
            let piece = reader.read(start..reader.size().min(start + PIECE));
            let piece = piece.map_err(|cause| Error::read(Path::new(&files.place()), cause))?;
            hashes.push(sha256_hex([piece]));
        }
    }
    Ok(sha256_hex(hashes))
}

fn shards(files: &ModelFiles) -> Result<Vec<String>> {
    if !files.contains(INDEX) {
        return Ok(Vec::new());
    }
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index = strict_json::from_slice::<Index>(&files.read(INDEX)?);
    let index = index.map_err(|e| Error::json(Path::new(&files.describe(INDEX)), e))?;
    let mut shards: Vec<String> = index.weight_map.into_values().collect();
    shards.sort();
    shards.dedup();
    Ok(shards)
}

/// What a task's data is, by which it is told apart and counted.
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
}

fn split_hash(split: &Split) -> String {
    sha256_hex(split.examples.iter().map(|example| {
        let label = match example.label {
            Label::Class(class) => class.to_string(),
            Label::Score(score) => score.to_string(),
        };
        format!("{:?} {:?} {label}\n", example.a, example.b)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::{Task, parse_split};

    #[test]
    fn a_models_hash_sees_its_last_byte() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        let weights = dir.path().join("model.safetensors");
        let mut bytes = vec![0; PIECE + 1];
        let mut hash = || {
            std::fs::write(&weights, &bytes).unwrap();
            let hash = model_hash(&ModelFiles::open(dir.path()).unwrap()).unwrap();
            bytes[PIECE] = 1;
            hash
        };
        assert_ne!(hash(), hash());
    }

    #[test]
    fn a_splits_hash_sees_labels_and_where_a_sentence_ends() {
        let hash = |text: &str| split_hash(&parse_split(text, "a test", Task::Demo).unwrap());
        let first = hash("x\t1\t\tone two\nx\t0\t\tthree\n");
        assert_ne!(first, hash("x\t1\t\tone two\nx\t1\t\tthree\n"));
        assert_ne!(first, hash("x\t1\t\tone\nx\t0\t\ttwo three\n"));
        assert_eq!(first, hash("y\t1\t\tone two\ny\t0\t\tthree\n"));
    }
}

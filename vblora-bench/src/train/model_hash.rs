//! The hash that identifies a model, independent of its location.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use vblora::storage::{sha256_hex, strict_json};
use vblora_models::ModelFiles;

use crate::{Error, Result};

/// The files that identify a model. The index names the shards.
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

/// Files are read in pieces of this size, so that weights are never fully in memory.
const PIECE: usize = 1 << 22;

/// Computes SHA-256 of the files that a model is read from.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn model_hash(files: &ModelFiles) -> Result<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}

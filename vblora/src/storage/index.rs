//! The index of a model's or an adapter's shards, `....safetensors.index.json`. It names the file of each tensor.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use serde::Deserialize;

use super::{files::MAX_INDEX_BYTES, strict_json};
use crate::{Error, Result};

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The file of each tensor, a plain name in the index's own folder.
///
/// # Errors
/// The index cannot be read, names no tensors, or a file that is no plain name.
pub(super) fn weight_map(path: &Path) -> Result<BTreeMap<String, String>> {
    let format = |reason: String| Error::Format {
        path: path.to_owned(),
        reason,
    };
    let Index { weight_map } = strict_json::read(path, MAX_INDEX_BYTES)?;
    match weight_map.values().find(|name| !is_file_name(name)) {
        Some(name) => Err(format(format!("{name:?} is not a plain file name"))),
        None if weight_map.is_empty() => Err(format("weight_map is empty".into())),
        None => Ok(weight_map),
    }
}

/// The files of a [`weight_map`], each once.
pub(super) fn shard_names(weight_map: &BTreeMap<String, String>) -> Vec<String> {
    let mut names: Vec<_> = weight_map.values().cloned().collect();
    names.sort();
    names.dedup();
    names
}

/// True if a name, joined to a directory, stays inside.
fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let one = matches!(parts.next(), Some(Component::Normal(part)) if part == name);
    one && parts.next().is_none() && !name.contains(['/', '\\', '\0'])
}

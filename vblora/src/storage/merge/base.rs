//! The base's weights: `model.safetensors`, or the shards of an index. Headers are read and checked, tensors are not.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    Error, Result,
    nf4::QUANT_STATE,
    storage::{
        Entry, Header,
        files::RegularFile,
        index::{shard_names, weight_map},
    },
};

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Tensors are compared in pieces of this many bytes.
const COMPARED_BYTES: usize = 1 << 16;

/// A Hugging Face directory's weights.
pub(super) struct Base {
    dir: PathBuf,
    shards: Vec<Shard>,
}

/// One of its files.
pub(super) struct Shard {
    name: String,
    path: PathBuf,
    header: Header,
    /// The header as it is in the file, with its length in front.
    front: Vec<u8>,
}

/// The rule that turns names of the adapter into the base's.
pub(super) enum Renaming {
    /// The names lose this prefix.
    Without(String),
    /// The names get this prefix, which may be empty.
    Behind(String),
}

impl Base {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let mut names = vec![SINGLE.to_owned()];
        if !dir.join(SINGLE).exists() && dir.join(INDEX).exists() {
            names = shard_names(&weight_map(&dir.join(INDEX))?);
        }
        let shards = names.into_iter().map(|name| Shard::open(dir, name));
        let base = Self {
            dir: dir.to_owned(),
            shards: shards.collect::<Result<_>>()?,
        };
        if let Some(name) = base.names().find(|name| name.contains(QUANT_STATE)) {
            let (weight, _) = name.split_once(QUANT_STATE).unwrap_or((name, ""));
            return Err(base.error(format!(
                "tensor {weight:?} is stored in 4 bits, to which no update can be added; write the base in floats with `vblora dequantize` first"
            )));
        }
        let mut seen = BTreeMap::new();
        for shard in &base.shards {
            for tensor in shard.header.tensors.keys() {
                if let Some(other) = seen.insert(tensor, &shard.name) {
                    return Err(shard.error(format!("tensor {tensor:?} is in {other} too")));
                }
            }
        }
        Ok(base)
    }

    /// True if the files are those of an index.
    pub(super) fn is_sharded(&self) -> bool {
        self.shards.iter().any(|shard| shard.name != SINGLE)
    }

    pub(super) fn shards(&self) -> &[Shard] {
        &self.shards
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let tensors = self.shards.iter().flat_map(|s| s.header.tensors.keys());
        tensors.map(String::as_str)
    }

    pub(super) fn contains(&self, tensor: &str) -> bool {
        self.tensor(tensor).is_ok()
    }

    pub(super) fn tensor(&self, name: &str) -> Result<(&Shard, &Entry)> {
        let mut shards = self.shards.iter();
        shards
            .find_map(|shard| Some((shard, shard.header.tensors.get(name)?)))
            .ok_or_else(|| self.error(format!("no tensor {name:?}")))
    }

    /// True if two tensors are the same to the byte.
    pub(super) fn are_equal(&self, one: &str, other: &str) -> Result<bool> {
        let (one, other) = (self.tensor(one)?, self.tensor(other)?);
        if one.1.dtype != other.1.dtype || one.1.shape != other.1.shape {
            return Ok(false);
        }
        let open = |shard: &Shard| RegularFile::open(&shard.path).map_err(Error::io(&shard.path));
        let files = [open(one.0)?, open(other.0)?];
        let length = one.1.bytes.len();
        for at in (0..length).step_by(COMPARED_BYTES) {
            let piece = |file: &RegularFile, (shard, entry): (&Shard, &Entry)| {
                let from = entry.bytes.start + at;
                let to = from + COMPARED_BYTES.min(length - at);
                file.read(from..to).map_err(Error::io(&shard.path))
            };
            if piece(&files[0], one)? != piece(&files[1], other)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Finds the rule for the adapter's names by its first weight: unchanged, without a prefix, or after a prefix.
    pub(super) fn renaming(&self, weight: &str) -> Result<Renaming> {
        if self.contains(weight) {
            return Ok(Renaming::Behind(String::new()));
        }
        for (at, _) in weight.match_indices('.') {
            let (prefix, rest) = weight.split_at(at + 1);
            if rest != "weight" && self.contains(rest) {
                return Ok(Renaming::Without(prefix.to_owned()));
            }
        }
        let prefixes = self.names().filter_map(|name| name.strip_suffix(weight));
        let prefixes: Vec<_> = prefixes.filter(|prefix| prefix.ends_with('.')).collect();
        match prefixes.as_slice() {
            [prefix] => Ok(Renaming::Behind((*prefix).to_owned())),
            [] => Err(self.error(format!("no tensor {weight:?}, which the adapter changes"))),
            _ => Err(self.error(format!(
                "tensor {weight:?}, which the adapter changes, is there with several prefixes, {prefixes:?}; choose one with the adapter's prefix"
            ))),
        }
    }

    pub(super) fn error(&self, reason: impl Into<String>) -> Error {
        Error::Format {
            path: self.dir.clone(),
            reason: reason.into(),
        }
    }
}

impl Renaming {
    pub(super) fn apply(&self, name: &str) -> String {
        match self {
            Self::Without(prefix) => name.strip_prefix(prefix).unwrap_or(name).to_owned(),
            Self::Behind(prefix) => format!("{prefix}{name}"),
        }
    }
}

impl Shard {
    fn open(dir: &Path, name: String) -> Result<Self> {
        let path = dir.join(&name);
        let file = RegularFile::open(&path).map_err(Error::io(&path))?;
        let read = Header::read(&mut file.stream(), file.size());
        let (header, front) = read.map_err(|reason| Error::Format {
            path: path.clone(),
            reason,
        })?;
        Ok(Self {
            name,
            path,
            header,
            front,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    pub(super) fn front(&self) -> &[u8] {
        &self.front
    }

    /// The tensors in the order in which they lie in the file.
    pub(super) fn in_order(&self) -> Vec<(&str, &Entry)> {
        let tensors = self.header.tensors.iter();
        let mut tensors: Vec<_> = tensors
            .map(|(name, entry)| (name.as_str(), entry))
            .collect();
        tensors.sort_by_key(|(_, entry)| (entry.bytes.start, entry.bytes.end));
        tensors
    }

    pub(super) fn error(&self, reason: impl Into<String>) -> Error {
        Error::Format {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }
}

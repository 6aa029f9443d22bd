//! The base's weights: `model.safetensors`, or the shards that an index names, headers read and checked, tensors not.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    Error, Result,
    storage::{Entry, Header, tensors::read_up_to},
};

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Larger indices are refused before they are read; a real one has about 100 bytes per tensor.
pub(super) const MAX_INDEX_BYTES: u64 = 64 << 20;

/// Tensors are compared in pieces of so many bytes.
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
    /// The header as it is in the file, its length in front.
    front: Vec<u8>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// How names of the adapter turn into the base's.
pub(super) enum Renaming {
    /// Without this prefix.
    Without(String),
    /// Behind this prefix, which may be empty.
    Behind(String),
}

impl Base {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let mut names = vec![SINGLE.to_owned()];
        if !dir.join(SINGLE).exists() && dir.join(INDEX).exists() {
            names = shard_names(&dir.join(INDEX))?;
        }
        let shards = names.into_iter().map(|name| Shard::open(dir, name));
        let base = Self {
            dir: dir.to_owned(),
            shards: shards.collect::<Result<_>>()?,
        };
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

    /// Whether the files are those of an index.
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

    /// Whether two tensors are the same to the byte.
    pub(super) fn are_equal(&self, one: &str, other: &str) -> Result<bool> {
        let (one, other) = (self.tensor(one)?, self.tensor(other)?);
        if one.1.dtype != other.1.dtype || one.1.shape != other.1.shape {
            return Ok(false);
        }
        let open = |(shard, entry): (&Shard, &Entry)| {
            let blame = |cause| Error::Io {
                path: shard.path.clone(),
                cause,
            };
            let mut file = File::open(&shard.path).map_err(blame)?;
            let start = SeekFrom::Start(entry.bytes.start as u64);
            file.seek(start).map_err(blame)?;
            Ok::<_, Error>(BufReader::new(file).take(entry.bytes.len() as u64))
        };
        let blame = |cause| Error::Io {
            path: self.dir.clone(),
            cause,
        };
        let (mut one, mut other) = (open(one)?, open(other)?);
        let mut blocks = [vec![0; COMPARED_BYTES], vec![0; COMPARED_BYTES]];
        while one.limit() > 0 {
            let bytes = COMPARED_BYTES.min(one.limit() as usize);
            let [a, b] = &mut blocks;
            one.read_exact(&mut a[..bytes]).map_err(blame)?;
            other.read_exact(&mut b[..bytes]).map_err(blame)?;
            if a[..bytes] != b[..bytes] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How the adapter's names turn into the base's, by its first weight: as it is, without a prefix, behind a prefix.
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
                "tensor {weight:?}, which the adapter changes, may be any of those behind {prefixes:?}; say which with the adapter's prefix"
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
        let io = |cause| Error::Io {
            path: path.clone(),
            cause,
        };
        let mut file = File::open(&path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let read = Header::read(&mut file, size as usize);
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

/// The files that an index names, each once and a plain file name.
fn shard_names(path: &Path) -> Result<Vec<String>> {
    let format = |reason: String| Error::Format {
        path: path.to_owned(),
        reason,
    };
    let text = read_up_to(path, MAX_INDEX_BYTES)?;
    let index: Index = serde_json::from_slice(&text).map_err(|e| format(e.to_string()))?;
    let mut names: Vec<_> = index.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    match names.iter().find(|name| !is_file_name(name)) {
        Some(name) => Err(format(format!("{name:?} is not a plain file name"))),
        None if names.is_empty() => Err(format("weight_map is empty".into())),
        None => Ok(names),
    }
}

/// Whether a name, joined to a directory, stays inside.
fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let one = matches!(parts.next(), Some(Component::Normal(part)) if part == name);
    one && parts.next().is_none() && !name.contains(['/', '\\', '\0'])
}

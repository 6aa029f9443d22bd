//! The tensors of a directory: one file or the shards of an index, under the names that PEFT writes.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::{Path, PathBuf},
};

use safetensors::Dtype;

use super::{BANK, FULL, LORA, ROOT, TENSORS, TOPK, VERA, VERA_SHARED};
use crate::{
    Error, Result,
    storage::{
        MAX_FILE_BYTES, TensorFile,
        index::{shard_names, weight_map},
    },
};

const INDEX: &str = "adapter_model.safetensors.index.json";
/// Torch's own format.
const PICKLED: &str = "adapter_model.bin";
/// The name that PEFT gives to an adapter when it loads a directory.
const NAME: &str = "default";

/// A directory's tensors.
#[derive(Debug)]
pub(super) struct Tensors {
    /// The single file, or the index.
    path: PathBuf,
    files: Vec<TensorFile>,
    /// The file of each tensor and its name there, by the name that PEFT writes.
    places: BTreeMap<String, (usize, String)>,
}

impl Tensors {
    /// Reads the file, or the shards that the index names.
    ///
    /// # Errors
    /// A file is missing or broken; the files are too large together; the index and a shard disagree; two tensors have one name.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let single = dir.join(TENSORS);
        let index = dir.join(INDEX);
        if !single.exists() && index.exists() {
            return Self::read_shards(dir, index);
        }
        if !single.exists() && dir.join(PICKLED).exists() {
            return Err(Error::Format {
                path: dir.join(PICKLED),
                reason: format!(
                    "torch's own format, which is not read; in Python: safetensors.torch.save_file(torch.load({PICKLED:?}, \
                     weights_only=True), {TENSORS:?})"
                ),
            });
        }
        let files = vec![TensorFile::read(&single)?];
        Self::new(single, files)
    }

    fn read_shards(dir: &Path, index: PathBuf) -> Result<Self> {
        let map = weight_map(&index)?;
        let names = shard_names(&map);
        let paths: Vec<_> = names.iter().map(|name| dir.join(name)).collect();
        let sizes = paths.iter().map(std::fs::metadata);
        let total = sizes.flatten().map(|file| file.len());
        let total = total.fold(0, u64::saturating_add);
        let wrong = |reason: String| Error::Format {
            path: index.clone(),
            reason,
        };
        if total > MAX_FILE_BYTES {
            return Err(wrong(format!(
                "the shards have {total} bytes, over the limit of {MAX_FILE_BYTES}"
            )));
        }
        let files = paths.iter().map(|path| TensorFile::read(path));
        let files: Vec<_> = files.collect::<Result<_>>()?;
        for (tensor, name) in &map {
            let at = names.binary_search(name).ok();
            if at.is_none_or(|at| files[at].shape(tensor).is_none()) {
                return Err(wrong(format!("no tensor {tensor:?} in {name}")));
            }
        }
        Self::new(index, files)
    }

    fn new(path: PathBuf, files: Vec<TensorFile>) -> Result<Self> {
        let mut places = BTreeMap::new();
        for (at, file) in files.iter().enumerate() {
            for stored in file.names() {
                match places.entry(written(stored)) {
                    Entry::Vacant(free) => {
                        free.insert((at, stored.to_owned()));
                    }
                    Entry::Occupied(taken) => {
                        let (_, other) = taken.get();
                        return Err(file.error(format!(
                            "tensor {stored:?} is there twice, also as {other:?}"
                        )));
                    }
                }
            }
        }
        Ok(Self {
            path,
            files,
            places,
        })
    }

    /// The names in alphabetical order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        let (at, stored) = self.places.get(name)?;
        self.files[*at].shape(stored)
    }

    pub(super) fn dtype(&self, name: &str) -> Option<Dtype> {
        let (at, stored) = self.places.get(name)?;
        self.files[*at].dtype(stored)
    }

    pub(super) fn floats(&self, name: &str) -> Result<Vec<f32>> {
        let (file, stored) = self.place(name)?;
        file.floats(stored)
    }

    pub(super) fn integers(&self, name: &str) -> Result<Vec<u32>> {
        let (file, stored) = self.place(name)?;
        file.integers(stored)
    }

    fn place(&self, name: &str) -> Result<(&TensorFile, &str)> {
        match self.places.get(name) {
            Some((at, stored)) => Ok((&self.files[*at], stored)),
            None => Err(self.error(format!("no tensor {name:?}"))),
        }
    }

    /// An error about these tensors.
    pub(super) fn error(&self, reason: impl Into<String>) -> Error {
        Error::Format {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }
}

/// The name that PEFT writes for a tensor. Names in memory also hold the adapter's name, and PEFT reads files with such names.
fn written(stored: &str) -> String {
    let with_name = |part: &str| match (part.strip_suffix(".weight"), part.split_once("_topk_")) {
        (Some(stem), _) => format!("{stem}.{NAME}.weight"),
        (_, Some((stem, rest))) => format!("{stem}.{NAME}_topk_{rest}"),
        _ => format!("{part}.{NAME}"),
    };
    for shared in VERA_SHARED.into_iter().chain([BANK]) {
        if stored == with_name(shared) {
            return shared.to_owned();
        }
    }
    for part in [FULL, TOPK, LORA, VERA].concat() {
        if let Some(module) = stored.strip_suffix(with_name(part).as_str())
            && module.ends_with('.')
        {
            return format!("{module}{part}");
        }
    }
    stored.to_owned()
}

/// True if a tensor is named as in a model that `torch.compile` wraps.
pub(super) fn is_compiled(name: &str) -> bool {
    name.split('.').any(|part| part == "_orig_mod")
}

/// True if a tensor is one of LoRA's on an embedding.
pub(super) fn is_on_embedding(name: &str) -> bool {
    name.contains(".lora_embedding_")
}

/// The reason why PEFT would leave out a tensor that belongs nowhere, if its name tells. The text begins with a colon or is empty.
pub(super) fn hint(name: &str) -> String {
    if is_compiled(name) {
        return ": the adapter was saved from a compiled model, and PEFT does not read such names; remove \"_orig_mod.\" from them"
            .to_owned();
    }
    if is_on_embedding(name) {
        return ": LoRA on an embedding, which this library does not support".to_owned();
    }
    if !name.starts_with("base_model.") {
        return format!(": PEFT's names begin with {ROOT:?}, and it does not read others");
    }
    let parts: Vec<_> = name.split('.').collect();
    let named = |end: &[&str]| matches!(end, ["lora_A" | "lora_B", _, "weight"]);
    if parts.windows(3).any(named) {
        return format!(": PEFT reads names of an adapter called {NAME:?} or without a name");
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_adapters_name_is_taken_out() {
        for (stored, expected) in [
            ("m.q.lora_A.default.weight", "m.q.lora_A.weight"),
            ("m.q.vblora_logits_A.default", "m.q.vblora_logits_A"),
            (
                "m.q.vblora_logits_B.default_topk_indices",
                "m.q.vblora_logits_B_topk_indices",
            ),
            ("m.q.vera_lambda_d.default", "m.q.vera_lambda_d"),
            (
                "base_model.vblora_vector_bank.default",
                "base_model.vblora_vector_bank",
            ),
            ("base_model.vera_A.default", "base_model.vera_A"),
            ("m.q.lora_A.other.weight", "m.q.lora_A.other.weight"),
            ("m.default.weight", "m.default.weight"),
            ("xlora_A.default.weight", "xlora_A.default.weight"),
        ] {
            assert_eq!(written(stored), expected);
        }
    }
}

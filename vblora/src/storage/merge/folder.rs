//! The folder of a merged model, and the files of the base that go there besides its weights.

use std::{
    collections::BTreeSet,
    fs::{File, Metadata},
    io,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::base::{INDEX, SINGLE};
use crate::{
    Error, Result,
    storage::{files::MAX_CONFIG_BYTES, peft, strict_json},
};

/// Endings of files that hold the base's weights in other forms. They are not merged, and so not copied.
const OTHER_WEIGHTS: &[&str] = &[
    "bin",
    "ckpt",
    "data",
    "engine",
    "gguf",
    "h5",
    "mlmodel",
    "msgpack",
    "npy",
    "npz",
    "onnx",
    "onnx_data",
    "ot",
    "params",
    "pb",
    "pdparams",
    "pickle",
    "pkl",
    "pt",
    "pth",
    "safetensors",
    "tflite",
];

/// The ending of an index of shards, after the form of the weights: `pytorch_model.bin.index.json`.
const SHARDS: &str = ".index.json";

/// The modules of a sentence-transformers model and their folders.
const MODULES: &str = "modules.json";

/// A base with more files, or deeper folders, is refused.
const MAX_FILES: usize = 10_000;
const MAX_DEPTH: usize = 8;

/// Refuses a target that is the source folder or lies inside it.
pub(super) fn check_outside(target: &Path, source: &Path) -> Result<()> {
    let real = |path: &Path| std::fs::canonicalize(path).map_err(io_error(path));
    // The nearest parent that exists already. A bare name has the current directory.
    let mut above = target.ancestors().skip(1);
    let there = above.find(|above| above.exists() || above.as_os_str().is_empty());
    let there = there.unwrap_or(Path::new(""));
    let rest = target.strip_prefix(there).unwrap_or(target);
    let place = match there.as_os_str().is_empty() {
        true => real(Path::new("."))?,
        false => real(there)?,
    };
    match place.join(rest).starts_with(real(source)?) {
        true => Err(wrong(target, "the base itself or inside it")),
        false => Ok(()),
    }
}

/// The files of a base besides its weights.
#[derive(Default)]
pub(super) struct Others {
    /// Their places in the base, and the paths of their contents.
    pub(super) files: Vec<(PathBuf, PathBuf)>,
    /// Files and folders that are not copied.
    pub(super) left_out: Vec<String>,
}

impl Others {
    /// Looks through a base; `is_weights` are the files in it that are merged.
    pub(super) fn of(base: &Path, is_weights: impl Fn(&str) -> bool) -> Result<Self> {
        let mut others = Self::default();
        let modules = modules(base)?;
        others.walk(base, Path::new(""), 0, &modules, &is_weights)?;
        others.left_out.sort();
        Ok(others)
    }

    fn walk(
        &mut self,
        base: &Path,
        folder: &Path,
        depth: usize,
        modules: &[PathBuf],
        is_weights: &dyn Fn(&str) -> bool,
    ) -> Result<()> {
        let here = base.join(folder);
        if depth > MAX_DEPTH {
            return Err(wrong(&here, "too deep for a folder of a model"));
        }
        for entry in std::fs::read_dir(&here).map_err(io_error(&here))? {
            let entry = entry.map_err(io_error(&here))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let place = folder.join(entry.file_name());
            let path = entry.path();
            if depth == 0 && is_weights(&name) {
                continue;
            }
            // Weights of the base in another form; a module of sentence-transformers has its own.
            let is_other_form =
                is_of_weights(&name) && !modules.iter().any(|module| place.starts_with(module));
            let found = std::fs::symlink_metadata(&path).map_err(io_error(&path))?;
            let is_hidden = found.is_dir() && name.starts_with('.');
            let special = !found.is_dir() && !found.is_file() && !found.is_symlink();
            if is_other_form || is_hidden || special {
                self.left_out.push(place.display().to_string());
            } else if found.is_dir() {
                let before = (self.files.len(), self.left_out.len());
                self.walk(base, &place, depth + 1, modules, is_weights)?;
                if self.files.len() == before.0 {
                    self.left_out.truncate(before.1);
                    self.left_out.push(place.display().to_string());
                }
            } else {
                self.files.push((place, contents(base, &path, &found)?));
                if self.files.len() > MAX_FILES {
                    return Err(wrong(base, format!("more than {MAX_FILES} files")));
                }
            }
        }
        Ok(())
    }
}

/// True if a name is that of weights in any form, of their index, or of an adapter to them.
fn is_of_weights(name: &str) -> bool {
    let ending = |name: &str| {
        let ending = Path::new(name).extension()?.to_str()?.to_lowercase();
        Some(OTHER_WEIGHTS.contains(&&*ending))
    };
    // The index of the base's own shards is recognised before.
    let index = name.strip_suffix(SHARDS).filter(|_| name != INDEX);
    let weights = index.unwrap_or(name);
    // Transformers would add an adapter beside the base to whatever weights lie there.
    name == peft::CONFIG || ending(weights).unwrap_or(false)
}

/// The folders of a sentence-transformers model's modules.
fn modules(base: &Path) -> Result<Vec<PathBuf>> {
    let path = base.join(MODULES);
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let listed: Value = strict_json::read(&path, MAX_CONFIG_BYTES)?;
    let listed = listed.as_array().into_iter().flatten();
    let folders = listed.filter_map(|module| module.get("path")?.as_str());
    Ok(folders
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from)
        .collect())
}

/// The path of a file's contents. A link must lead into the base itself, or into the Hugging Face cache that the base is a snapshot of.
/// Files elsewhere are no part of the model.
fn contents(base: &Path, path: &Path, found: &Metadata) -> Result<PathBuf> {
    if !found.is_symlink() {
        return Ok(path.to_owned());
    }
    let real = |path: &Path| std::fs::canonicalize(path).map_err(io_error(path));
    let (base, target) = (real(base)?, real(path)?);
    let snapshots = base.parent().filter(|above| above.ends_with("snapshots"));
    let blobs = snapshots
        .and_then(Path::parent)
        .map(|repository| repository.join("blobs"));
    let is_inside =
        target.starts_with(&base) || blobs.is_some_and(|blobs| target.starts_with(blobs));
    if !is_inside {
        let problem = "a symbolic link that leads out of the base, which is not followed";
        return Err(wrong(path, problem));
    }
    match target.is_file() {
        true => Ok(target),
        false => Err(wrong(path, "a symbolic link whose target is no file")),
    }
}

/// Copies a file's contents; for a link, those of its target. Missing folders are made.
pub(super) fn copy(file: &Path, to: &Path) -> Result<()> {
    let copy = || {
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut out = File::create_new(to)?;
        io::copy(&mut File::open(file)?, &mut out)?;
        Ok(())
    };
    copy().map_err(io_error(file))
}

/// Refuses a place that cannot hold a folder, or that holds something not to be replaced.
pub(super) fn check_target(target: &Path, overwrite: bool) -> Result<()> {
    if target.file_name().is_none() {
        return Err(wrong(target, "no name for a new folder"));
    }
    let found = match std::fs::symlink_metadata(target) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(io_error(target))?,
    };
    if found.is_symlink() {
        return Err(wrong(target, "a symbolic link, which is not followed"));
    }
    if !found.is_dir() {
        return Err(wrong(target, "exists already and is no folder"));
    }
    match overwrite {
        true => Ok(()),
        false => Err(wrong(target, "is there already; --overwrite replaces it")),
    }
}

/// True if a file is one of those with a merged model's weights, whatever its base.
fn is_weights(place: &Path) -> bool {
    let name = place.to_string_lossy();
    name == SINGLE
        || name == INDEX
        || (name.starts_with("model-") && name.ends_with(".safetensors"))
}

/// Refuses to replace a folder with foreign files, because a merge deletes only its own. Every file must be one of those to be written, or
/// of merged weights.
pub(super) fn check_replaceable(target: &Path, written: &BTreeSet<&Path>) -> Result<()> {
    if !target.exists() {
        return Ok(());
    }
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let here = target.join(&folder);
        for entry in std::fs::read_dir(&here).map_err(io_error(&here))? {
            let entry = entry.map_err(io_error(&here))?;
            let place = folder.join(entry.file_name());
            let kind = entry.file_type().map_err(io_error(&here))?;
            // One file is enough to name a folder that this merge does not write.
            if kind.is_dir() && place.components().count() <= MAX_DEPTH {
                folders.push(place);
            } else if !kind.is_file() || !(written.contains(place.as_path()) || is_weights(&place))
            {
                let problem =
                    format!("holds {place:?}, which this merge does not write: not replaced");
                return Err(wrong(target, problem));
            }
        }
    }
    Ok(())
}

fn wrong(path: &Path, reason: impl Into<String>) -> Error {
    Error::Format {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error::Io { path, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_every_form_their_index_and_adapters_are_told() {
        for name in [
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "flax_model.msgpack.index.json",
            "model.onnx_data",
            "model.onnx.data",
            "params.npz",
            "MODEL.GGUF",
            "adapter_config.json",
            "model.fp16.safetensors",
            "model.fp16.safetensors.index.json",
        ] {
            assert!(is_of_weights(name), "{name}");
        }
        for name in [
            "config.json",
            "tokenizer.json",
            "merges.txt",
            "model.safetensors.index.json",
            "tokenizer.model",
            "README.md",
            "my.index.json",
            "data",
        ] {
            assert!(!is_of_weights(name), "{name}");
        }
    }
}

//! Directories that hold no adapter, and what they hold instead.

use std::path::Path;

use anyhow::{Result, bail};
use vblora::storage::peft;

use crate::train::HEAD_FILE;

/// Refuses a directory of a session or of a model in place of an adapter.
pub(super) fn check(path: &Path) -> Result<()> {
    match why_none(path) {
        None => Ok(()),
        Some(reason) => bail!("{}: {reason}", path.display()),
    }
}

/// Refuses a directory of a session in place of one of its runs.
pub(super) fn check_run(path: &Path) -> Result<()> {
    if !is_session(path) || is_run(path) {
        return Ok(());
    }
    match folders(path, is_run).as_slice() {
        [] => Ok(()),
        runs => bail!(
            "{}: it is the directory of a session; its runs are in {}",
            path.display(),
            runs.join(", ")
        ),
    }
}

/// The reason why a directory of a session or of a model holds no adapter. `None` for all other directories.
pub fn why_none(dir: &Path) -> Option<String> {
    let has = |name: &str| dir.join(name).is_file();
    if has(peft::CONFIG) {
        return None;
    }
    // A fully trained model may have its head in a file of its own.
    if has("model.safetensors") {
        return Some("no adapter: it is a whole model, in model.safetensors".into());
    }
    if has(HEAD_FILE) {
        return Some(format!(
            "no adapter: the run trained the head alone, which is in {HEAD_FILE}"
        ));
    }
    is_session(dir).then(|| {
        let runs = folders(dir, |folder| folder.join(peft::CONFIG).is_file());
        match runs.as_slice() {
            [] => "no adapter: it is the directory of a session, and no run of it has an adapter"
                .into(),
            runs => format!(
                "no adapter: it is the directory of a session; the adapters of its runs are in {}",
                runs.join(", ")
            ),
        }
    })
}

/// Returns true if training has written to the directory.
fn is_session(dir: &Path) -> bool {
    let marks = ["config.toml", "results.json"];
    marks.iter().any(|name| dir.join(name).is_file())
}

/// Returns true if the directory holds what a run has trained.
fn is_run(dir: &Path) -> bool {
    let marks = [peft::CONFIG, HEAD_FILE, "model.safetensors"];
    marks.iter().any(|name| dir.join(name).is_file())
}

/// The names of the subdirectories of a kind, sorted.
fn folders(dir: &Path, is_wanted: impl Fn(&Path) -> bool) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let found = entries.filter(|entry| is_wanted(&entry.path()));
    let mut names: Vec<_> = found
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

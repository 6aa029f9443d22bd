//! Directories that hold no adapter, and what they hold instead.

use std::path::Path;

use anyhow::{Result, bail};

/// The file that makes a directory an adapter.
const ADAPTER: &str = "adapter_config.json";

/// Refuses a directory of a session or of a model in place of an adapter.
pub(super) fn check(path: &Path) -> Result<()> {
    match why_none(path) {
        None => Ok(()),
        Some(reason) => bail!("{}: {reason}", path.display()),
    }
}

/// Refuses a directory of a session in place of an adapter or a head.
pub(super) fn check_no_session(path: &Path) -> Result<()> {
    let is_run = [ADAPTER, "head.safetensors", "model.safetensors"]
        .iter()
        .any(|name| path.join(name).is_file());
    match why_session(path).filter(|_| !is_run) {
        None => Ok(()),
        Some(reason) => bail!("{}: {reason}", path.display()),
    }
}

/// The reason why a directory of a session or of a model holds no adapter. `None` for all other directories.
pub fn why_none(dir: &Path) -> Option<String> {
    let has = |name: &str| dir.join(name).is_file();
    if has(ADAPTER) {
        return None;
    }
    if has("head.safetensors") {
        return Some(
            "no adapter: the run trained the head alone, which is in head.safetensors".into(),
        );
    }
    if has("model.safetensors") {
        return Some("no adapter: it is a whole model, in model.safetensors".into());
    }
    why_session(dir)
}

/// What the directory of a session holds instead of an adapter.
fn why_session(dir: &Path) -> Option<String> {
    let has = |name: &str| dir.join(name).is_file();
    (has("config.toml") || has("results.json")).then(|| match adapters_in(dir).as_slice() {
        [] => {
            "no adapter: it is the directory of a session, and no run of it has an adapter".into()
        }
        runs => format!(
            "no adapter: it is the directory of a session; the adapters of its runs are in {}",
            runs.join(", ")
        ),
    })
}

/// The names of the subdirectories that hold an adapter, sorted.
fn adapters_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let runs = entries.filter(|entry| entry.path().join(ADAPTER).is_file());
    let mut names: Vec<_> = runs
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

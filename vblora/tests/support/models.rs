//! Real models that shared/models/fetch.sh brings, where it has been run.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::print_stdout)]

use std::path::PathBuf;

/// A model's folder: in `VBLORA_MODELS`, or where fetch.sh puts it. `None`, with a printed reason that says how to get it, where `file` is
/// not in it.
pub fn folder(name: &str, file: &str, how: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("VBLORA_MODELS").map(PathBuf::from);
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache/vblora-models")))?;
    let folder = cache.join(name);
    if !folder.join(file).is_file() {
        println!(
            "skipped: no weights at {} ({how}, or set VBLORA_MODELS)",
            folder.display()
        );
        return None;
    }
    Some(folder)
}

pub fn minilm() -> Option<PathBuf> {
    folder(
        "all-minilm-l6-v2",
        "model.safetensors",
        "run shared/models/fetch.sh",
    )
}

pub fn smollm2() -> Option<PathBuf> {
    folder(
        "smollm2-135m-instruct-hf",
        "model.safetensors",
        "run shared/models/fetch.sh with VBLORA_CONVERT=1",
    )
}

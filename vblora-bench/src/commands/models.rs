//! Models by the name that a user gives: bundled models, directories and hub ids.

use std::path::PathBuf;

use tempfile::TempDir;
use vblora_models::{ModelFiles, SIDE_FILES, resolve};

use crate::{Error, Result, demo};

/// The name of the bundled encoder, a tiny RoBERTa.
pub const ROBERTA: &str = "bundled:roberta";

/// The name of the bundled causal model, a tiny Llama.
pub const LLAMA: &str = "bundled:llama";

/// The prefix of bundled models' names. No hub id and no common path starts like this.
const BUNDLED: &str = "bundled:";

/// Finds the files of a bundled model, of a Hugging Face directory, or of a hub id at a revision.
///
/// # Errors
/// There is no such model; a revision is given for a bundled model.
pub fn find(model: &str, revision: Option<&str>) -> Result<ModelFiles> {
    let files = match model {
        ROBERTA => demo::model_files(),
        LLAMA => demo::decoder_files(),
        other if other.starts_with(BUNDLED) => {
            return Err(Error::UnknownName {
                what: "bundled model",
                name: other.into(),
                expected: format!("{ROBERTA}, {LLAMA}"),
            });
        }
        other => return Ok(resolve(other, revision)?),
    };
    match revision {
        None => Ok(files),
        Some(revision) => Err(Error::Setting {
            setting: "revision".into(),
            expected: format!("none for {model}, which is bundled"),
            found: revision.into(),
        }),
    }
}

/// A directory with a model's files: the user's, the hub's in its cache, or a temporary one with the files of a bundled model. The temporary
/// directory goes with the second value.
///
/// # Errors
/// As [`find`]; the files of a bundled model cannot be written.
pub fn directory(
    model: &str,
    revision: Option<&str>,
) -> anyhow::Result<(PathBuf, Option<TempDir>)> {
    let files = find(model, revision)?;
    if let Some(dir) = files.directory() {
        return Ok((dir.to_owned(), None));
    }
    let dir = TempDir::new()?;
    let known = SIDE_FILES
        .iter()
        .chain(&["config.json", "model.safetensors"]);
    for name in known.filter(|name| files.contains(name)) {
        let reader = files.reader(name)?;
        std::fs::write(dir.path().join(name), reader.read(0..reader.size())?)?;
    }
    Ok((dir.path().to_owned(), Some(dir)))
}

/// Returns true if the name is that of a bundled model.
pub(super) fn is_bundled(model: &str) -> bool {
    model.starts_with(BUNDLED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundled_models_have_names_and_no_revisions() {
        for name in [ROBERTA, LLAMA] {
            assert!(find(name, None).unwrap().contains("config.json"));
            let error = find(name, Some("main")).unwrap_err().to_string();
            assert!(
                error.contains("revision") && error.contains(name),
                "{error}"
            );
        }
        let error = find("bundled:gpt", None).unwrap_err().to_string();
        assert!(
            error.contains("bundled:gpt") && error.contains(LLAMA),
            "{error}"
        );
    }
}

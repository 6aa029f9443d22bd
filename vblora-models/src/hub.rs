//! A model name to files: a directory, or an id of the Hugging Face hub.

#[cfg(feature = "hub")]
mod remote;

use std::path::Path;

use crate::{Error, ModelFiles, Result};

/// The hub's own limit for a name.
const MAX_ID_LENGTH: usize = 96;

/// Finds a model. An existing directory is opened; anything else is a hub id (`owner/name` or `name`). The files of a hub id are downloaded
/// once into the hub's cache directory, with progress. `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` hold, and
/// the cache is huggingface_hub's own.
///
/// `revision` is a branch, tag or commit of the hub; all files come from the one commit it stands for. It
/// means nothing for a directory. Each file has the size and the hash that the hub says, or is not kept.
///
/// # Errors
/// - [`Error::NoDirectory`]: a path that is not there
/// - [`Error::NotADirectory`]: a file
/// - [`Error::NotAModel`]: neither a path nor a hub id
/// - [`Error::NoHubFeature`]: this build lacks the feature `hub`
/// - [`Error::Hub`]: the hub cannot be reached or does not have the model
pub fn resolve(model: &str, revision: Option<&str>) -> Result<ModelFiles> {
    find(model, revision, download)
}

/// As [`resolve`], but of a hub model `config.json` alone is downloaded: enough to plan with, too little to load.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_config(model: &str, revision: Option<&str>) -> Result<ModelFiles> {
    find(model, revision, download_config)
}

fn find(
    model: &str,
    revision: Option<&str>,
    download: fn(&str, Option<&str>) -> Result<ModelFiles>,
) -> Result<ModelFiles> {
    let path = Path::new(model);
    if path.exists() || looks_like_a_path(model) {
        if revision.is_some() {
            tracing::warn!("{model} is a directory: its revision is not looked at");
        }
        return ModelFiles::open(path);
    }
    if !is_hub_id(model) {
        return Err(Error::NotAModel {
            model: model.to_owned(),
        });
    }
    download(model, revision)
}

#[cfg(feature = "hub")]
fn download(model: &str, revision: Option<&str>) -> Result<ModelFiles> {
    remote::download(model, revision)
}

#[cfg(feature = "hub")]
fn download_config(model: &str, revision: Option<&str>) -> Result<ModelFiles> {
    remote::download_config(model, revision)
}

#[cfg(not(feature = "hub"))]
fn download(model: &str, _revision: Option<&str>) -> Result<ModelFiles> {
    Err(Error::NoHubFeature {
        model: model.to_owned(),
    })
}

#[cfg(not(feature = "hub"))]
fn download_config(model: &str, revision: Option<&str>) -> Result<ModelFiles> {
    download(model, revision)
}

/// Written as a path that no hub id can be.
fn looks_like_a_path(model: &str) -> bool {
    model.starts_with(['/', '.', '~'])
        || model.ends_with('/')
        || model.contains('\\')
        || model.matches('/').count() > 1
}

fn is_hub_id(model: &str) -> bool {
    let word = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            && !part.contains("..")
    };
    model.len() <= MAX_ID_LENGTH && model.split('/').count() <= 2 && model.split('/').all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_needs_no_hub() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        let files = resolve(dir.path().to_str().unwrap(), None).unwrap();
        assert!(files.contains("config.json"));
    }

    #[test]
    fn absent_paths_are_no_hub_ids() {
        for model in [
            "./absent",
            "../absent",
            "/absent/x",
            "a/b/c",
            "absent/",
            "~/absent",
        ] {
            let error = resolve(model, None).unwrap_err().to_string();
            assert!(
                error.contains("no such directory") && error.contains(model),
                "{error}"
            );
        }
    }

    #[test]
    fn names_that_are_neither_are_refused() {
        for model in ["", "two words", "a//b", "-x", "owner/na?me", "a..b"] {
            let error = resolve(model, None).unwrap_err();
            let told = matches!(error, Error::NotAModel { .. } | Error::NoDirectory { .. });
            assert!(told, "{model}: {error}");
        }
        assert!(is_hub_id("FacebookAI/roberta-base") && is_hub_id("bert-base-uncased"));
        assert!(is_hub_id("nreimers/MiniLM-L6-H384-uncased") && is_hub_id("a/v1.5_x"));
        assert!(!is_hub_id(&"x".repeat(97)));
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn without_the_feature_the_error_says_which_to_add() {
        let error = resolve("FacebookAI/roberta-base", None).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("roberta-base") && error.contains("--features hub"),
            "{error}"
        );
    }
}

//! Download from the hub into its cache, every file from one commit.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Repo, RepoType};

use crate::weights::{INDEX, SINGLE, shard_names};
use crate::{Error, ModelFiles, Result};

const CONFIG: &str = "config.json";
const DEFAULT_REVISION: &str = "main";
/// Either of these is a tokenizer; the first one found is taken.
const TOKENIZERS: [&[&str]; 2] = [&["tokenizer.json"], &["vocab.json", "merges.txt"]];
const WEIGHTS: [&[&str]; 2] = [&[SINGLE], &[INDEX]];
/// What a chat and the end of a text need, of models that have it.
const OPTIONAL: [&str; 3] = [
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];
const NOT_FOUND: u16 = 404;

/// Downloads what is not in the cache yet, with the user's endpoint and cache (`HF_ENDPOINT`, `HF_HOME`).
pub(super) fn download(model: &str, revision: Option<&str>) -> Result<ModelFiles> {
    // hf-hub panics when it can find no place for its cache.
    if std::env::var_os("HF_HOME").is_none() && std::env::home_dir().is_none() {
        return Err(Error::Hub {
            model: model.to_owned(),
            revision: revision.unwrap_or(DEFAULT_REVISION).to_owned(),
            problem: "no home directory for the cache; set HF_HOME".to_owned(),
        });
    }
    download_with(ApiBuilder::from_env().with_progress(true), model, revision)
}

fn download_with(builder: ApiBuilder, model: &str, revision: Option<&str>) -> Result<ModelFiles> {
    let revision = revision.unwrap_or(DEFAULT_REVISION);
    let failed = |problem: String| Error::Hub {
        model: model.to_owned(),
        revision: revision.to_owned(),
        problem,
    };
    let api = builder.build().map_err(|error| failed(error.to_string()))?;
    let snapshot = Snapshot::open(&api, model, revision).map_err(failed)?;
    snapshot.get_one_of(&TOKENIZERS).map_err(failed)?;
    // The weights come last: with them in the cache, whatever is not there is not on the hub either, and no network is needed.
    if !snapshot.has_one_of(&WEIGHTS) {
        snapshot.get_optional(&OPTIONAL).map_err(failed)?;
    }
    snapshot.get_one_of(&WEIGHTS).map_err(failed)?;
    let files = ModelFiles::open(&snapshot.dir)?;
    if !files.contains(SINGLE) {
        for shard in shard_names(&files.read(INDEX)?, &files.describe(INDEX))? {
            snapshot.get(&shard).map_err(|cause| failed(cause.text))?;
        }
    }
    Ok(files)
}

/// The cached files of one commit.
struct Snapshot {
    repo: ApiRepo,
    dir: PathBuf,
}

/// Why a file did not come.
struct Cause {
    absent: bool,
    text: String,
}

impl Cause {
    fn new(file: &str, error: ApiError) -> Self {
        let text = format!("{file}: {error}");
        let status = match error {
            ApiError::RequestError(cause) => cause.into_response().map(|answer| answer.status()),
            _ => None,
        };
        Self {
            absent: status == Some(NOT_FOUND),
            text,
        }
    }
}

impl Snapshot {
    /// Gets the configuration at `revision`, and holds on to the commit it came from.
    fn open(api: &Api, model: &str, revision: &str) -> std::result::Result<Self, String> {
        let at = |revision: &str| {
            api.repo(Repo::with_revision(
                model.to_owned(),
                RepoType::Model,
                revision.to_owned(),
            ))
        };
        let config = at(revision)
            .get(CONFIG)
            .map_err(|error| Cause::new(CONFIG, error).text)?;
        let dir = config.parent().unwrap_or(Path::new(".")).to_path_buf();
        let commit = dir.file_name().and_then(|name| name.to_str());
        let repo = at(commit.unwrap_or(revision));
        Ok(Self { repo, dir })
    }

    fn get(&self, file: &str) -> std::result::Result<(), Cause> {
        if self.dir.join(file).is_file() {
            return Ok(());
        }
        match self.repo.get(file) {
            Ok(_) => Ok(()),
            Err(error) => Err(Cause::new(file, error)),
        }
    }

    fn has_one_of(&self, sets: &[&[&str]]) -> bool {
        let here = |file: &&str| self.dir.join(file).is_file();
        sets.iter().any(|set| set.iter().all(here))
    }

    /// Gets those of the files that the hub has.
    fn get_optional(&self, files: &[&str]) -> std::result::Result<(), String> {
        let mut causes = files.iter().filter_map(|file| self.get(file).err());
        match causes.find(|cause| !cause.absent) {
            Some(cause) => Err(cause.text),
            None => Ok(()),
        }
    }

    /// Gets the first complete set of files. If there is none, the cause told is one that is not mere
    /// absence, such as a lost connection, before one that is.
    fn get_one_of(&self, sets: &[&[&str]]) -> std::result::Result<(), String> {
        let mut causes = Vec::new();
        for set in sets {
            match set.iter().try_for_each(|file| self.get(file)) {
                Ok(()) => return Ok(()),
                Err(cause) => causes.push(cause),
            }
        }
        causes.sort_by_key(|cause| cause.absent);
        let told = causes.into_iter().map(|cause| cause.text);
        Err(told.collect::<Vec<_>>().join("; "))
    }
}

#[cfg(test)]
mod tests;

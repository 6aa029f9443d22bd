//! Download from the hub into its cache, every file from one commit.

mod cache;
mod client;

use std::path::PathBuf;

use crate::weights::{INDEX, SINGLE, shard_names};
use crate::{Error, ModelFiles, Result};
use cache::{Cache, Snapshot};
use client::{Client, Failure};

const CONFIG: &str = "config.json";
const DEFAULT_REVISION: &str = "main";
/// Either of these is a tokenizer; the first one found is taken.
const TOKENIZERS: [&[&str]; 3] = [
    &["tokenizer.json"],
    &["vocab.json", "merges.txt"],
    &["vocab.txt"],
];
const WEIGHTS: [&[&str]; 2] = [&[SINGLE], &[INDEX]];
/// Files for a chat, the end of a text and a tokenizer's settings. Not every model has them.
const OPTIONAL: [&str; 5] = [
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
];

/// The hub's address, the cache directory for its files, and whether the network may be used.
pub(super) struct Hub {
    cache: Cache,
    client: Client,
    offline: bool,
}

/// Downloads what is not in the cache yet, with the user's settings: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`.
pub(super) fn download(model: &str, revision: Option<&str>) -> Result<ModelFiles> {
    Hub::with_users_settings(model, revision)?.download(model, revision)
}

/// As [`download`], but of `config.json` alone.
pub(super) fn download_config(model: &str, revision: Option<&str>) -> Result<ModelFiles> {
    Hub::with_users_settings(model, revision)?.download_config(model, revision)
}

fn failure(model: &str, revision: Option<&str>, problem: String) -> Error {
    Error::Hub {
        model: model.to_owned(),
        revision: revision.unwrap_or(DEFAULT_REVISION).to_owned(),
        problem,
    }
}

impl Hub {
    /// The hub with the user's settings, for this model.
    fn with_users_settings(model: &str, revision: Option<&str>) -> Result<Self> {
        Self::from_env().map_err(|problem| failure(model, revision, problem))
    }

    fn from_env() -> std::result::Result<Self, String> {
        let cache = Cache::from_env().ok_or("no home directory for the cache; set HF_HOME")?;
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| client::ENDPOINT.to_owned());
        let token = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]
            .into_iter()
            .find_map(set);
        let token = token.or_else(cache::stored_token);
        let yes =
            |value: String| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter();
        Ok(Self {
            cache,
            client: Client::new(&endpoint, token, client::Patience::default()),
            offline: offline.filter_map(set).any(yes),
        })
    }

    fn download(&self, model: &str, revision: Option<&str>) -> Result<ModelFiles> {
        let failed = |problem: String| failure(model, revision, problem);
        let repository = self.described(model, revision)?;
        repository.get_one_of(&TOKENIZERS).map_err(failed)?;
        // The weights come last: with them in the cache, whatever is not there is not on the hub either, and no network is needed.
        if !repository.has_one_of(&WEIGHTS) {
            repository.get_optional(&OPTIONAL).map_err(failed)?;
        }
        repository.get_one_of(&WEIGHTS).map_err(failed)?;
        let files = ModelFiles::open(&repository.snapshot.dir)?;
        if !files.contains(SINGLE) {
            for shard in shard_names(&files.read(INDEX)?, &files.describe(INDEX))? {
                repository.get(&shard).map_err(|cause| failed(cause.text))?;
            }
        }
        Ok(files.of_hub(model, &repository.snapshot.commit))
    }

    fn download_config(&self, model: &str, revision: Option<&str>) -> Result<ModelFiles> {
        let snapshot = self.described(model, revision)?.snapshot;
        Ok(ModelFiles::open(&snapshot.dir)?.of_hub(model, &snapshot.commit))
    }

    /// The commit's files, `config.json` being in the cache.
    fn described(&self, model: &str, revision: Option<&str>) -> Result<Repository<'_>> {
        let failed = |problem: String| failure(model, revision, problem);
        let name = revision.unwrap_or(DEFAULT_REVISION);
        let repository = self.repository(model, name).map_err(failed)?;
        repository.get(CONFIG).map_err(|cause| failed(cause.text))?;
        repository.snapshot.remember(name).map_err(failed)?;
        Ok(repository)
    }

    /// The commit that a revision stands for: the one in the cache, or else the hub's.
    fn repository(
        &self,
        model: &str,
        revision: &str,
    ) -> std::result::Result<Repository<'_>, String> {
        cache::check_revision(revision)?;
        let commit = match self.cache.commit(model, revision) {
            Some(commit) => commit,
            None if self.offline => return Err(offline(CONFIG).text),
            None => self
                .client
                .commit(model, revision)
                .map_err(|cause| cause.text)?,
        };
        Ok(Repository {
            hub: self,
            model: model.to_owned(),
            snapshot: self.cache.snapshot(model, commit),
        })
    }
}

fn offline(file: &str) -> Failure {
    Failure::new(format!(
        "{file} is not in the cache, and HF_HUB_OFFLINE is set"
    ))
}

/// The files of one commit.
struct Repository<'a> {
    hub: &'a Hub,
    model: String,
    snapshot: Snapshot,
}

impl Repository<'_> {
    fn path(&self, file: &str) -> PathBuf {
        self.snapshot.dir.join(file)
    }

    fn get(&self, file: &str) -> std::result::Result<(), Failure> {
        if self.path(file).is_file() {
            return Ok(());
        }
        if self.hub.offline {
            return Err(offline(file));
        }
        let found = self
            .hub
            .client
            .find(&self.model, &self.snapshot.commit, file)?;
        self.snapshot.take(file, found)
    }

    fn has_one_of(&self, sets: &[&[&str]]) -> bool {
        let here = |file: &&str| self.path(file).is_file();
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
        if self.has_one_of(sets) {
            return Ok(());
        }
        let mut causes = Vec::new();
        for set in sets {
            match set.iter().try_for_each(|file| self.get(file)) {
                Ok(()) => return Ok(()),
                // Another file does not replace one that is there and did not come whole.
                Err(cause) if !cause.absent => return Err(cause.text),
                Err(cause) => causes.push(cause.text),
            }
        }
        Err(causes.join("; "))
    }
}

#[cfg(test)]
mod tests;

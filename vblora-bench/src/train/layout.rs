//! What sessions make in their directory, by name: what a new one must not be mixed with, and what `--overwrite` removes.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use vblora_models::SIDE_FILES;

use super::{checkpoint, method::Method};
use crate::{
    Error, Result,
    directory::{is_file, is_folder, is_leftover, names},
    recordings::{EXTENSION, FOLDER as SELECTIONS},
};

/// The recipe, which is removed last: it shows whose the rest is.
pub(super) const CONFIG: &str = "config.toml";
/// The log of steps and epochs.
pub(super) const LOG: &str = "log.jsonl";
/// The outcome.
pub(super) const RESULTS: &str = "results.json";
/// The outcome as a table, made of [`RESULTS`].
pub(super) const TABLE: &str = "table.md";
/// The outcome as a picture, made of [`RESULTS`].
pub(super) const CURVES: &str = "curves.svg";
/// The folder of the runs' checkpoints.
pub(super) const CHECKPOINTS: &str = "checkpoints";

/// The files of a session; `causal_finetune` adds its answers.
const FILES: [&str; 6] = [RESULTS, TABLE, CURVES, LOG, "answers.json", CONFIG];

/// The files of a run's folder: adapter and head, or a model that was trained in full, which has the base's [`SIDE_FILES`] as well.
const RUN_FILES: [&str; 7] = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "compact.safetensors",
    "codes.safetensors",
    "head.safetensors",
    "model.safetensors",
    "config.json",
];

/// How the name of a run's folder begins that was taken away for a new one ([`vblora::storage::replace_directory`]).
const OLD_DIRECTORY: &str = ".vblora-old-";

/// What sessions have made in a directory. Symbolic links under their names are errors, everything under other names is somebody else's.
#[derive(Debug, Default)]
pub(super) struct Layout {
    dir: PathBuf,
    /// In the order in which they may be removed.
    files: Vec<PathBuf>,
    /// Those within others first.
    folders: Vec<PathBuf>,
    /// What no session made, in folders that go as a whole.
    foreign: Vec<PathBuf>,
}

impl Layout {
    /// Looks through a directory that is there.
    ///
    /// # Errors
    /// It cannot be read; where a file or folder of a session's would be there is something else, a symbolic link say.
    pub(super) fn find(dir: &Path) -> Result<Self> {
        let mut found = Self {
            dir: dir.to_owned(),
            ..Self::default()
        };
        for name in names(dir)?.iter().filter(|name| is_runs_folder(name)) {
            found.add_folder(&dir.join(name), is_of_run)?;
        }
        found.add_checkpoints(&dir.join(CHECKPOINTS))?;
        found.add_selections(&dir.join(SELECTIONS))?;
        for path in FILES.map(|name| dir.join(name)) {
            if is_file(&path)? {
                found.files.push(path);
            }
        }
        Ok(found)
    }

    /// A folder in which only certain files can be ours.
    fn add_folder(&mut self, folder: &Path, is_ours: impl Fn(&str) -> bool) -> Result<()> {
        if !is_folder(folder)? {
            return Ok(());
        }
        for name in names(folder)? {
            let path = folder.join(&name);
            match is_ours(&name) || is_leftover(&name) {
                true if is_file(&path)? => self.files.push(path),
                _ => self.foreign.push(path),
            }
        }
        self.folders.push(folder.to_owned());
        Ok(())
    }

    fn add_checkpoints(&mut self, folder: &Path) -> Result<()> {
        if !is_folder(folder)? {
            return Ok(());
        }
        for run in names(folder)?.iter().filter(|name| is_run(name)) {
            let run = folder.join(run);
            if !is_folder(&run)? {
                continue;
            }
            for set in names(&run)? {
                match checkpoint::is_set(&set) {
                    true => self.add_folder(&run.join(set), checkpoint::is_of_set)?,
                    false => self.foreign.push(run.join(set)),
                }
            }
            self.folders.push(run);
        }
        Ok(())
    }

    fn add_selections(&mut self, folder: &Path) -> Result<()> {
        if !is_folder(folder)? {
            return Ok(());
        }
        for name in names(folder)? {
            let stem = name
                .strip_suffix(EXTENSION)
                .and_then(|stem| stem.strip_suffix('.'));
            let path = folder.join(&name);
            if stem.is_some_and(is_run) && is_file(&path)? {
                self.files.push(path);
            }
        }
        Ok(())
    }

    /// Something that a session made, if there is anything.
    pub(super) fn first(&self) -> Option<&Path> {
        let mut all = self.files.iter().rev().chain(&self.folders);
        all.next().map(PathBuf::as_path)
    }

    /// Refuses to go on where folders of sessions hold something else, which would be removed with them.
    ///
    /// # Errors
    /// They do; the first is named.
    pub(super) fn require_ours(&self) -> Result<()> {
        match self.foreign.first() {
            None => Ok(()),
            Some(path) => Err(Error::in_the_way(
                path,
                "no session made it, and --overwrite does not remove it; move it elsewhere",
            )),
        }
    }

    /// Removes it all, the configuration last, so that a removal that was cut off can be done again.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub(super) fn remove(self) -> Result<()> {
        let (config, files): (Vec<_>, Vec<_>) = self
            .files
            .into_iter()
            .partition(|path| *path == self.dir.join(CONFIG));
        for path in files {
            std::fs::remove_file(&path).map_err(|e| Error::write(&path, e))?;
        }
        for path in self.folders {
            std::fs::remove_dir(&path).map_err(|e| Error::write(&path, e))?;
        }
        // Theirs where anything else is in them.
        for folder in [CHECKPOINTS, SELECTIONS] {
            let _ = std::fs::remove_dir(self.dir.join(folder));
        }
        for path in config {
            std::fs::remove_file(&path).map_err(|e| Error::write(&path, e))?;
        }
        Ok(())
    }
}

/// The folders of runs and of their recordings, in which killed processes leave temporary files.
pub(super) fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    let names = names(dir)?;
    let runs = names.iter().filter(|name| is_run(name));
    let runs = runs.map(|name| dir.join(name));
    Ok(runs.chain([dir.join(SELECTIONS)]).collect())
}

/// Removes the checkpoints of a directory's runs, and nothing else.
pub(super) fn remove_checkpoints(dir: &Path) -> Result<()> {
    let mut found = Layout {
        dir: dir.to_owned(),
        ..Layout::default()
    };
    found.add_checkpoints(&dir.join(CHECKPOINTS))?;
    found.require_ours()?;
    found.remove()
}

fn is_of_run(name: &str) -> bool {
    RUN_FILES
        .iter()
        .chain(&SIDE_FILES)
        .any(|file| *file == name)
}

/// Whether a name is that of a run's folder, also of one that was taken away for a new one which never came.
fn is_runs_folder(name: &str) -> bool {
    is_run(name.strip_prefix(OLD_DIRECTORY).unwrap_or(name))
}

/// Whether a name is METHOD-seedN.
pub(super) fn is_run(name: &str) -> bool {
    let Some((method, seed)) = name.rsplit_once("-seed") else {
        return false;
    };
    let is_method = Method::value_variants().iter().any(|m| m.name() == method);
    is_method && seed.parse::<u64>().is_ok_and(|n| n.to_string() == seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_told_by_method_and_seed() {
        for name in [
            "vblora-seed1",
            "tied-lora-seed0",
            "lora-xs-seed18446744073709551615",
        ] {
            assert!(is_run(name), "{name}");
        }
        for name in [
            "lora-seed01",
            "lora-seed",
            "dora-seed1",
            "lora-seed+1",
            "-seed1",
            "lora-seed1 ",
        ] {
            assert!(!is_run(name), "{name}");
        }
    }

    /// Files of a session, among them half-removed and half-written ones.
    fn session(dir: &Path) {
        for file in [
            "config.toml",
            "results.json",
            "lora-seed1/adapter_config.json",
            "lora-seed1/.tmpAbC123",
            "lora-seed1/.vblora-AbC123",
            "full-seed1/tokenizer.json",
            ".vblora-old-full-seed1/model.safetensors",
            "checkpoints/lora-seed1/step-00000003/manifest.json",
            "checkpoints/lora-seed1/step-00000003/state.json",
            "checkpoints/lora-seed1/.unfinished-xyz/state.json",
            "selections/vblora-seed1.rec",
        ] {
            write(dir, file);
        }
    }

    fn write(dir: &Path, file: &str) {
        let path = dir.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }

    #[test]
    fn all_of_a_session_goes_and_nothing_of_others() {
        let dir = tempfile::tempdir().unwrap();
        session(dir.path());
        let others = [
            "checkpoints/theirs/model.bin",
            "lora-seed01/adapter_config.json",
            "selections/mine.txt",
            "notes.txt",
        ];
        others.iter().for_each(|file| write(dir.path(), file));
        let found = Layout::find(dir.path()).unwrap();
        assert_eq!(found.first(), Some(&*dir.path().join("config.toml")));
        found.require_ours().unwrap();
        found.remove().unwrap();
        let left = ["checkpoints", "lora-seed01", "notes.txt", "selections"];
        assert_eq!(names(dir.path()).unwrap(), left);
        assert!(others.iter().all(|file| dir.path().join(file).is_file()));
        assert!(Layout::find(dir.path()).unwrap().first().is_none());
    }

    #[test]
    fn what_would_go_with_a_sessions_folders_is_named() {
        for theirs in [
            "lora-seed1/notes.txt",
            "lora-seed1/older/adapter_config.json",
            "checkpoints/lora-seed1/best/state.json",
            "checkpoints/lora-seed1/step-00000003/notes.txt",
            "checkpoints/lora-seed1/step-3/state.json",
        ] {
            let dir = tempfile::tempdir().unwrap();
            session(dir.path());
            write(dir.path(), theirs);
            let refused = Layout::find(dir.path()).unwrap().require_ours();
            let message = refused.unwrap_err().to_string();
            let [first, second] = [0, 1].map(|i| theirs.split('/').nth(i).unwrap());
            assert!(
                message.contains(first) && message.contains(second),
                "{message}"
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_under_a_sessions_names_are_refused_wherever_they_are() {
        for link in [
            "log.jsonl",
            "full-seed2",
            "lora-seed1/adapter_model.safetensors",
            "checkpoints",
            "checkpoints/head-seed1",
            "checkpoints/lora-seed1/step-00000009",
            "checkpoints/lora-seed1/step-00000003/tensors.safetensors",
            "selections",
            "selections/vblora-seed2.rec",
        ] {
            let dir = tempfile::tempdir().unwrap();
            session(dir.path());
            let path = dir.path().join(link);
            let _ = std::fs::remove_dir_all(&path);
            std::os::unix::fs::symlink(dir.path().join("config.toml"), &path).unwrap();
            let message = Layout::find(dir.path()).unwrap_err().to_string();
            assert!(
                message.contains(link) && message.contains("symbolic link"),
                "{message}"
            );
        }
    }
}

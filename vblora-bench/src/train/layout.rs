//! The files and folders that sessions make in their directory. A new session must not mix with them, and `--overwrite` removes them.

use std::{
    cell::OnceCell,
    collections::BTreeSet,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use serde::Deserialize;
use vblora::storage::{RegularFile, peft, read_file};
use vblora_models::SIDE_FILES;

use super::{HEAD_FILE, HEAD_SETTINGS, checkpoint, method::Method};
use crate::{
    Error, Result,
    directory::{is_file, is_folder, is_leftover, names},
    limits::MAX_RESULTS_BYTES,
    recordings::{EXTENSION, FOLDER as SELECTIONS},
    tensorboard::FILE_NAME as EVENTS,
};

/// The recipe. It is removed last, because it marks the other files as a session's.
pub(super) const CONFIG: &str = "config.toml";
/// The log of steps and epochs.
pub(super) const LOG: &str = "log.jsonl";
/// The results.
pub(super) const RESULTS: &str = "results.json";
/// The results as a table, made from [`RESULTS`].
pub(super) const TABLE: &str = "table.md";
/// The results as a picture, made from [`RESULTS`].
pub(super) const CURVES: &str = "curves.svg";
/// The model card of an adapter.
pub(super) const CARD: &str = "README.md";
/// The folder of TensorBoard's event files.
pub(super) const TENSORBOARD: &str = "tensorboard";
/// The folder of the runs' checkpoints.
pub(super) const CHECKPOINTS: &str = "checkpoints";

/// The files of a session. Training of causal models adds its answers.
const FILES: [&str; 6] = [RESULTS, TABLE, CURVES, LOG, "answers.json", CONFIG];

/// The files of a run's folder: adapter and head, or a fully trained model. Such a model also has the base's side files.
pub const RUN_FILES: [&str; 9] = [
    CARD,
    peft::CONFIG,
    peft::TENSORS,
    "compact.safetensors",
    "codes.safetensors",
    HEAD_FILE,
    HEAD_SETTINGS,
    "model.safetensors",
    "config.json",
];

/// The prefix of a run's folder that was moved away for a new one ([`vblora::storage::replace_directory`]).
const OLD_DIRECTORY: &str = ".vblora-old-";

/// The files and folders that sessions have made in a directory. A symbolic link under one of their names is an error. Other names belong
/// to the user.
#[derive(Debug, Default)]
pub(super) struct Layout {
    dir: PathBuf,
    /// Files in the order in which they may be removed.
    files: Vec<PathBuf>,
    /// Folders, inner ones first.
    folders: Vec<PathBuf>,
    /// Foreign files inside folders that are removed as a whole.
    foreign: Vec<PathBuf>,
    /// Folders with the names of runs that no session here has made, and with something in them.
    strangers: Vec<PathBuf>,
}

impl Layout {
    /// Searches an existing directory.
    ///
    /// # Errors
    /// The directory cannot be read; something else, such as a symbolic link, has the name of a session's file or folder.
    pub(super) fn find(dir: &Path) -> Result<Self> {
        let mut found = Self {
            dir: dir.to_owned(),
            ..Self::default()
        };
        let known = Known::default();
        for name in names(dir)?.iter().filter(|name| is_runs_folder(name)) {
            // A user's folder may have such a name.
            let is_ours = |file: &str| is_of_run(file) && known.has(dir, name);
            let folder = dir.join(name);
            found.add_folder(&folder, is_ours)?;
            if !known.has(dir, name) && !names(&folder)?.is_empty() {
                found.strangers.push(folder);
            }
        }
        found.add_checkpoints(&dir.join(CHECKPOINTS))?;
        found.add_selections(&dir.join(SELECTIONS))?;
        found.add_events(&dir.join(TENSORBOARD))?;
        for path in FILES.map(|name| dir.join(name)) {
            if is_file(&path)? {
                found.files.push(path);
            }
        }
        Ok(found)
    }

    /// Adds a folder in which only certain files can belong to a session.
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

    fn add_events(&mut self, folder: &Path) -> Result<()> {
        if !is_folder(folder)? {
            return Ok(());
        }
        for run in names(folder)?.iter().filter(|name| is_run(name)) {
            self.add_folder(&folder.join(run), |name| name == EVENTS)?;
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

    /// What a session's folders hold that no session here has made. A folder that is no run of a session stands for all in it.
    pub(super) fn into_foreign(self) -> Vec<PathBuf> {
        let Self {
            foreign, strangers, ..
        } = self;
        let alone = |path: &PathBuf| !strangers.iter().any(|folder| path.starts_with(folder));
        let mut found: Vec<_> = foreign.into_iter().filter(alone).collect();
        found.extend(strangers);
        found
    }

    /// One file or folder that a session made, if any.
    pub(super) fn first(&self) -> Option<&Path> {
        let mut all = self.files.iter().rev().chain(&self.folders);
        all.next().map(PathBuf::as_path)
    }

    /// Refuses foreign files in a session's folders, because they would be removed too.
    ///
    /// # Errors
    /// There is a foreign file. The error names the first one.
    pub(super) fn require_ours(&self) -> Result<()> {
        match self.foreign.first() {
            None => Ok(()),
            Some(path) => Err(Error::in_the_way(
                path,
                "no session made it, and --overwrite does not remove it; move it elsewhere",
            )),
        }
    }

    /// Refuses to go on with a session where a folder has the name of a run and is no run of the session's. It would be written into.
    ///
    /// # Errors
    /// There is one; the first is named.
    pub(super) fn require_no_strangers(&self) -> Result<()> {
        match self.strangers.first() {
            None => Ok(()),
            Some(path) => Err(Error::in_the_way(
                path,
                "it has the name of a run, and neither results, log nor checkpoints here know that run; move it elsewhere",
            )),
        }
    }

    /// Removes everything, the configuration last, so that an interrupted removal can be repeated.
    ///
    /// # Errors
    /// A file or folder cannot be removed.
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
        // They belong to the user if anything else is in them.
        for folder in [CHECKPOINTS, SELECTIONS, TENSORBOARD] {
            let _ = std::fs::remove_dir(self.dir.join(folder));
        }
        for path in config {
            std::fs::remove_file(&path).map_err(|e| Error::write(&path, e))?;
        }
        Ok(())
    }
}

/// The folders of runs, of their recordings and of their event files. Killed processes leave temporary files in them.
pub(super) fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    let runs_of = |dir: PathBuf| {
        let runs = names(&dir)?.into_iter().filter(|name| is_run(name));
        Ok::<_, Error>(runs.map(|name| dir.join(name)).collect::<Vec<_>>())
    };
    let mut folders = runs_of(dir.to_owned())?;
    let events = dir.join(TENSORBOARD);
    if events.is_dir() {
        folders.extend(runs_of(events)?);
    }
    folders.push(dir.join(SELECTIONS));
    Ok(folders)
}

/// The files that training makes in a run's folder, without the card.
pub(super) fn trained_files(folder: &Path) -> Result<Vec<String>> {
    let is_trained = |name: &String| is_of_run(name) && name != CARD;
    Ok(names(folder)?.into_iter().filter(is_trained).collect())
}

/// Removes what an earlier process has saved in the folder of a run that starts from its first step again, and nothing of others.
///
/// The log forgets such a run next. A folder without any trace of its run would be nobody's, should this process be killed then.
pub(super) fn clear_run(folder: &Path) -> Result<()> {
    if !is_folder(folder)? {
        return Ok(());
    }
    let is_ours = |name: &&String| is_of_run(name) || is_leftover(name);
    for name in names(folder)?.iter().filter(is_ours) {
        let path = folder.join(name);
        if is_file(&path)? {
            std::fs::remove_file(&path).map_err(|e| Error::write(&path, e))?;
        }
    }
    // Somebody else's where anything else is in it.
    let _ = std::fs::remove_dir(folder);
    Ok(())
}

/// Removes the checkpoints of a directory's runs and nothing else.
pub(super) fn remove_checkpoints(dir: &Path) -> Result<()> {
    let mut found = Layout {
        dir: dir.to_owned(),
        ..Layout::default()
    };
    found.add_checkpoints(&dir.join(CHECKPOINTS))?;
    found.require_ours()?;
    found.remove()
}

/// The names of the runs that sessions in a directory have made. They are read on the first use.
#[derive(Default)]
struct Known(OnceCell<BTreeSet<String>>);

impl Known {
    /// Returns true if results, log or checkpoints know the run of this folder.
    fn has(&self, dir: &Path, folder: &str) -> bool {
        // No other program uses this prefix.
        if folder.starts_with(OLD_DIRECTORY) {
            return true;
        }
        self.0.get_or_init(|| runs_of(dir)).contains(folder)
    }
}

/// The runs that a directory's files name. Unreadable files name none.
fn runs_of(dir: &Path) -> BTreeSet<String> {
    #[derive(Deserialize)]
    struct Line {
        run: String,
    }
    #[derive(Deserialize)]
    struct Ended {
        method: String,
        seed: u64,
    }
    #[derive(Deserialize)]
    struct Outcome {
        runs: Vec<Ended>,
    }
    let checkpoints = dir.join(CHECKPOINTS);
    let has_set = |run: &String| {
        let sets = names(&checkpoints.join(run)).unwrap_or_default();
        sets.iter().any(|set| checkpoint::is_set(set))
    };
    let saved = names(&checkpoints).unwrap_or_default();
    let mut runs: BTreeSet<String> = saved.into_iter().filter(has_set).collect();
    if let Ok(text) = read_file(&dir.join(RESULTS), MAX_RESULTS_BYTES)
        && let Ok(outcome) = serde_json::from_slice::<Outcome>(&text)
    {
        let ended = outcome.runs.into_iter();
        runs.extend(ended.map(|run| format!("{}-seed{}", run.method, run.seed)));
    }
    if let Ok(log) = RegularFile::open(&dir.join(LOG)) {
        let lines = BufReader::new(log.stream()).split(b'\n');
        let lines = lines.map_while(io::Result::ok);
        let lines = lines.filter_map(|line| serde_json::from_slice::<Line>(&line).ok());
        runs.extend(lines.map(|line| line.run.replacen(" seed ", "-seed", 1)));
    }
    runs
}

fn is_of_run(name: &str) -> bool {
    RUN_FILES
        .iter()
        .chain(&SIDE_FILES)
        .any(|file| *file == name)
}

/// Returns true if the name is that of a run's folder, or of one that was moved away for a new folder that never came.
fn is_runs_folder(name: &str) -> bool {
    is_run(name.strip_prefix(OLD_DIRECTORY).unwrap_or(name))
}

/// Returns true if the name is METHOD-seedN.
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

    /// Files of a session, including half-removed and half-written ones.
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
            "tensorboard/lora-seed1/events.out.tfevents.vblora",
            "lora-seed1/README.md",
        ] {
            write(dir, file);
        }
        let line = r#"{"event":"step","run":"full seed 1","step":0}"#;
        std::fs::write(dir.join("log.jsonl"), format!("{line}\nhalf a li")).unwrap();
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
            "tensorboard/theirs/events.out.tfevents.1.host",
            "notes.txt",
        ];
        others.iter().for_each(|file| write(dir.path(), file));
        let found = Layout::find(dir.path()).unwrap();
        assert_eq!(found.first(), Some(&*dir.path().join("config.toml")));
        found.require_ours().unwrap();
        found.remove().unwrap();
        let left = [
            "checkpoints",
            "lora-seed01",
            "notes.txt",
            "selections",
            "tensorboard",
        ];
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
            // The name is that of a run, but the session has no such run.
            "lora-seed7/adapter_config.json",
            "vblora-seed1/adapter_model.safetensors",
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

    #[test]
    fn a_run_that_begins_again_loses_its_own_files_alone() {
        let dir = tempfile::tempdir().unwrap();
        session(dir.path());
        let of = |name: &str| dir.path().join("lora-seed1").join(name);
        clear_run(&of("")).unwrap();
        assert!(!of("").exists());
        write(dir.path(), "lora-seed1/compact.safetensors");
        write(dir.path(), "lora-seed1/notes.txt");
        clear_run(&of("")).unwrap();
        assert_eq!(names(&of("")).unwrap(), ["notes.txt"]);
        clear_run(&dir.path().join("absent")).unwrap();
    }

    #[test]
    fn strangers_are_folders_of_unknown_runs_with_something_in_them() {
        let dir = tempfile::tempdir().unwrap();
        session(dir.path());
        std::fs::create_dir(dir.path().join("head-seed9")).unwrap();
        write(dir.path(), "mine-seed1/model.bin");
        let found = || Layout::find(dir.path()).unwrap();
        found().require_no_strangers().unwrap();
        write(dir.path(), "head-seed9/notes.txt");
        let message = found().require_no_strangers().unwrap_err().to_string();
        assert!(message.contains("head-seed9"), "{message}");
    }

    #[test]
    fn runs_are_known_by_results_log_or_checkpoints() {
        let dir = tempfile::tempdir().unwrap();
        session(dir.path());
        let known = Known::default();
        let has = |folder| known.has(dir.path(), folder);
        assert!(has("full-seed1") && has("lora-seed1") && has(".vblora-old-head-seed1"));
        assert!(!has("vblora-seed1"));
        let results = r#"{"runs": [{"method": "vblora", "seed": 1, "more": []}]}"#;
        std::fs::write(dir.path().join(RESULTS), results).unwrap();
        assert!(Known::default().has(dir.path(), "vblora-seed1"));
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
            "tensorboard",
            "tensorboard/lora-seed1",
            "tensorboard/lora-seed1/events.out.tfevents.vblora",
        ] {
            let dir = tempfile::tempdir().unwrap();
            session(dir.path());
            let path = dir.path().join(link);
            let _ = std::fs::remove_dir_all(&path);
            let _ = std::fs::remove_file(&path);
            std::os::unix::fs::symlink(dir.path().join("config.toml"), &path).unwrap();
            let message = Layout::find(dir.path()).unwrap_err().to_string();
            assert!(
                message.contains(link) && message.contains("symbolic link"),
                "{message}"
            );
        }
    }
}

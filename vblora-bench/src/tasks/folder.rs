//! Finds the file of a split in a data directory.

use std::path::{Path, PathBuf};

use super::{example::SplitName, task::Task};
use crate::{Error, Result};

/// The file of the split. [`super::read_split`] lists the accepted names.
pub(super) fn find(dir: &Path, task: &Task, name: SplitName) -> Result<PathBuf> {
    if task.is_text() {
        let reason = "it is not a GLUE task and has no split files".into();
        return Err(no_split(task, name, dir, reason));
    }
    let folder = task_folder(dir, task, name)?;
    let exact = folder.join(format!("{}.tsv", name.name()));
    // Anything under this name is accepted here. Reading it reports errors.
    if exact.symlink_metadata().is_ok() {
        return Ok(exact);
    }
    if name == SplitName::Dev {
        // Results on a part of dev are not comparable with published ones, so only train has a second choice.
        return Err(no_split(task, name, &folder, "no dev.tsv".into()));
    }
    let mut parts = partial_trains(&folder)?;
    match (parts.pop(), parts.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => Err(no_split(
            task,
            name,
            &folder,
            "neither train.tsv nor one train*.tsv".into(),
        )),
        (Some(_), others) => {
            let reason = format!(
                "no train.tsv, and {} files named train*.tsv to choose from",
                others + 1
            );
            Err(no_split(task, name, &folder, reason))
        }
    }
}

/// The folder of the task: a subfolder of `dir` with its name, or `dir` itself.
fn task_folder(dir: &Path, task: &Task, name: SplitName) -> Result<PathBuf> {
    let mut folders: Vec<PathBuf> = entries(dir)?
        .into_iter()
        .filter(|path| is_named(path, task) && path.is_dir())
        .collect();
    if folders.len() > 1 {
        let reason = format!("{} folders that differ only in spelling", folders.len());
        return Err(no_split(task, name, dir, reason));
    }
    if let Some(folder) = folders.pop() {
        return Ok(folder);
    }
    match task_of(dir) {
        // The columns of RTE and MRPC are compatible, so one task's files could be read for the other.
        Some(other) if other.name() != task.name() => Err(no_split(
            task,
            name,
            dir,
            format!("this is the folder of {other}, and no folder {task}"),
        )),
        _ if has_tsv(dir)? => Ok(dir.to_path_buf()),
        _ => Err(no_split(
            task,
            name,
            dir,
            format!("no folder {task} and no split file"),
        )),
    }
}

/// Returns true if the folder is named after the task. Its metrics do not count.
fn is_named(path: &Path, task: &Task) -> bool {
    task_of(path).is_some_and(|named| named.name() == task.name())
}

/// The task that a folder is named after. Case and hyphens do not count (`SST-2`, `sst2`).
fn task_of(path: &Path) -> Option<Task> {
    let name = path.file_name()?.to_str()?;
    let plain: String = name.chars().filter(|c| !matches!(c, '-' | '_')).collect();
    let task = plain.to_ascii_lowercase().parse().ok();
    task.filter(|task: &Task| !task.is_text())
}

fn has_tsv(dir: &Path) -> Result<bool> {
    Ok(entries(dir)?.iter().any(|path| {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("");
        (name.starts_with("train") || name.starts_with("dev")) && name.ends_with(".tsv")
    }))
}

fn partial_trains(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_train = |path: &PathBuf| {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("");
        name.starts_with("train") && name.ends_with(".tsv") && path.is_file()
    };
    Ok(entries(folder)?.into_iter().filter(is_train).collect())
}

/// The paths in a directory, sorted, so that messages do not depend on the file system.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = std::fs::read_dir(dir).map_err(|e| Error::read(dir, e))?;
    let paths: std::io::Result<Vec<PathBuf>> = list.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.map_err(|e| Error::read(dir, e))?;
    paths.sort();
    Ok(paths)
}

fn no_split(task: &Task, name: SplitName, dir: &Path, reason: String) -> Error {
    let (split, task, dir) = (name.name(), task.name().to_owned(), dir.to_path_buf());
    Error::NoSplit {
        split,
        task,
        dir,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::read_split;

    const SST2: &str = "sentence\tlabel\ngood \t1\n";

    fn put(dir: &Path, path: &str, text: &str) {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn message(dir: &Path, task: &Task, name: SplitName) -> String {
        read_split(dir, task, name).unwrap_err().to_string()
    }

    #[test]
    fn glue_spellings_and_the_folder_itself_are_found() {
        for folder in ["sst2/", "SST-2/", "sst_2/", "Sst2/", ""] {
            let dir = tempfile::tempdir().unwrap();
            put(dir.path(), &format!("{folder}train.tsv"), SST2);
            let split = read_split(dir.path(), &Task::sst2(), SplitName::Train).unwrap();
            assert_eq!(split.source, dir.path().join(format!("{folder}train.tsv")));
            assert_eq!(split.examples[0].a, "good");
        }
    }

    #[test]
    fn one_partial_train_file_is_taken_and_named_but_no_partial_dev() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "sst2/train_1k.tsv", SST2);
        put(dir.path(), "sst2/dev_1k.tsv", SST2);
        let split = read_split(dir.path(), &Task::sst2(), SplitName::Train).unwrap();
        assert!(split.source.ends_with("train_1k.tsv"));
        assert!(message(dir.path(), &Task::sst2(), SplitName::Dev).contains("no dev.tsv"));
        put(dir.path(), "sst2/train_2k.tsv", SST2);
        assert!(
            message(dir.path(), &Task::sst2(), SplitName::Train)
                .contains("2 files named train*.tsv")
        );
        put(dir.path(), "sst2/train.tsv", SST2);
        let split = read_split(dir.path(), &Task::sst2(), SplitName::Train).unwrap();
        assert!(split.source.ends_with("train.tsv"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("nowhere");
        let error = message(&absent, &Task::rte(), SplitName::Train);
        assert!(
            error.contains("nowhere") && error.contains("cannot read"),
            "{error}"
        );
        assert!(message(dir.path(), &Task::rte(), SplitName::Train).contains("no folder rte"));
        put(dir.path(), "RTE/other.tsv", SST2);
        let error = message(dir.path(), &Task::rte(), SplitName::Dev);
        assert!(
            error.contains("dev.tsv") && error.contains("RTE"),
            "{error}"
        );
        assert!(message(dir.path(), &Task::rte(), SplitName::Train).contains("neither"));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_refused_as_that() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "sst2/train.tsv", SST2);
        let dev = dir.path().join("sst2/dev.tsv");
        let made = std::process::Command::new("mkfifo").arg(&dev).status();
        assert!(made.unwrap().success());
        let error = message(dir.path(), &Task::sst2(), SplitName::Dev);
        assert!(
            error.contains("dev.tsv") && error.contains("expected a regular file"),
            "{error}"
        );
    }

    #[test]
    fn another_tasks_folder_and_two_spellings_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "sst2/train.tsv", SST2);
        let error = message(&dir.path().join("sst2"), &Task::rte(), SplitName::Train);
        assert!(error.contains("folder of sst2"), "{error}");
        put(dir.path(), "SST-2/train.tsv", SST2);
        let error = message(dir.path(), &Task::sst2(), SplitName::Train);
        assert!(error.contains("differ only in spelling"), "{error}");
    }
}

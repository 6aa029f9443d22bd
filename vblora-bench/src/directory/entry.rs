//! Reads directory entries without following symbolic links. A write through a link would land elsewhere.

use std::{
    fs::{FileType, Metadata},
    io,
    path::{Path, PathBuf},
};

use vblora::storage::{self, is_unfinished};

use crate::{Error, Result};

/// Prefix of temporary file names in earlier versions, and the number of letters and digits after it.
const EARLIER: (&str, usize) = (".tmp", 6);

/// Returns true if there is a plain file at `path`.
///
/// # Errors
/// Something else is there, such as a symbolic link.
pub(crate) fn is_file(path: &Path) -> Result<bool> {
    is(path, FileType::is_file, "a plain file")
}

/// Returns true if there is a directory at `path`.
///
/// # Errors
/// Something else is there, such as a symbolic link.
pub(crate) fn is_folder(path: &Path) -> Result<bool> {
    is(path, FileType::is_dir, "a directory")
}

fn is(path: &Path, is_expected: fn(&FileType) -> bool, expected: &str) -> Result<bool> {
    let Some(found) = look(path)? else {
        return Ok(false);
    };
    match found.file_type() {
        kind if is_expected(&kind) => Ok(true),
        kind if kind.is_symlink() => Err(link(path)),
        _ => Err(Error::in_the_way(path, format!("it is not {expected}"))),
    }
}

/// Refuses a symbolic link at `path`.
///
/// # Errors
/// There is one.
pub(crate) fn require_no_link(path: &Path) -> Result<()> {
    match look(path)? {
        Some(found) if found.is_symlink() => Err(link(path)),
        _ => Ok(()),
    }
}

fn link(path: &Path) -> Error {
    Error::in_the_way(path, "it is a symbolic link, which is not followed")
}

fn look(path: &Path) -> Result<Option<Metadata>> {
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::read(path, error)),
    }
}

/// Returns true if both paths lead to one file or directory, which need not exist.
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    let [one, other] = [one, other].map(|path| real(path).ok());
    one.is_some() && one == other
}

/// The path without links and dots. Its last parts need not exist.
fn real(path: &Path) -> io::Result<PathBuf> {
    if let Ok(found) = path.canonicalize() {
        return Ok(found);
    }
    let whole = std::path::absolute(path)?;
    match (whole.parent(), whole.file_name()) {
        (Some(parent), Some(name)) => Ok(real(parent)?.join(name)),
        _ => Ok(whole),
    }
}

/// The names in a directory, sorted.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>> {
    let failed = |cause| Error::read(folder, cause);
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let name = |entry: io::Result<std::fs::DirEntry>| {
        let name = entry.map_err(failed)?.file_name();
        Ok(name.to_string_lossy().into_owned())
    };
    let mut names = entries.map(name).collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Returns true if the name is one of our temporary file names.
pub(crate) fn is_leftover(name: &str) -> bool {
    is_unfinished(name) || is_earlier_leftover(name)
}

fn is_earlier_leftover(name: &str) -> bool {
    let (start, length) = EARLIER;
    name.strip_prefix(start).is_some_and(|random| {
        random.len() == length && random.chars().all(|c| c.is_ascii_alphanumeric())
    })
}

/// Removes the temporary files that killed processes left in `folder`, including those of earlier versions. Only the process that may write
/// there calls this.
///
/// # Errors
/// The folder cannot be read, or a file cannot be removed.
pub(crate) fn clear_leftovers(folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    storage::clear_leftovers(folder);
    for name in names(folder)?
        .iter()
        .filter(|name| is_earlier_leftover(name))
    {
        let path = folder.join(name);
        if look(&path)?.is_some_and(|found| found.is_file()) {
            std::fs::remove_file(&path).map_err(|cause| Error::write(&path, cause))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_files_of_killed_writers_are_cleared_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let others = [".tmp", ".tmpAbC12", ".tmp-AbC123", "tmpAbC123", "log.jsonl"];
        for name in others.iter().chain(&[".tmpAbC123", ".vblora-AbC123"]) {
            std::fs::write(at(name), "x").unwrap();
        }
        std::fs::create_dir(at(".tmpfolder")).unwrap();
        clear_leftovers(dir.path()).unwrap();
        let mut expected: Vec<&str> = [&others[..], &[".tmpfolder"]].concat();
        expected.sort_unstable();
        assert_eq!(names(dir.path()).unwrap(), expected);
        clear_leftovers(&at("absent")).unwrap();
    }

    #[test]
    fn a_file_has_one_place_before_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(is_same(&at("new/file"), &at("./new/file")));
        assert!(!is_same(&at("new/file"), &at("file")));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(dir.path(), at("link")).unwrap();
            assert!(is_same(&at("link/file"), &at("file")));
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_neither_files_nor_directories() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("folder")).unwrap();
        std::fs::write(at("file"), "x").unwrap();
        assert!(is_folder(&at("folder")).unwrap() && is_file(&at("file")).unwrap());
        assert!(!is_file(&at("absent")).unwrap());
        for (target, name) in [("folder", "a"), ("file", "b"), ("absent", "c")] {
            std::os::unix::fs::symlink(at(target), at(name)).unwrap();
            for error in [is_folder(&at(name)), is_file(&at(name))] {
                let message = error.unwrap_err().to_string();
                assert!(message.contains(name) && message.contains("symbolic link"));
            }
            require_no_link(&at(name)).unwrap_err();
        }
        let message = is_file(&at("folder")).unwrap_err().to_string();
        assert!(message.contains("not a plain file"), "{message}");
    }
}

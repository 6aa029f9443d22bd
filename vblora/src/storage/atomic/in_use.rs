//! Directories that a running process has locked.

use std::{
    fs::{File, TryLockError},
    io::Read,
    path::Path,
};

use crate::{Error, Result};

/// The ending of lock files' names: a session's, a sweep's.
const ENDING: &str = "lock";

/// The most bytes that are read of a holder's text. A process id and a host's name have fewer.
const HOLDER_BYTES: u64 = 300;

/// Takes the locks in a directory and in its parent, so that no process begins to work there meanwhile.
///
/// # Errors
/// A process holds one of them.
pub(super) fn hold(target: &Path) -> Result<Vec<File>> {
    let above = target
        .parent()
        .map(|above| match above.as_os_str().is_empty() {
            true => Path::new("."),
            false => above,
        });
    let mut held = Vec::new();
    for folder in [Some(target), above].into_iter().flatten() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if !is_file || path.extension().is_none_or(|ending| ending != ENDING) {
                continue;
            }
            let Ok(file) = File::open(&path) else {
                continue;
            };
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Err(in_use(target, &path, &file)),
                // Some file systems have no locks.
                Ok(()) | Err(TryLockError::Error(_)) => held.push(file),
            }
        }
    }
    Ok(held)
}

fn in_use(target: &Path, lock: &Path, file: &File) -> Error {
    Error::Format {
        path: target.to_owned(),
        reason: format!(
            "in use and not replaced: {} is locked by {:?}",
            lock.display(),
            lock_holder(file)
        ),
    }
}

/// The process that holds a lock file, as the file's text names it. The text has no control characters.
pub fn lock_holder(file: &File) -> String {
    let mut words = Vec::new();
    let _ = file.take(HOLDER_BYTES).read_to_end(&mut words);
    let words = String::from_utf8_lossy(&words);
    let words: String = words.trim().chars().filter(|c| !c.is_control()).collect();
    match words.is_empty() {
        true => "another process".into(),
        false => words,
    }
}

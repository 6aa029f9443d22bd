//! The lock of a directory: a file in it that only one process can lock at a time.

use std::{
    fs::{File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use vblora::storage::lock_holder;

use super::entry::is_file;
use crate::{Error, Result};

/// The lock of a directory. The operating system releases it when the value is dropped or the process ends in any way. The file that a
/// killed process leaves blocks nobody. It names the process and its host, for messages.
#[derive(Debug)]
pub struct DirLock {
    path: PathBuf,
    file: File,
}

impl DirLock {
    /// Takes the lock `name` of the existing directory `dir`.
    ///
    /// # Errors
    /// Another process holds the lock; the file cannot be written, or is a symbolic link.
    pub(crate) fn take(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(name);
        loop {
            is_file(&path)?;
            let mut options = File::options();
            let file = options.read(true).write(true).create(true).truncate(false);
            let file = file.open(&path).map_err(|e| Error::write(&path, e))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::InUse {
                        dir: dir.to_owned(),
                        holder: lock_holder(&file),
                    });
                }
                // Some network file systems have no locks. They are written to without one.
                Err(TryLockError::Error(cause)) if cause.kind() == io::ErrorKind::Unsupported => {
                    let dir = dir.display();
                    tracing::warn!(
                        "{dir} cannot be locked: do not run a second process on it ({cause})"
                    );
                }
                Err(TryLockError::Error(cause)) => return Err(Error::write(&path, cause)),
            }
            // The previous holder may have removed the file between opening and locking.
            if is_at(&file, &path) {
                let lock = Self { path, file };
                lock.sign();
                return Ok(lock);
            }
        }
    }

    /// Writes the holder's name into the file. The lock holds without this text too.
    fn sign(&self) {
        let host = host().map_or(String::new(), |host| format!(" on {host}"));
        let words = format!("process {}{host}\n", std::process::id());
        let _ = self.file.set_len(0);
        let _ = (&self.file).write_all(words.as_bytes());
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // The file is still locked, so no other process has taken it.
        if is_at(&self.file, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn host() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("HOSTNAME").ok());
    let name = name.or_else(|| std::env::var("COMPUTERNAME").ok())?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Returns true if the open file is the one at `path`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(open), Ok(found)) = (file.metadata(), std::fs::symlink_metadata(path)) else {
        return false;
    };
    (open.dev(), open.ino()) == (found.dev(), found.ino())
}

/// Always true: other systems cannot remove a file while it is open.
#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "a.lock";

    #[test]
    fn one_has_it_at_a_time_and_the_other_is_told_who() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::take(dir.path(), NAME).unwrap();
        let message = DirLock::take(dir.path(), NAME).unwrap_err().to_string();
        let process = format!("process {}", std::process::id());
        let place = dir.path().display().to_string();
        assert!(
            message.contains(&place) && message.contains(&process) && message.lines().count() == 1,
            "{message}"
        );
        drop(lock);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        DirLock::take(dir.path(), NAME).unwrap();
    }

    #[test]
    fn the_file_of_a_killed_process_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        std::fs::write(
            &path,
            "process 1 on a host whose name is longer than this one's\n",
        )
        .unwrap();
        let lock = DirLock::take(dir.path(), NAME).unwrap();
        let words = std::fs::read_to_string(&path).unwrap();
        let process = format!("process {}", std::process::id());
        assert!(
            words.starts_with(&process) && words.lines().count() == 1,
            "{words}"
        );
        drop(lock);
    }

    #[test]
    fn what_came_in_place_of_a_lock_is_not_removed_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::take(dir.path(), NAME).unwrap();
        std::fs::remove_file(dir.path().join(NAME)).unwrap();
        let second = DirLock::take(dir.path(), NAME).unwrap();
        drop(first);
        DirLock::take(dir.path(), NAME).unwrap_err();
        drop(second);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "mine").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join(NAME)).unwrap();
        let message = DirLock::take(dir.path(), NAME).unwrap_err().to_string();
        assert!(message.contains("symbolic link"), "{message}");
        assert_eq!(std::fs::read(&victim).unwrap(), b"mine");
    }
}

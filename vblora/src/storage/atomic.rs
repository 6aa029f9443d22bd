//! Files and directories that appear whole or not at all.

mod directory;
mod exclusive;
mod in_use;

use std::{
    fs::{File, TryLockError},
    io::{self, Write},
    path::Path,
};

pub use directory::replace_directory;
pub use exclusive::{create_at, write_to};
pub use in_use::lock_holder;

use crate::{Error, Result};

/// The prefix of files and directories that are being written. Their writer locks them for as long as it lives.
pub(super) const UNFINISHED: &str = ".vblora-";

/// The number of random letters and digits after the prefix.
const RANDOM: usize = 6;

/// The prefix of directories that were moved away for a new one. They must come back if the new one never came.
const OLD: &str = ".vblora-old-";

/// Errors of file systems without such a rename. On some systems two of these names are one error.
#[cfg(any(target_vendor = "apple", target_os = "linux", target_os = "android"))]
const UNSUPPORTED: [rustix::io::Errno; 4] = {
    use rustix::io::Errno;
    [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP, Errno::OPNOTSUPP]
};

/// Writes `bytes` to `path`. They go into a temporary file beside it, which is synced and then renamed to `path`. So a reader sees the old
/// content or the new one and never a part, also after a crash. Missing parent folders are made, and leftovers of killed writers beside
/// `path` are removed.
///
/// # Errors
/// The operating system refuses; an older file at `path` is then untouched.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes).map_err(|cause| Error::Io {
        path: path.to_owned(),
        cause,
    })
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A bare file name has the empty parent, which stands for the current directory.
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    clear_leftovers(folder);
    let (mut file, _lock) = locked(|| temporary(folder))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_folder(folder)
}

/// Makes a folder and its parents if absent.
///
/// # Errors
/// The operating system refuses, or the folder is a symbolic link: files written into it would land elsewhere.
pub(super) fn make_folder(folder: &Path) -> Result<()> {
    let made = std::fs::create_dir_all(folder).and_then(|()| {
        match std::fs::symlink_metadata(folder)?.is_symlink() {
            true => Err(io::Error::other("a symbolic link, which is not followed")),
            false => Ok(()),
        }
    });
    made.map_err(|cause| Error::Io {
        path: folder.to_owned(),
        cause,
    })
}

/// Removes the leftovers of killed writers in `folder`, as far as possible. The files of a living writer stay. Without locks the two look
/// alike, so on such a file system everything stays.
pub fn clear_leftovers(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !is_unfinished(&name) {
            continue;
        }
        let path = entry.path();
        let remove = match entry.file_type() {
            Ok(kind) if kind.is_dir() => std::fs::remove_dir_all,
            Ok(kind) if kind.is_file() => std::fs::remove_file,
            _ => continue,
        };
        // The lock is held until the file is gone. A writer whose file is about to go cannot lock it any more, and takes another name.
        if let Ok(lock) = File::open(&path)
            && lock.try_lock().is_ok()
        {
            // An error is ignored: the folder may not be ours to write in, or another process clears it at the same time.
            let _ = remove(path.as_path());
        }
    }
}

/// True if a name is one that a writer gives. Users may have files that only begin with the prefix.
pub fn is_unfinished(name: &str) -> bool {
    let random = name.strip_prefix(UNFINISHED);
    random.is_some_and(|r| r.len() == RANDOM && r.chars().all(|c| c.is_ascii_alphanumeric()))
}

/// Makes a file or directory and locks it, so that others see that its writer lives. The lock ends with the process.
fn locked<T: AsRef<Path>>(make: impl Fn() -> io::Result<T>) -> io::Result<(T, Option<File>)> {
    loop {
        let made = make()?;
        let lock = match File::open(made.as_ref()) {
            Ok(lock) => lock,
            // Someone took it for a leftover before it was opened.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
            // The file system has no locks, so nobody clears anything there.
            Err(_) => return Ok((made, None)),
        };
        match lock.try_lock() {
            // Someone took it for a leftover before it was locked.
            Err(TryLockError::WouldBlock) => {}
            Ok(()) if std::fs::symlink_metadata(made.as_ref()).is_err() => {}
            Ok(()) => return Ok((made, Some(lock))),
            Err(TryLockError::Error(_)) => return Ok((made, None)),
        }
    }
}

/// Temporary files are private by default; a result is as readable as the user's umask lets any file be.
fn temporary(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    builder(0o666).tempfile_in(folder)
}

fn builder(_mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED).rand_bytes(RANDOM);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(_mode));
    builder
}

/// Syncs the folder, so that a crash does not undo the rename.
#[cfg(unix)]
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
pub(super) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/a.bin");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1
        );
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_it_as_any_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write_atomically(&ours, b"x").unwrap();
        std::fs::write(&plain, b"x").unwrap();
        assert_eq!(mode(&ours), mode(&plain));
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_is_replaced_or_refused_but_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("target"), b"mine").unwrap();
        std::os::unix::fs::symlink(at("target"), at("link")).unwrap();
        write_atomically(&at("link"), b"new").unwrap();
        assert_eq!(std::fs::read(at("target")).unwrap(), b"mine");
        assert_eq!(std::fs::read(at("link")).unwrap(), b"new");
        std::fs::create_dir(at("elsewhere")).unwrap();
        std::os::unix::fs::symlink(at("elsewhere"), at("folder")).unwrap();
        let message = make_folder(&at("folder")).unwrap_err().to_string();
        assert!(message.contains("symbolic link"), "{message}");
        make_folder(&at("elsewhere/deep/er")).unwrap();
    }

    #[test]
    fn what_killed_writers_left_is_cleared_and_what_a_living_one_writes_stays() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at(".vblora-abc123"), "half").unwrap();
        std::fs::create_dir(at(".vblora-def456")).unwrap();
        std::fs::write(at(".vblora-def456/file"), "half").unwrap();
        std::fs::write(at("mine"), "x").unwrap();
        std::fs::write(at(".vblora-notes-of-mine"), "x").unwrap();
        let (living, _lock) = locked(|| temporary(folder.path())).unwrap();
        write_atomically(&at("new"), b"x").unwrap();
        let names = std::fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().path()).collect();
        names.sort();
        let mut expected = [
            living.path().to_owned(),
            at(".vblora-notes-of-mine"),
            at("mine"),
            at("new"),
        ];
        // The name of the living writer's file is random.
        expected.sort();
        assert_eq!(names, expected, "two leftovers went");
    }

    #[test]
    fn an_error_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_atomically(&path, b"x").unwrap();
        let message = write_atomically(&path.join("below"), b"y")
            .unwrap_err()
            .to_string();
        assert!(message.contains("file/below"), "{message}");
    }
}

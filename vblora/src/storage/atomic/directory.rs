//! A directory that takes the place of another in one step.

use std::{
    ffi::OsString,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{OLD, builder, clear_leftovers, locked, sync_folder};
use crate::{Error, Result};

/// Makes a directory that appears at `target` whole or not at all, also after a crash. `fill` gets an empty directory beside `target` and
/// writes its files there. They are synced, and the two directories are exchanged in one step. Then the older one is removed with all its
/// files. Missing parents are made, and leftovers of killed writers beside `target` are removed.
///
/// This function replaces any older directory, so the caller must check first that it may go. On a file system that cannot exchange
/// directories, the older one is first renamed to `.vblora-old-NAME`. A process that is killed between the two renames leaves it there, and
/// the next call puts it back.
///
/// # Errors
/// `fill` fails; `target` has no name, is a symbolic link (never followed), or is no directory; the operating system refuses. The old
/// content of `target` is then still there.
pub fn replace_directory<T, E: From<Error>>(
    target: &Path,
    fill: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    let place = Place::new(target)?;
    place.check_replaceable()?;
    let io_error = |cause| Error::Io {
        path: target.to_owned(),
        cause,
    };
    let (new, _lock) = place.prepare().map_err(io_error)?;
    let filled = fill(new.path())?;
    place.appear(new).map_err(io_error)?;
    Ok(filled)
}

/// The place of the directory.
pub(super) struct Place {
    target: PathBuf,
    parent: PathBuf,
    name: OsString,
}

impl Place {
    pub(super) fn new(target: &Path) -> Result<Self> {
        let name = target.file_name().ok_or_else(|| Error::Format {
            path: target.to_owned(),
            reason: "no name for a new directory".into(),
        })?;
        // A bare name has the empty parent, which stands for the current directory.
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        Ok(Self {
            // The path has no slash at its end, because a slash would follow a link.
            target: parent.join(name),
            parent: parent.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Refuses a link, and anything else that is no directory.
    fn check_replaceable(&self) -> Result<()> {
        let wrong = |reason: &str| Error::Format {
            path: self.target.clone(),
            reason: reason.into(),
        };
        match std::fs::symlink_metadata(&self.target) {
            Ok(found) if found.is_symlink() => Err(wrong("a symbolic link, which is not followed")),
            Ok(found) if !found.is_dir() => Err(wrong("exists already and is no directory")),
            _ => Ok(()),
        }
    }

    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    pub(super) fn parent(&self) -> &Path {
        &self.parent
    }

    pub(super) fn name(&self) -> &Path {
        Path::new(&self.name)
    }

    /// True if anything is at the target, including a link.
    pub(super) fn is_taken(&self) -> bool {
        std::fs::symlink_metadata(&self.target).is_ok()
    }

    /// An empty directory beside it.
    fn prepare(&self) -> io::Result<(TempDir, Option<File>)> {
        std::fs::create_dir_all(&self.parent)?;
        self.restore()?;
        clear_leftovers(&self.parent);
        // Temporary directories are private by default; a result is as readable as the user's umask lets any be.
        locked(|| builder(0o777).tempdir_in(&self.parent))
    }

    fn appear(&self, new: TempDir) -> io::Result<()> {
        sync_all(new.path())?;
        match std::fs::symlink_metadata(&self.target) {
            Ok(_) => {
                self.exchange(&new)?;
                sync_folder(&self.parent)?;
                // The older one has the temporary name now. If it cannot be removed, it is a leftover.
                let _ = new.close();
                Ok(())
            }
            Err(_) => {
                std::fs::rename(new.path(), &self.target)?;
                // Nothing is left to remove under the temporary name.
                let _ = new.keep();
                sync_folder(&self.parent)
            }
        }
    }

    #[cfg(any(target_vendor = "apple", target_os = "linux", target_os = "android"))]
    fn exchange(&self, new: &TempDir) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, new.path(), CWD, &self.target, RenameFlags::EXCHANGE) {
            Err(cause) if super::UNSUPPORTED.contains(&cause) => self.one_after_the_other(new),
            exchanged => Ok(exchanged?),
        }
    }

    #[cfg(not(any(target_vendor = "apple", target_os = "linux", target_os = "android")))]
    fn exchange(&self, new: &TempDir) -> io::Result<()> {
        self.one_after_the_other(new)
    }

    /// For file systems that cannot exchange two directories.
    fn one_after_the_other(&self, new: &TempDir) -> io::Result<()> {
        let old = self.old();
        std::fs::rename(&self.target, &old)?;
        if let Err(cause) = std::fs::rename(new.path(), &self.target) {
            std::fs::rename(&old, &self.target)?;
            return Err(cause);
        }
        std::fs::rename(&old, new.path())
    }

    /// Puts an older directory back if its process was killed before the new one was in place.
    fn restore(&self) -> io::Result<()> {
        let old = self.old();
        if std::fs::symlink_metadata(&old).is_err() {
            return Ok(());
        }
        match std::fs::symlink_metadata(&self.target) {
            Err(_) => std::fs::rename(&old, &self.target),
            Ok(_) => std::fs::remove_dir_all(&old),
        }
    }

    fn old(&self) -> PathBuf {
        let mut name = OsString::from(OLD);
        name.push(&self.name);
        self.parent.join(name)
    }
}

/// Syncs files and their names to the disk.
pub(super) fn sync_all(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_all(&entry.path())?;
        } else if kind.is_file() && cfg!(unix) {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn put(target: &Path, file: &str) -> Result<()> {
        replace_directory(target, |new| {
            std::fs::create_dir(new.join("deep")).unwrap();
            std::fs::write(new.join("deep").join(file), file).unwrap();
            Ok(())
        })
    }

    #[test]
    fn it_takes_the_place_of_an_older_one_and_nothing_lies_beside() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("above/one");
        put(&target, "first").unwrap();
        put(&target, "second").unwrap();
        assert_eq!(names(&target.join("deep")), ["second"]);
        assert_eq!(names(target.parent().unwrap()), ["one"]);
    }

    #[test]
    fn what_cannot_be_filled_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("one");
        put(&target, "first").unwrap();
        let filled = replace_directory(&target, |new| {
            std::fs::write(new.join("half"), "x").unwrap();
            Err::<(), _>(Error::CodesOnly)
        });
        assert!(matches!(filled, Err(Error::CodesOnly)));
        assert_eq!(names(&target.join("deep")), ["first"]);
        assert_eq!(names(folder.path()), ["one"]);
    }

    #[test]
    fn where_it_cannot_be_exchanged_the_older_one_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("one");
        put(&target, "first").unwrap();
        let place = Place::new(&target).unwrap();
        place.check_replaceable().unwrap();
        let (new, _lock) = place.prepare().unwrap();
        std::fs::write(new.path().join("second"), "x").unwrap();
        place.one_after_the_other(&new).unwrap();
        new.close().unwrap();
        assert_eq!(names(&target), ["second"]);
        assert_eq!(names(folder.path()), ["one"]);
        // Killed between the two renames.
        std::fs::rename(&target, place.old()).unwrap();
        let (new, _lock) = place.prepare().unwrap();
        assert_eq!(names(&target), ["second"]);
        drop(new);
        // Killed after both renames.
        std::fs::create_dir(place.old()).unwrap();
        put(&target, "third").unwrap();
        assert_eq!(names(folder.path()), ["one"]);
    }

    #[test]
    fn a_link_a_file_and_a_place_without_a_name_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "x").unwrap();
        let refused = |target: &Path, reason: &str| {
            let error = put(target, "x").unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        };
        refused(&at("file"), "no directory");
        refused(&at(".."), "no name");
        #[cfg(unix)]
        {
            std::fs::create_dir(at("elsewhere")).unwrap();
            std::os::unix::fs::symlink(at("elsewhere"), at("link")).unwrap();
            refused(&at("link"), "symbolic link");
            refused(&at("link/"), "symbolic link");
            assert!(names(&at("elsewhere")).is_empty());
        }
    }
}

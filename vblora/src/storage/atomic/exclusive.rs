//! A file or directory that appears under a free name.

use std::{io, path::Path};

use tempfile::TempDir;

use super::{builder, clear_leftovers, directory::Place, locked, sync_folder};
use crate::{Error, Result};

/// Makes a file or directory that appears at `target` whole or not at all, also after a crash, and only if nothing is there. `fill` gets a
/// free path of the same name in a directory beside the target, and writes there. If two processes make one target at the same time, one of
/// them gets an error. Missing parents are made.
///
/// # Errors
/// `fill` fails; `target` has no name; something is there already, perhaps only since the call began; the operating system refuses.
pub fn create_at<T>(target: &Path, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let blame = |cause: io::Error| match cause.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => Error::Format {
            path: target.to_owned(),
            reason: "is there already; --overwrite replaces it".into(),
        },
        _ => Error::io(target)(cause),
    };
    let place = Place::new(target)?;
    if place.is_taken() {
        return Err(blame(io::ErrorKind::AlreadyExists.into()));
    }
    let (room, _lock) = prepare(&place).map_err(blame)?;
    let new = room.path().join(place.name());
    let filled = fill(&new).map_err(|error| meant(error, &new, target))?;
    appear(&new, &place).map_err(blame)?;
    Ok(filled)
}

/// Turns an error about the temporary path into one about the target.
fn meant(mut error: Error, new: &Path, target: &Path) -> Error {
    if let Error::Io { path, .. } | Error::Format { path, .. } = &mut error
        && let Ok(rest) = path.strip_prefix(new)
    {
        *path = match rest.as_os_str().is_empty() {
            true => target.to_owned(),
            false => target.join(rest),
        };
    }
    error
}

/// An empty directory beside the target.
fn prepare(place: &Place) -> io::Result<(TempDir, Option<std::fs::File>)> {
    std::fs::create_dir_all(place.parent())?;
    clear_leftovers(place.parent());
    locked(|| builder(0o777).tempdir_in(place.parent()))
}

fn appear(new: &Path, place: &Place) -> io::Result<()> {
    match std::fs::symlink_metadata(new)?.is_dir() {
        true => super::directory::sync_all(new)?,
        false => sync_file(new)?,
    }
    rename_new(new, place.target())?;
    sync_folder(place.parent())
}

#[cfg(unix)]
fn sync_file(file: &Path) -> io::Result<()> {
    std::fs::File::open(file)?.sync_all()
}

#[cfg(not(unix))]
fn sync_file(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Renames to a free name.
#[cfg(any(target_vendor = "apple", target_os = "linux", target_os = "android"))]
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(cause) if super::UNSUPPORTED.contains(&cause) => claim(from, to),
        renamed => Ok(renamed?),
    }
}

#[cfg(not(any(target_vendor = "apple", target_os = "linux", target_os = "android")))]
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    claim(from, to)
}

/// The same for file systems that cannot do it in one step. A second name of the file takes the target, or an empty directory does, which a
/// rename then replaces.
fn claim(from: &Path, to: &Path) -> io::Result<()> {
    if !std::fs::symlink_metadata(from)?.is_dir() {
        return std::fs::hard_link(from, to);
    }
    if cfg!(unix) {
        std::fs::create_dir(to)?;
    }
    std::fs::rename(from, to)
}

/// Writes to `target` if nothing is there ([`create_at`]). With `overwrite` it writes over an older file or directory, unless a process
/// holds that.
///
/// # Errors
/// As [`create_at`]; [`Error::Format`] for a target that a running process has locked; `fill` fails.
pub fn write_to<T>(
    target: &Path,
    overwrite: bool,
    fill: impl FnOnce(&Path) -> Result<T>,
) -> Result<T> {
    if !overwrite {
        return create_at(target, fill);
    }
    let _locks = super::in_use::hold(target)?;
    fill(target)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    type Fill<'a> = &'a dyn Fn(&Path) -> Result<()>;

    fn names(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn file(text: &'static str) -> impl Fn(&Path) -> Result<()> {
        move |path| {
            std::fs::write(path, text).unwrap();
            Ok(())
        }
    }

    fn directory(text: &'static str) -> impl Fn(&Path) -> Result<()> {
        move |path| {
            std::fs::create_dir(path).unwrap();
            std::fs::write(path.join("file"), text).unwrap();
            Ok(())
        }
    }

    #[test]
    fn it_is_there_whole_and_nothing_lies_beside() {
        let dir = tempfile::tempdir().unwrap();
        create_at(&dir.path().join("above/one"), file("x")).unwrap();
        create_at(&dir.path().join("above/two"), directory("x")).unwrap();
        assert_eq!(names(&dir.path().join("above")).len(), 2);
        assert!(dir.path().join("above/two/file").is_file());
    }

    #[test]
    fn an_error_names_the_place_that_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("one");
        let failed = create_at(&target, |new| {
            std::fs::read(new.join("deep")).map_err(Error::io(&new.join("deep")))
        });
        let message = failed.unwrap_err().to_string();
        let place = target.join("deep").display().to_string();
        assert!(message.starts_with(&place), "{message}");
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn what_came_meanwhile_stays_and_is_named() {
        let fills: [Fill<'_>; 2] = [&file("second"), &directory("second")];
        for fill in fills {
            let dir = tempfile::tempdir().unwrap();
            let target = dir.path().join("one");
            let late = create_at(&target, |new| {
                directory("first")(&target)?;
                fill(new)
            });
            let message = late.unwrap_err().to_string();
            assert!(
                message.contains("one") && message.contains("already"),
                "{message}"
            );
            assert_eq!(std::fs::read(target.join("file")).unwrap(), b"first");
            assert_eq!(names(dir.path()), std::slice::from_ref(&target));
            create_at(&target, fill).unwrap_err();
        }
    }

    #[test]
    fn so_it_is_where_a_file_system_cannot_rename_so() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        file("x")(&at("file")).unwrap();
        directory("x")(&at("folder")).unwrap();
        for (from, to) in [("file", "new"), ("folder", "other")] {
            claim(&at(from), &at(to)).unwrap();
            directory("x")(&at("third")).unwrap();
            let late = claim(&at(if from == "file" { "file" } else { "third" }), &at(to));
            assert_eq!(late.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            std::fs::remove_dir_all(at("third")).unwrap();
        }
    }

    #[test]
    fn what_a_process_holds_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("lora-seed1");
        std::fs::create_dir(&target).unwrap();
        let path = dir.path().join("session.lock");
        std::fs::write(&path, "process 7").unwrap();
        let lock = std::fs::File::open(&path).unwrap();
        lock.lock().unwrap();
        let message = write_to(&target, true, file("x")).unwrap_err().to_string();
        assert!(
            message.contains("lora-seed1") && message.contains("process 7"),
            "{message}"
        );
        drop(lock);
        let fill = |path: &Path| {
            // The lock cannot be taken meanwhile.
            let lock = std::fs::File::open(dir.path().join("session.lock")).unwrap();
            assert!(lock.try_lock().is_err());
            file("x")(&path.join("new"))
        };
        write_to(&target, true, fill).unwrap();
    }
}

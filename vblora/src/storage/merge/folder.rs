//! A folder of plain files that appears whole or not at all.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{Error, Result};

/// Filled beside its place under another name, then renamed.
pub(super) struct NewFolder {
    target: PathBuf,
    filled: TempDir,
}

impl NewFolder {
    /// A folder that will be `target`.
    ///
    /// # Errors
    /// Something is there and `overwrite` is not given, or it is not a folder of plain files; the operating system refuses.
    pub(super) fn beside(target: &Path, overwrite: bool) -> Result<Self> {
        if target.file_name().is_none() {
            return Err(wrong(target, "no name for a new folder"));
        }
        check_replaceable(target, overwrite)?;
        let filled = std::fs::create_dir_all(parent(target)).and_then(|()| temporary(target));
        Ok(Self {
            filled: filled.map_err(io_error(target))?,
            target: target.to_owned(),
        })
    }

    /// Refuses to be the folder that is read from, or inside it.
    pub(super) fn must_be_outside(&self, source: &Path) -> Result<()> {
        let real = |path: &Path| std::fs::canonicalize(path).map_err(io_error(path));
        let name = self.target.file_name().unwrap_or_default();
        let place = real(parent(&self.target))?.join(name);
        match place.starts_with(real(source)?) {
            true => Err(wrong(&self.target, "the base itself or inside it")),
            false => Ok(()),
        }
    }

    /// Where files go for now.
    pub(super) fn path(&self) -> &Path {
        self.filled.path()
    }

    /// Copies a file under its own name.
    pub(super) fn copy(&self, file: &Path) -> Result<()> {
        let to = self.path().join(file.file_name().unwrap_or_default());
        let copy = || {
            let mut out = File::create_new(&to)?;
            io::copy(&mut File::open(file)?, &mut out)?;
            out.sync_all()
        };
        copy().map_err(io_error(file))
    }

    /// Makes it appear, in place of an older one.
    ///
    /// # Errors
    /// The operating system refuses; an older folder is then where it was.
    pub(super) fn finish(self) -> Result<()> {
        let target = self.target.clone();
        self.appear().map_err(io_error(&target))
    }

    fn appear(self) -> io::Result<()> {
        sync(self.path())?;
        let parent = parent(&self.target);
        // A folder cannot be renamed over one that is not empty: the older one goes aside first, and is deleted last.
        let aside = temporary(&self.target)?;
        let old = aside.path().join("old");
        let had_one = std::fs::symlink_metadata(&self.target).is_ok();
        if had_one {
            std::fs::rename(&self.target, &old)?;
        }
        if let Err(cause) = std::fs::rename(self.filled.path(), &self.target) {
            if had_one {
                std::fs::rename(&old, &self.target)?;
            }
            return Err(cause);
        }
        // It has another name now: nothing is left to delete under the old one.
        let _ = self.filled.keep();
        sync(parent)?;
        aside.close()
    }
}

/// Only what a merge could have written is ever deleted: a folder of plain files.
fn check_replaceable(target: &Path, overwrite: bool) -> Result<()> {
    let found = match std::fs::symlink_metadata(target) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(io_error(target))?,
    };
    if found.is_symlink() {
        return Err(wrong(target, "a symbolic link, which is not followed"));
    }
    if !found.is_dir() {
        return Err(wrong(target, "is there already and is no folder"));
    }
    if !overwrite {
        return Err(wrong(target, "is there already; --overwrite replaces it"));
    }
    for entry in std::fs::read_dir(target).map_err(io_error(target))? {
        let entry = entry.map_err(io_error(target))?;
        if !entry.file_type().map_err(io_error(target))?.is_file() {
            let name = entry.file_name();
            let problem = format!("holds {name:?}, which is no plain file: not replaced");
            return Err(wrong(target, problem));
        }
    }
    Ok(())
}

/// A bare name has the empty parent, which stands for the current directory.
fn parent(target: &Path) -> &Path {
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Temporary folders are private by default; a result is as readable as the user's umask lets any folder be.
fn temporary(target: &Path) -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".vblora-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    builder.tempdir_in(parent(target))
}

/// Makes the names in a folder last.
fn sync(folder: &Path) -> io::Result<()> {
    match cfg!(unix) {
        true => File::open(folder)?.sync_all(),
        false => Ok(()),
    }
}

fn wrong(path: &Path, reason: impl Into<String>) -> Error {
    Error::Format {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error::Io { path, cause }
}

//! Where a merged model goes.

use std::{fs::File, io, path::Path};

use crate::{Error, Result};

/// Refuses to be the folder that is read from, or inside it.
pub(super) fn check_outside(target: &Path, source: &Path) -> Result<()> {
    let real = |path: &Path| std::fs::canonicalize(path).map_err(io_error(path));
    // As much of it as there is already; a bare name stands in the current directory.
    let mut above = target.ancestors().skip(1);
    let there = above.find(|above| above.exists() || above.as_os_str().is_empty());
    let there = there.unwrap_or(Path::new(""));
    let rest = target.strip_prefix(there).unwrap_or(target);
    let place = match there.as_os_str().is_empty() {
        true => real(Path::new("."))?,
        false => real(there)?,
    };
    match place.join(rest).starts_with(real(source)?) {
        true => Err(wrong(target, "the base itself or inside it")),
        false => Ok(()),
    }
}

/// Copies a file under its own name.
pub(super) fn copy(file: &Path, to: &Path) -> Result<()> {
    let to = to.join(file.file_name().unwrap_or_default());
    let copy = || {
        let mut out = File::create_new(&to)?;
        io::copy(&mut File::open(file)?, &mut out)?;
        out.sync_all()
    };
    copy().map_err(io_error(file))
}

/// Only what a merge could have written is ever deleted: a folder of plain files.
pub(super) fn check_replaceable(target: &Path, overwrite: bool) -> Result<()> {
    if target.file_name().is_none() {
        return Err(wrong(target, "no name for a new folder"));
    }
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

//! Files that are there whole or not at all.

use std::{
    io::{self, Write},
    path::Path,
};

use crate::{Error, Result};

/// Writes `bytes` to `path`: into a temporary file beside it, synced, then renamed over it, so that a reader sees the old content or the
/// new and never a part, also across a crash. Missing parent folders are made.
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
    let mut file = temporary(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_folder(folder)
}

/// Makes a folder and its parents if absent.
///
/// # Errors
/// The operating system refuses, or the folder is a symbolic link: what is written into it would land elsewhere.
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

/// Temporary files are private by default; a result is as readable as the user's umask lets any file be.
#[cfg(unix)]
fn temporary(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(folder)
}

#[cfg(not(unix))]
fn temporary(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    tempfile::NamedTempFile::new_in(folder)
}

/// Makes the rename itself last.
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

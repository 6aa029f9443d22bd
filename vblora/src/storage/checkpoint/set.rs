//! A directory of files that appears as a whole: written under a temporary name, synced, then renamed.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    storage::{
        atomic::{make_folder, sync_folder},
        files::read_file,
        hash::sha256_hex,
        strict_json,
    },
};

/// The file of a set that lists the others.
pub const MANIFEST: &str = "manifest.json";

/// A larger manifest is refused before it is read; a full one has 3 kB.
pub const MAX_MANIFEST_BYTES: u64 = 16 << 10;

/// A manifest that lists more files is refused; a checkpoint has two.
pub const MAX_SET_FILES: usize = 16;

/// A set whose manifest promises more is refused before a file is read. RoBERTa-large, fully trained, has 4.3 GB with its moments.
pub const MAX_SET_BYTES: u64 = 8 << 30;

/// Longer names are refused.
const MAX_NAME_BYTES: usize = 64;

/// The version of the manifest; a reader refuses others.
const FORMAT: u32 = 1;

/// The prefix of directories that are being written or removed. None is ever read.
pub(super) const UNFINISHED: &str = ".unfinished-";

/// A few files that belong together, in memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileSet {
    files: BTreeMap<String, Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    files: BTreeMap<String, Listed>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    bytes: u64,
    sha256: String,
}

impl FileSet {
    /// Adds a file, in place of an earlier one of this name.
    ///
    /// # Errors
    /// The name is not plain (letters, digits, `-`, `_` and `.`, not at the start), or is the manifest's own.
    pub fn insert(&mut self, name: &str, bytes: Vec<u8>) -> Result<()> {
        check_name(name).map_err(|reason| Error::setting("file name", reason, name))?;
        self.files.insert(name.to_owned(), bytes);
        Ok(())
    }

    /// A file's content.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// Takes a file's content out.
    pub fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        self.files.remove(name)
    }

    /// The bytes of all files, the manifest apart.
    pub fn bytes(&self) -> usize {
        self.files.values().map(Vec::len).sum()
    }

    /// Writes the set as directory `dir`, which must not be there. The files go into a directory beside it, which is synced and then
    /// renamed. A process that is killed on the way leaves no `dir`.
    ///
    /// # Errors
    /// The operating system refuses, `dir` is there already, or its parent is a symbolic link, which is not followed.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let parent = dir.parent().unwrap_or(Path::new("."));
        make_folder(parent)?;
        self.write_beside(parent, dir).map_err(|cause| Error::Io {
            path: dir.to_owned(),
            cause,
        })
    }

    fn write_beside(&self, parent: &Path, dir: &Path) -> io::Result<()> {
        // A rename would replace an empty directory, or a symbolic link to one.
        if std::fs::symlink_metadata(dir).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // After an error the directory is dropped, which removes it.
        let unfinished = unfinished(parent)?;
        for (name, bytes) in &self.files {
            write_new(&unfinished.path().join(name), bytes)?;
        }
        let manifest = serde_json::to_vec_pretty(&self.manifest())?;
        write_new(&unfinished.path().join(MANIFEST), &manifest)?;
        sync_folder(unfinished.path())?;
        std::fs::rename(unfinished.path(), dir)?;
        let _ = unfinished.keep();
        sync_folder(parent)
    }

    fn manifest(&self) -> Manifest {
        let listed = |(name, bytes): (&String, &Vec<u8>)| {
            let sha256 = sha256_hex([bytes]);
            let bytes = bytes.len() as u64;
            (name.clone(), Listed { bytes, sha256 })
        };
        Manifest {
            format: FORMAT,
            files: self.files.iter().map(listed).collect(),
        }
    }

    /// Reads a set and checks every byte of it. Files that the manifest does not list are ignored.
    ///
    /// # Errors
    /// A file cannot be read, is no plain file, or differs from the manifest. The manifest is malformed, lists too much, or names anything
    /// but plain names in its own directory. The error names the file.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let found = std::fs::symlink_metadata(dir).map_err(|cause| Error::Io {
            path: path.clone(),
            cause,
        })?;
        if !found.is_dir() {
            return Err(format_error(&path, "its place is no directory"));
        }
        let manifest = read_plain(&path, MAX_MANIFEST_BYTES)?;
        let manifest = parse(&manifest).map_err(|reason| format_error(&path, reason))?;
        let read = |(name, listed): (String, Listed)| {
            let bytes = read_listed(&dir.join(&name), &listed)?;
            Ok((name, bytes))
        };
        let files = manifest.files.into_iter().map(read);
        Ok(Self {
            files: files.collect::<Result<_>>()?,
        })
    }
}

/// Parses a manifest and checks every entry.
fn parse(text: &[u8]) -> Result<Manifest, String> {
    let manifest: Manifest = strict_json::from_slice(text)?;
    if manifest.format != FORMAT {
        return Err(format!(
            "format {}, but this version reads {FORMAT}",
            manifest.format
        ));
    }
    let count = manifest.files.len();
    if count > MAX_SET_FILES {
        return Err(format!("{count} files, over the limit of {MAX_SET_FILES}"));
    }
    for name in manifest.files.keys() {
        check_name(name).map_err(|reason| format!("file name {name:?}: must be {reason}"))?;
    }
    let total = manifest
        .files
        .values()
        .try_fold(0_u64, |sum, listed| sum.checked_add(listed.bytes));
    match total {
        Some(total) if total <= MAX_SET_BYTES => Ok(manifest),
        _ => Err(format!(
            "the sizes add up to more than the limit of {MAX_SET_BYTES} bytes"
        )),
    }
}

/// Refuses a name that is not plain; the error says what it must be. No path of a file system passes.
fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_plain = !name.starts_with('.') && name.chars().all(plain);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !is_plain || name == MANIFEST {
        return Err(format!(
            "at most {MAX_NAME_BYTES} letters, digits, '-', '_' and '.', not at the start, other than {MANIFEST}"
        ));
    }
    Ok(())
}

fn read_listed(path: &Path, listed: &Listed) -> Result<Vec<u8>> {
    let bytes = read_plain(path, listed.bytes)?;
    if bytes.len() as u64 != listed.bytes {
        let (found, expected) = (bytes.len(), listed.bytes);
        return Err(format_error(
            path,
            format!("{found} bytes, but {MANIFEST} says {expected} (truncated?)"),
        ));
    }
    let found = sha256_hex([&bytes]);
    if found != listed.sha256 {
        return Err(format_error(
            path,
            format!(
                "SHA-256 {found}, but {MANIFEST} says {:?}: damaged",
                listed.sha256
            ),
        ));
    }
    Ok(bytes)
}

/// A file of at most `limit` bytes that is itself a file, not a link to one.
fn read_plain(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let io = |cause| Error::Io {
        path: path.to_owned(),
        cause,
    };
    if !std::fs::symlink_metadata(path).map_err(io)?.is_file() {
        return Err(format_error(path, "not a plain file"));
    }
    read_file(path, limit).map_err(io)
}

fn format_error(path: &Path, reason: impl Into<String>) -> Error {
    Error::Format {
        path: PathBuf::from(path),
        reason: reason.into(),
    }
}

/// Writes and syncs a new file.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Temporary directories are private by default; a result is as readable as the user's umask lets any directory be.
fn unfinished(parent: &Path) -> io::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o777));
    }
    builder.tempdir_in(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(files: &[(&str, &[u8])]) -> FileSet {
        let mut set = FileSet::default();
        for (name, bytes) in files {
            set.insert(name, bytes.to_vec()).unwrap();
        }
        set
    }

    #[test]
    fn what_is_written_comes_back_and_nothing_lies_beside() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("deep/one");
        let one = set(&[("a.bin", b"12"), ("b", b"")]);
        one.write(&dir).unwrap();
        assert_eq!(FileSet::read(&dir).unwrap(), one);
        assert_eq!((one.bytes(), one.get("a.bin")), (2, Some(&b"12"[..])));
        let beside = std::fs::read_dir(folder.path().join("deep")).unwrap();
        assert_eq!(beside.count(), 1);
    }

    #[test]
    fn a_set_is_never_written_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("one");
        let one = set(&[("a", b"1")]);
        one.write(&dir).unwrap();
        let message = set(&[("a", b"2")]).write(&dir).unwrap_err().to_string();
        assert!(message.contains("one: "), "{message}");
        assert_eq!(FileSet::read(&dir).unwrap(), one);
        std::fs::create_dir(folder.path().join("empty")).unwrap();
        assert!(one.write(&folder.path().join("empty")).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_it_as_any_directory() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        set(&[]).write(&ours).unwrap();
        std::fs::create_dir(&plain).unwrap();
        assert_eq!(mode(&ours), mode(&plain));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused_on_the_way_in() {
        for name in ["../x", "/x", "a/b", "a\\b", ".hidden", "", MANIFEST, "ü"] {
            let message = FileSet::default().insert(name, Vec::new()).unwrap_err();
            assert!(message.to_string().contains("file name"), "{message}");
        }
    }
}

//! Where a model's files come from: a directory, or the binary itself.

use std::fs::File;
use std::ops::Deref;
use std::path::{Component, Path, PathBuf};

use memmap2::Mmap;

use crate::{Error, Result};

/// The files of one model, read by name.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    Directory(PathBuf),
    Embedded {
        label: &'static str,
        files: &'static [(&'static str, &'static [u8])],
    },
}

/// The contents of one file: a memory map, or a slice of the binary.
#[derive(Debug)]
pub struct Bytes(Contents);

#[derive(Debug)]
enum Contents {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl ModelFiles {
    /// The files of a directory.
    ///
    /// # Errors
    /// [`Error::NoDirectory`] or [`Error::NotADirectory`].
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.to_path_buf();
        if !dir.exists() {
            return Err(Error::NoDirectory { path });
        }
        if !dir.is_dir() {
            return Err(Error::NotADirectory { path });
        }
        Ok(Self {
            source: Source::Directory(path),
        })
    }

    /// Files bundled in the binary, as (name, contents); `label` stands for the directory in messages.
    pub fn embedded(label: &'static str, files: &'static [(&'static str, &'static [u8])]) -> Self {
        Self {
            source: Source::Embedded { label, files },
        }
    }

    /// Whether there is a file of this name.
    pub fn contains(&self, name: &str) -> bool {
        match &self.source {
            Source::Directory(dir) => is_file_name(name) && dir.join(name).is_file(),
            Source::Embedded { files, .. } => files.iter().any(|(known, _)| *known == name),
        }
    }

    /// The contents of a file; a file of a directory is mapped, not copied.
    ///
    /// # Errors
    /// [`Error::NoFile`], [`Error::NotAFileName`] for a path instead of a name, or [`Error::Io`].
    pub fn read(&self, name: &str) -> Result<Bytes> {
        if !is_file_name(name) {
            return Err(Error::NotAFileName {
                found_in: self.place(),
                name: name.to_owned(),
            });
        }
        if !self.contains(name) {
            return Err(self.no_file(name));
        }
        match &self.source {
            Source::Directory(dir) => map(&dir.join(name)).map_err(|cause| Error::Io {
                file: self.describe(name),
                cause,
            }),
            Source::Embedded { files, .. } => files
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, bytes)| Bytes(Contents::Static(bytes)))
                .ok_or_else(|| self.no_file(name)),
        }
    }

    /// "DIR/name" for messages.
    pub fn describe(&self, name: &str) -> String {
        format!("{}/{name}", self.place().trim_end_matches('/'))
    }

    /// The directory, or the label of a bundled model, for messages.
    pub fn place(&self) -> String {
        match &self.source {
            Source::Directory(dir) => dir.display().to_string(),
            Source::Embedded { label, .. } => (*label).to_owned(),
        }
    }

    /// [`Error::NoFile`] for this model.
    pub(crate) fn no_file(&self, wanted: &str) -> Error {
        Error::NoFile {
            place: self.place(),
            wanted: wanted.to_owned(),
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Contents::Mapped(map) => map,
            Contents::Static(bytes) => bytes,
        }
    }
}

/// Whether `name` is one plain component, so that joining it to a directory stays inside.
pub(crate) fn is_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let one = matches!(components.next(), Some(Component::Normal(part)) if part == name);
    one && components.next().is_none() && !name.contains(['/', '\\', '\0'])
}

fn map(path: &Path) -> std::io::Result<Bytes> {
    let file = File::open(path)?;
    // An empty file cannot be mapped everywhere.
    if file.metadata()?.len() == 0 {
        return Ok(Bytes(Contents::Static(&[])));
    }
    // SAFETY: the map is read only and private to this process. The one hazard is another process that
    // shortens or rewrites the file meanwhile; model files are replaced by renaming (as `save_safetensors`
    // does), which leaves the mapped contents alone.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file)? };
    Ok(Bytes(Contents::Mapped(map)))
}

#[cfg(test)]
mod tests {
    use super::*;

    static FILES: &[(&str, &[u8])] = &[("config.json", b"{}"), ("empty", b"")];

    #[test]
    fn directory_files_are_read_by_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.json"), b"[1]").unwrap();
        std::fs::write(dir.path().join("empty"), b"").unwrap();
        let files = ModelFiles::open(dir.path()).unwrap();
        assert!(files.contains("a.json") && !files.contains("b.json"));
        assert_eq!(&*files.read("a.json").unwrap(), b"[1]");
        assert_eq!(files.read("empty").unwrap().len(), 0);
        assert!(files.describe("a.json").ends_with("/a.json"));
    }

    #[test]
    fn embedded_files_are_read_by_name() {
        let files = ModelFiles::embedded("tiny", FILES);
        assert_eq!(&*files.read("config.json").unwrap(), b"{}");
        assert_eq!(files.describe("config.json"), "tiny/config.json");
        let error = files.read("model.safetensors").unwrap_err().to_string();
        assert_eq!(error, "tiny has no model.safetensors");
    }

    #[test]
    fn an_absent_directory_or_a_file_in_its_place_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent");
        let error = ModelFiles::open(&absent).unwrap_err().to_string();
        assert!(error.contains("no such directory") && error.contains("absent"));
        let file = dir.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        let error = ModelFiles::open(&file).unwrap_err().to_string();
        assert!(error.contains("file is not a directory"), "{error}");
    }

    #[test]
    fn a_path_is_not_a_file_name() {
        let dir = tempfile::tempdir().unwrap();
        let files = ModelFiles::open(dir.path()).unwrap();
        for name in [
            "../x",
            "a/b",
            "/etc/passwd",
            "..",
            ".",
            "",
            "a\\b",
            "a/",
            "./a",
        ] {
            assert!(!is_file_name(name), "{name}");
            assert!(matches!(files.read(name), Err(Error::NotAFileName { .. })));
        }
        assert!(is_file_name("model-00001-of-00002.safetensors"));
    }

    #[test]
    fn a_folder_in_place_of_a_file_counts_as_absent() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("config.json")).unwrap();
        let files = ModelFiles::open(dir.path()).unwrap();
        assert!(matches!(
            files.read("config.json"),
            Err(Error::NoFile { .. })
        ));
    }
}

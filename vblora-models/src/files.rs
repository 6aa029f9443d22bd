//! The source of a model's files: a directory, or the binary itself.

use std::borrow::Cow;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use vblora::storage::{MAX_CONFIG_BYTES, MAX_INDEX_BYTES, RegularFile};

use crate::{Error, Result, notice};

/// A larger file of a tokenizer is refused before it is read; Gemma 3's, among the largest, has 33 MB.
pub const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// The files of a vocabulary, of which a tokenizer has at least one.
const VOCABULARIES: [&str; 3] = ["tokenizer.json", "vocab.json", "vocab.txt"];

/// The files of a tokenizer; what they say belongs together.
const TOKENIZER_FILES: [&str; 9] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// The files of one model, read by name.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    source: Source,
    /// "ID@COMMIT" of the hub.
    hub: Option<String>,
    /// An adapter's directory, which the files of the tokenizer are in.
    tokenizer: Option<PathBuf>,
}

#[derive(Debug, Clone)]
enum Source {
    Directory(PathBuf),
    Embedded {
        label: &'static str,
        files: &'static [(&'static str, &'static [u8])],
    },
}

/// One file, read in pieces.
#[derive(Debug)]
pub struct FileReader {
    contents: Contents,
    size: usize,
}

#[derive(Debug)]
enum Contents {
    File(RegularFile),
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
            hub: None,
            tokenizer: None,
        })
    }

    /// Files bundled in the binary, as (name, contents); `label` stands for the directory in messages.
    pub fn embedded(label: &'static str, files: &'static [(&'static str, &'static [u8])]) -> Self {
        Self {
            source: Source::Embedded { label, files },
            hub: None,
            tokenizer: None,
        }
    }

    /// The same model with the tokenizer that an adapter's directory holds, if it holds one: an adapter that added tokens is no use
    /// without them. A tokenizer of other contents than the model's is said, and so is a part of one, which is not used.
    #[must_use]
    pub fn with_tokenizer_of(self, adapter: &Path) -> Self {
        let is_there = |name: &&&str| adapter.join(name).is_file();
        let Some(found) = TOKENIZER_FILES.iter().find(is_there) else {
            return self;
        };
        let place = adapter.display();
        if !VOCABULARIES.iter().any(|name| adapter.join(name).is_file()) {
            notice::once(format!(
                "{place}/{found}: not used: there is no tokenizer.json beside it; {}'s tokenizer is used",
                self.place()
            ));
            return self;
        }
        let with = Self {
            tokenizer: Some(adapter.to_owned()),
            ..self.clone()
        };
        let same = |name: &&str| match (self.read(name), with.read(name)) {
            (Ok(own), Ok(other)) => own == other,
            (own, other) => own.is_err() && other.is_err(),
        };
        if let Some(other) = TOKENIZER_FILES.iter().find(|name| !same(name)) {
            notice::once(format!(
                "{place} has its own tokenizer, which is used in place of {}'s: {other} differs",
                self.place()
            ));
        }
        with
    }

    /// The source of a file.
    fn source_of(&self, name: &str) -> Source {
        match &self.tokenizer {
            Some(dir) if TOKENIZER_FILES.contains(&name) => Source::Directory(dir.clone()),
            _ => self.source.clone(),
        }
    }

    /// Returns true if there is a file of this name. A directory does not count. Other irregular files count, but cannot be read.
    pub fn contains(&self, name: &str) -> bool {
        match self.source_of(name) {
            Source::Directory(dir) => {
                let found = std::fs::metadata(dir.join(name));
                is_file_name(name) && found.is_ok_and(|found| !found.is_dir())
            }
            Source::Embedded { files, .. } => files.iter().any(|(known, _)| *known == name),
        }
    }

    /// The contents of a file that describes a model: none of its weights.
    ///
    /// # Errors
    /// [`Error::NoFile`]; [`Error::NotAFileName`] for a path instead of a name; [`Error::Io`], also for an irregular file or one larger than
    /// any of its kind.
    pub fn read(&self, name: &str) -> Result<Cow<'static, [u8]>> {
        let reader = self.reader(name)?;
        let (size, limit) = (reader.size(), limit(name));
        if size as u64 > limit {
            let message = format!("{size} bytes, over the limit of {limit}");
            let cause = io::Error::new(io::ErrorKind::FileTooLarge, message);
            return Err(self.io(name)(cause));
        }
        reader.read(0..reader.size()).map_err(self.io(name))
    }

    /// A file to be read in pieces, as weights are, which would be held twice if they were read whole.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn reader(&self, name: &str) -> Result<FileReader> {
        if !is_file_name(name) {
            return Err(Error::NotAFileName {
                found_in: self.place(),
                name: name.to_owned(),
            });
        }
        if !self.contains(name) {
            return Err(self.no_file(name));
        }
        match self.source_of(name) {
            Source::Directory(dir) => FileReader::open(&dir.join(name)).map_err(self.io(name)),
            Source::Embedded { files, .. } => files
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, bytes)| FileReader::of(bytes))
                .ok_or_else(|| self.no_file(name)),
        }
    }

    fn io(&self, name: &str) -> impl FnOnce(io::Error) -> Error {
        let file = self.describe(name);
        |cause| Error::Io { file, cause }
    }

    /// "DIR/name" for messages.
    pub fn describe(&self, name: &str) -> String {
        let place = match self.source_of(name) {
            Source::Directory(dir) => dir.display().to_string(),
            Source::Embedded { label, .. } => label.to_owned(),
        };
        format!("{}/{name}", place.trim_end_matches('/'))
    }

    /// The directory that the files are in; `None` for a bundled model.
    pub fn directory(&self) -> Option<&Path> {
        match &self.source {
            Source::Directory(dir) => Some(dir),
            Source::Embedded { .. } => None,
        }
    }

    /// The directory, or the label of a bundled model, for messages.
    pub fn place(&self) -> String {
        match &self.source {
            Source::Directory(dir) => dir.display().to_string(),
            Source::Embedded { label, .. } => (*label).to_owned(),
        }
    }

    /// The name of the model in a run's records: "ID@COMMIT" for one from the hub, else [`place`](Self::place).
    pub fn name(&self) -> String {
        self.hub.clone().unwrap_or_else(|| self.place())
    }

    /// The same files, as those of a commit of the hub.
    #[cfg(feature = "hub")]
    pub(crate) fn of_hub(self, id: &str, commit: &str) -> Self {
        Self {
            hub: Some(format!("{id}@{commit}")),
            ..self
        }
    }

    /// A file of the model's directory whose name has this ending.
    pub(crate) fn with_ending(&self, ending: &str) -> Option<String> {
        let Source::Directory(dir) = &self.source else {
            return None;
        };
        let mut names = std::fs::read_dir(dir).ok()?.flatten();
        names.find_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.ends_with(ending).then_some(name)
        })
    }

    /// [`Error::NoFile`] for this model.
    pub(crate) fn no_file(&self, wanted: &str) -> Error {
        Error::NoFile {
            place: self.place(),
            wanted: wanted.to_owned(),
        }
    }
}

impl FileReader {
    fn open(path: &Path) -> io::Result<Self> {
        let file = RegularFile::open(path)?;
        let size = usize::try_from(file.size()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        Ok(Self {
            contents: Contents::File(file),
            size,
        })
    }

    fn of(bytes: &'static [u8]) -> Self {
        Self {
            contents: Contents::Static(bytes),
            size: bytes.len(),
        }
    }

    /// Bytes of the file.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The file from its start on.
    pub(crate) fn start(&self) -> Box<dyn Read + '_> {
        match &self.contents {
            Contents::Static(bytes) => Box::new(*bytes),
            Contents::File(file) => Box::new(file.stream()),
        }
    }

    /// A range of its bytes.
    ///
    /// # Errors
    /// The range is not inside the file, or the system cannot read it.
    pub fn read(&self, range: Range<usize>) -> io::Result<Cow<'static, [u8]>> {
        match &self.contents {
            Contents::Static(bytes) => {
                let part = bytes.get(range).ok_or(io::ErrorKind::UnexpectedEof)?;
                Ok(Cow::Borrowed(part))
            }
            Contents::File(file) => file.read(range).map(Cow::Owned),
        }
    }
}

/// The most bytes of a file of this name.
fn limit(name: &str) -> u64 {
    match name {
        "tokenizer.json" | "vocab.json" | "vocab.txt" | "merges.txt" => MAX_TOKENIZER_BYTES,
        _ if name.ends_with(".index.json") => MAX_INDEX_BYTES,
        _ => MAX_CONFIG_BYTES,
    }
}

/// Returns true if `name` is one plain component, so that joining it to a directory stays inside.
pub(crate) fn is_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let one = matches!(components.next(), Some(Component::Normal(part)) if part == name);
    one && components.next().is_none() && !name.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    static FILES: &[(&str, &[u8])] = &[("config.json", b"{}"), ("empty", b"")];

    #[test]
    fn an_adapters_tokenizer_takes_the_place_of_the_models() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["model", "adapter", "part"] {
            std::fs::create_dir(at(folder)).unwrap();
        }
        for (file, text) in [
            ("model/config.json", "{}"),
            ("model/tokenizer.json", "model's"),
            ("model/added_tokens.json", "model's"),
            ("adapter/tokenizer.json", "adapter's"),
            ("adapter/config.json", "no model's"),
            ("part/tokenizer_config.json", "part's"),
        ] {
            std::fs::write(at(file), text).unwrap();
        }
        let files = ModelFiles::open(&at("model")).unwrap();
        let with = files.clone().with_tokenizer_of(&at("adapter"));
        assert_eq!(&*with.read("tokenizer.json").unwrap(), b"adapter's");
        assert_eq!(&*with.read("config.json").unwrap(), b"{}");
        assert!(with.describe("tokenizer.json").contains("adapter/"));
        // A tokenizer is one or the other, not some of both.
        assert!(!with.contains("added_tokens.json"));
        for other in ["part", "absent"] {
            let same = files.clone().with_tokenizer_of(&at(other));
            assert_eq!(&*same.read("tokenizer.json").unwrap(), b"model's");
        }
    }

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
    fn pieces_of_a_file_are_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), b"{}").unwrap();
        for files in [
            ModelFiles::open(dir.path()).unwrap(),
            ModelFiles::embedded("tiny", FILES),
        ] {
            let reader = files.reader("config.json").unwrap();
            assert_eq!(reader.size(), 2);
            assert_eq!(&*reader.read(1..2).unwrap(), b"}");
            assert_eq!(&*reader.read(0..1).unwrap(), b"{");
            assert_eq!(reader.read(2..2).unwrap().len(), 0);
            assert!(reader.read(1..3).is_err());
        }
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

    #[cfg(unix)]
    #[test]
    fn a_sparse_file_or_a_device_in_place_of_a_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let files = ModelFiles::open(dir.path()).unwrap();
        for (name, limit) in [
            ("config.json", MAX_CONFIG_BYTES),
            ("tokenizer.json", MAX_TOKENIZER_BYTES),
            ("model.safetensors.index.json", MAX_INDEX_BYTES),
        ] {
            let file = std::fs::File::create(dir.path().join(name)).unwrap();
            file.set_len(8 << 40).unwrap();
            let error = files.read(name).unwrap_err().to_string();
            let expected = format!("{name}: 8796093022208 bytes, over the limit of {limit}");
            assert!(error.ends_with(&expected), "{error}");
        }
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("model.safetensors")).unwrap();
        let error = files.reader("model.safetensors").unwrap_err().to_string();
        let expected = "model.safetensors: expected a regular file, found a device";
        assert!(error.ends_with(expected), "{error}");
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

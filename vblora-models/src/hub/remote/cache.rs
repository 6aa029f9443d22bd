//! The hub's cache on the disk, laid out as huggingface_hub has it, so that both use each other's files:
//! `models--OWNER--NAME/{blobs/HASH, snapshots/COMMIT/FILE -> ../../blobs/HASH, refs/REVISION}`.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use super::client::{Failure, Found, Hash};

pub(super) struct Cache(PathBuf);

/// One commit's files.
pub(super) struct Snapshot {
    pub(super) commit: String,
    pub(super) dir: PathBuf,
    repository: PathBuf,
    locks: PathBuf,
}

impl Cache {
    #[cfg(test)]
    pub(super) fn at(dir: &Path) -> Self {
        Self(dir.to_path_buf())
    }

    pub(super) fn from_env() -> Option<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let given = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]
            .into_iter()
            .find_map(set);
        match given {
            Some(dir) => Some(Self(dir.into())),
            None => home().map(|home| Self(home.join("hub"))),
        }
    }

    /// The commit that a revision stood for when it was downloaded; a commit stands for itself.
    pub(super) fn commit(&self, model: &str, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let reference = self.repository(model).join("refs").join(revision);
        let commit = fs::read_to_string(reference).ok()?;
        // Whatever else lies there names no folder.
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    pub(super) fn snapshot(&self, model: &str, commit: String) -> Snapshot {
        let repository = self.repository(model);
        Snapshot {
            dir: repository.join("snapshots").join(&commit),
            locks: self.0.join(".locks").join(folder(model)),
            commit,
            repository,
        }
    }

    fn repository(&self, model: &str) -> PathBuf {
        self.0.join(folder(model))
    }
}

fn folder(model: &str) -> String {
    format!("models--{}", model.replace('/', "--"))
}

/// `HF_HOME`, or `huggingface` in the user's cache.
fn home() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = || match set("XDG_CACHE_HOME") {
        Some(dir) => Some(PathBuf::from(dir)),
        None => std::env::home_dir().map(|home| home.join(".cache")),
    };
    let given = set("HF_HOME").map(PathBuf::from);
    given.or_else(|| Some(cache()?.join("huggingface")))
}

/// The token that `hf auth login` keeps.
pub(super) fn stored_token() -> Option<String> {
    let file = std::env::var_os("HF_TOKEN_PATH").map(PathBuf::from);
    let text = fs::read_to_string(file.or_else(|| Some(home()?.join("token")))?).ok()?;
    Some(text.trim().to_owned()).filter(|token| !token.is_empty())
}

/// A commit is 40 hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Checks that a revision names a file in `refs`, and nothing outside it.
pub(super) fn check_revision(revision: &str) -> Result<(), String> {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .chars()
                .all(|c| !c.is_control() && !matches!(c, '\\' | ':'))
    };
    match revision.len() <= 255 && revision.split('/').all(plain) {
        true => Ok(()),
        false => Err(format!("{revision:?} is no branch, tag or commit")),
    }
}

impl Snapshot {
    /// Writes down which commit a revision stands for.
    pub(super) fn remember(&self, revision: &str) -> Result<(), String> {
        let reference = self.repository.join("refs").join(revision);
        if is_commit(revision) || fs::read_to_string(&reference).is_ok_and(|c| c == self.commit) {
            return Ok(());
        }
        let written = create_parent(&reference).and_then(|()| {
            let dir = reference.parent().unwrap_or(Path::new("."));
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            file.write_all(self.commit.as_bytes())?;
            file.persist(&reference)?;
            Ok(())
        });
        written.map_err(|cause| format!("{}: {cause}", reference.display()))
    }

    /// Downloads a file that the hub has found, checks it, and gives it its name.
    pub(super) fn take(&self, file: &str, found: Found) -> Result<(), Failure> {
        let blob = self.repository.join("blobs").join(found.hash.to_string());
        let lock = self.locks.join(format!("{}.lock", found.hash));
        let io = |path: &Path| {
            let path = path.display().to_string();
            move |cause: io::Error| Failure::new(format!("{file}: {path}: {cause}"))
        };
        create_parent(&lock).map_err(io(&lock))?;
        create_parent(&blob).map_err(io(&blob))?;
        // Another process may download the same; who comes second finds it there.
        let held = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&lock);
        let held = held.map_err(io(&lock))?;
        held.lock().map_err(io(&lock))?;
        let size = found.size;
        if !fs::metadata(&blob).is_ok_and(|data| data.is_file() && data.len() == size) {
            let partial = blob.with_extension("incomplete");
            fetch(&partial, file, &found)?;
            fs::rename(&partial, &blob).map_err(io(&blob))?;
        }
        let pointer = self.dir.join(file);
        create_parent(&pointer).map_err(io(&pointer))?;
        point(&pointer, &blob).map_err(io(&pointer))
    }
}

/// Downloads the rest of a file whose beginning may be there, and checks the whole.
fn fetch(partial: &Path, name: &str, found: &Found) -> Result<(), Failure> {
    let io = |cause: io::Error| Failure::new(format!("{name}: {}: {cause}", partial.display()));
    let mut file = OpenOptions::new();
    let file = file.create(true).read(true).write(true).truncate(false);
    let mut file = file.open(partial).map_err(io)?;
    let there = file.metadata().map_err(io)?.len();
    let mut hasher = found.hash.start(found.size);
    let there = if there < found.size { there } else { 0 };
    let mut answer = found.body(there)?;
    if answer.start > 0 {
        let mut begun = Read::take(&mut file, there);
        io::copy(&mut begun, &mut hasher).map_err(io)?;
    }
    file.set_len(answer.start).map_err(io)?;
    file.seek(SeekFrom::Start(answer.start)).map_err(io)?;
    let bar = bar(name, found.size, answer.start);
    let mut at = answer.start;
    let mut piece = vec![0; 64 << 10];
    loop {
        let length = answer
            .read(&mut piece)
            .map_err(|problem| Failure::new(format!("{name}: {problem}")))?;
        if length == 0 {
            break;
        }
        at += length as u64;
        if at > found.size {
            break;
        }
        file.write_all(&piece[..length]).map_err(io)?;
        hasher.write_all(&piece[..length]).map_err(io)?;
        bar.set_position(at);
    }
    bar.finish_and_clear();
    if at < found.size {
        // The part that has come is right, and the next attempt continues from it.
        return Err(Failure::new(format!(
            "{name}: expected {} bytes, found {at}",
            found.size
        )));
    }
    let wrong = match at > found.size {
        true => Some(format!("expected {} bytes, found more", found.size)),
        false => {
            let is = hasher.end();
            (is != found.hash).then(|| format!("expected the hash {}, found {is}", found.hash))
        }
    };
    if let Some(problem) = wrong {
        drop(file);
        // Nothing of it is right.
        let _ = fs::remove_file(partial);
        return Err(Failure::new(format!("{name}: {problem}")));
    }
    file.sync_all().map_err(io)
}

fn bar(name: &str, size: u64, start: u64) -> ProgressBar {
    let template = "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} ({eta})";
    let style = ProgressStyle::with_template(template);
    let bar = ProgressBar::new(size)
        .with_message(name.to_owned())
        .with_position(start);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn create_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Makes a file's name stand for a blob.
fn point(pointer: &Path, blob: &Path) -> io::Result<()> {
    match fs::remove_file(pointer) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    #[cfg(unix)]
    {
        // From snapshots/COMMIT/.
        let name = blob.file_name().unwrap_or_default();
        std::os::unix::fs::symlink(Path::new("../../blobs").join(name), pointer)
    }
    #[cfg(not(unix))]
    {
        fs::copy(blob, pointer).map(drop)
    }
}

/// A hash under way, to be written to.
enum Hasher {
    Sha256(sha2::Sha256),
    Git(sha1::Sha1),
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Sha256(hasher) => sha2::Digest::update(hasher, bytes),
            Self::Git(hasher) => sha1::Digest::update(hasher, bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Hasher {
    fn end(self) -> Hash {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hasher) => Hash::Sha256(hex(&sha2::Digest::finalize(hasher))),
            Self::Git(hasher) => Hash::Git(hex(&sha1::Digest::finalize(hasher))),
        }
    }
}

impl Hash {
    fn start(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(sha2::Digest::new()),
            Self::Git(_) => {
                let hasher = <sha1::Sha1 as sha1::Digest>::new();
                Hasher::Git(sha1::Digest::chain_update(hasher, format!("blob {size}\0")))
            }
        }
    }
}

//! The one way to read files. A file must be regular, and no larger than its kind may be.

use std::{
    fs::{File, FileType, OpenOptions},
    io::{self, Read},
    ops::Range,
    path::Path,
};

/// A larger `config.json`, `adapter_config.json` or other description of a model is refused before it is read; real ones have some kB.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// A larger index of weights is refused before it is read; a real one has about 100 bytes for each tensor.
pub const MAX_INDEX_BYTES: u64 = 64 << 20;

/// A regular file, open for reading at any place.
#[derive(Debug)]
pub struct RegularFile {
    file: File,
    size: u64,
}

impl RegularFile {
    /// Opens a file, or the target of a symbolic link, and never waits. A FIFO without a writer is refused like any other FIFO.
    ///
    /// # Errors
    /// The system refuses, or the path leads to a directory, a FIFO, a socket or a device.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true);
        #[cfg(unix)]
        {
            use rustix::fs::OFlags;
            use std::os::unix::fs::OpenOptionsExt as _;
            // A regular file ignores both flags. Without them, a FIFO would wait for a writer, and a terminal would become the program's
            // own.
            let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
            options.custom_flags(flags.bits().cast_signed());
        }
        let file = options.open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            let kind = kind(found.file_type());
            return Err(io::Error::other(format!(
                "expected a regular file, found {kind}"
            )));
        }
        let size = found.len();
        Ok(Self { file, size })
    }

    /// Bytes of the file when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads from the place of the last read on, at first from the file's start.
    pub fn stream(&self) -> impl Read + '_ {
        &self.file
    }

    /// A range of its bytes.
    ///
    /// # Errors
    /// The range is not inside the file, does not fit into memory, or the system cannot read it.
    pub fn read(&self, range: Range<usize>) -> io::Result<Vec<u8>> {
        if range.start > range.end || range.end as u64 > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = room(range.len())?;
        bytes.resize(range.len(), 0);
        self.read_at(&mut bytes, range.start as u64)?;
        Ok(bytes)
    }

    #[cfg(unix)]
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, bytes, at)
    }

    #[cfg(windows)]
    fn read_at(&self, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
        use std::os::windows::fs::FileExt as _;
        while !bytes.is_empty() {
            match self.file.seek_read(bytes, at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => (bytes, at) = (&mut bytes[read..], at + read as u64),
            }
        }
        Ok(())
    }
}

/// Reads a whole regular file. A file of more than `limit` bytes is refused before it is read.
///
/// # Errors
/// As [`RegularFile::open`]; the file is larger, or does not fit into memory.
pub fn read_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = RegularFile::open(path)?;
    read_up_to(file.stream(), file.size(), limit)
}

/// As [`read_file`], for a text.
///
/// # Errors
/// As [`read_file`]; the bytes are not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read_file(path, limit)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("not UTF-8 at byte {at}"),
        )
    })
}

/// As [`read_file`], for data that a user may also hand over as a stream: `/dev/stdin`, or a shell's `<(command)`.
///
/// # Errors
/// As [`read_file`].
pub fn read_input(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    match is_own_stream(path) {
        true => read_up_to(File::open(path)?, 0, limit),
        false => read_file(path, limit),
    }
}

/// True if a path stands for a stream that this process was started with. Any other FIFO may have nobody at its other end.
pub fn is_own_stream(path: &Path) -> bool {
    path == Path::new("/dev/stdin")
        || [Path::new("/dev/fd"), Path::new("/proc/self/fd")]
            .into_iter()
            .any(|folder| path.parent() == Some(folder))
}

/// Reads at most `limit` bytes, of which `size` are expected. A file may grow after it was measured.
fn read_up_to(from: impl Read, size: u64, limit: u64) -> io::Result<Vec<u8>> {
    if size > limit {
        return Err(too_large(size, limit));
    }
    let mut bytes = room(usize::try_from(size).unwrap_or(usize::MAX))?;
    from.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(too_large(bytes.len() as u64, limit)),
        false => Ok(bytes),
    }
}

pub(super) fn too_large(size: u64, limit: u64) -> io::Error {
    let message = format!("{size} bytes, over the limit of {limit}");
    io::Error::new(io::ErrorKind::FileTooLarge, message)
}

/// An empty vector with room for `bytes` bytes.
fn room(bytes: usize) -> io::Result<Vec<u8>> {
    let mut room = Vec::new();
    let made = room.try_reserve_exact(bytes);
    made.map(|()| room).map_err(|_| {
        let message = format!("{bytes} bytes do not fit into memory");
        io::Error::new(io::ErrorKind::OutOfMemory, message)
    })
}

fn kind(found: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        let special = [
            (found.is_fifo(), "a FIFO"),
            (found.is_socket(), "a socket"),
            (
                found.is_char_device() || found.is_block_device(),
                "a device",
            ),
        ];
        if let Some((_, name)) = special.into_iter().find(|(is, _)| *is) {
            return name;
        }
    }
    match found.is_dir() {
        true => "a directory",
        false => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_limit_is_read_and_a_larger_one_is_named_with_both_sizes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_file(&path, 5).unwrap(), b"12345");
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
        assert_eq!(read_input(&path, 5).unwrap(), b"12345");
        let error = read_file(&path, 4).unwrap_err().to_string();
        assert_eq!(error, "5 bytes, over the limit of 4");
        // The file is sparse: it takes no room on the disk, and would take all memory.
        let file = File::create(&path).unwrap();
        file.set_len(8 << 40).unwrap();
        let error = read_file(&path, 4).unwrap_err().to_string();
        assert_eq!(error, "8796093022208 bytes, over the limit of 4");
        let file = RegularFile::open(&path).unwrap();
        let error = file.read(0..8 << 40).unwrap_err().to_string();
        assert_eq!(error, "8796093022208 bytes do not fit into memory");
        assert_eq!(file.read(5..7).unwrap(), [0, 0]);
        assert!(file.read(8 << 40..(8 << 40) + 1).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let made = std::process::Command::new("mkfifo")
            .arg(at("fifo"))
            .status();
        assert!(made.unwrap().success());
        std::fs::create_dir(at("folder")).unwrap();
        std::fs::write(at("file"), b"x").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let targets = [
            (at("fifo"), "a FIFO"),
            (at("folder"), "a directory"),
            ("/dev/zero".into(), "a device"),
        ];
        for (target, kind) in targets {
            std::os::unix::fs::symlink(&target, at("link")).unwrap();
            for path in [&target, &at("link")] {
                for read in [read_file, read_input] {
                    let error = read(path, 9).unwrap_err().to_string();
                    assert_eq!(error, format!("expected a regular file, found {kind}"));
                }
            }
            std::fs::remove_file(at("link")).unwrap();
        }
        assert!(read_file(&at("socket"), 9).is_err());
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        assert_eq!(read_file(&at("link"), 9).unwrap(), b"x");
    }

    #[cfg(unix)]
    #[test]
    fn a_stream_of_the_process_is_read_up_to_the_limit() {
        use std::os::fd::AsRawFd as _;
        let zero = File::open("/dev/zero").unwrap();
        let path = format!("/dev/fd/{}", zero.as_raw_fd());
        let error = read_input(Path::new(&path), 9).unwrap_err().to_string();
        assert_eq!(error, "10 bytes, over the limit of 9");
    }
}

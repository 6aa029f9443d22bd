//! Files of text as streams.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read},
    path::Path,
};

use vblora::storage::{RegularFile, is_own_stream};

use crate::{Error, Result, limits::MAX_DATA_BYTES};

/// Bytes that are read at a time.
const BUFFER: usize = 1 << 18;

/// UTF-8's byte-order mark.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Opens a regular file of at most [`MAX_DATA_BYTES`] bytes, or a stream that this process was started with.
pub(super) fn open(path: &Path) -> Result<File> {
    if !is_own_stream(path) {
        // A FIFO would wait for a writer.
        let found = RegularFile::open(path).map_err(|e| Error::read(path, e))?;
        if found.size() > MAX_DATA_BYTES {
            let found = format!("{} bytes, expected at most {MAX_DATA_BYTES}", found.size());
            return Err(Error::read(path, io::Error::other(found)));
        }
    }
    File::open(path).map_err(|e| Error::read(path, e))
}

/// The file's text as a stream, without its byte-order mark. Its first buffer is full, unless the text is shorter: readers look at it.
pub(super) fn text(path: &Path) -> Result<BufReader<impl Read + use<>>> {
    let mut file = open(path)?;
    let mut start = Vec::new();
    let mut head = file.by_ref().take(BUFFER as u64);
    head.read_to_end(&mut start)
        .map_err(|e| Error::read(path, e))?;
    if start.starts_with(MARK) {
        start.drain(..MARK.len());
    }
    let all = Limited {
        inner: Cursor::new(start).chain(file),
        left: MAX_DATA_BYTES,
    };
    Ok(BufReader::with_capacity(BUFFER, all))
}

/// Refuses a stream that is longer than it may be. Its size is not known before it ends.
struct Limited<R> {
    inner: R,
    /// The bytes that may still come.
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let left = self.left.checked_sub(count as u64);
        self.left = left.ok_or_else(|| {
            let message = format!("expected at most {MAX_DATA_BYTES} bytes, found more");
            io::Error::new(io::ErrorKind::FileTooLarge, message)
        })?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_over_the_limit_is_refused_and_not_cut() {
        let read = |left| {
            let inner = Cursor::new(b"text");
            Limited { inner, left }.read_to_end(&mut Vec::new())
        };
        assert_eq!(read(4).unwrap(), 4);
        assert_eq!(read(3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}

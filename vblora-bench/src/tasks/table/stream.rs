//! Files of text as streams.

use std::{
    fs::File,
    io::{BufReader, Cursor, Read},
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
            return Err(Error::read(path, std::io::Error::other(found)));
        }
    }
    File::open(path).map_err(|e| Error::read(path, e))
}

/// The file's text as a stream, without its byte-order mark.
pub(super) fn text(path: &Path) -> Result<BufReader<impl Read + use<>>> {
    let mut file = open(path)?;
    let mut start = Vec::new();
    let mut head = file.by_ref().take(MARK.len() as u64);
    head.read_to_end(&mut start)
        .map_err(|e| Error::read(path, e))?;
    if start == MARK {
        start.clear();
    }
    let all = Cursor::new(start).chain(file).take(MAX_DATA_BYTES + 1);
    Ok(BufReader::with_capacity(BUFFER, all))
}

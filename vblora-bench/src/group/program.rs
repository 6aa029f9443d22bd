//! The program that every rank runs.

use std::{
    env,
    fs::File,
    io::{self, Read},
    path::Path,
    sync::OnceLock,
};

use vblora::storage::sha256_hex;

use crate::{Error, Result};

/// The file of the running program on Linux, even if another has taken its place.
const RUNNING: &str = "/proc/self/exe";

/// The program is read in pieces of this size.
const PIECE: u64 = 1 << 22;

/// SHA-256 of this program's file, read once.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn program_hash() -> Result<String> {
    static HASH: OnceLock<String> = OnceLock::new();
    if let Some(hash) = HASH.get() {
        return Ok(hash.clone());
    }
    let hash = read().map_err(|cause| Error::read(Path::new(RUNNING), cause))?;
    Ok(HASH.get_or_init(|| hash).clone())
}

fn read() -> io::Result<String> {
    let mut file = File::open(RUNNING).or_else(|_| File::open(env::current_exe()?))?;
    let mut hashes = Vec::new();
    loop {
        let mut piece = Vec::new();
        if file.by_ref().take(PIECE).read_to_end(&mut piece)? == 0 {
            return Ok(sha256_hex(hashes));
        }
        hashes.push(sha256_hex([piece]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_programs_bytes() {
        let bytes = std::fs::read(env::current_exe().unwrap()).unwrap();
        let pieces = bytes
            .chunks(PIECE as usize)
            .map(|piece| sha256_hex([piece]));
        assert_eq!(program_hash().unwrap(), sha256_hex(pieces));
    }
}

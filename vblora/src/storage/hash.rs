//! SHA-256 as text.

use sha2::{Digest, Sha256};

/// SHA-256 of pieces one after the other, in hexadecimal.
pub fn sha256_hex(pieces: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
    let hash = pieces.into_iter().fold(Sha256::new(), |hash, piece| {
        hash.chain_update(piece.as_ref())
    });
    hex(hash)
}

/// SHA-256 of values, little-endian.
pub(super) fn sha256_floats(values: &[f32]) -> [u8; 32] {
    let hash = values.iter().fold(Sha256::new(), |hash, value| {
        hash.chain_update(value.to_le_bytes())
    });
    hash.finalize().into()
}

/// A finished hash in hexadecimal.
pub(super) fn hex(hash: Sha256) -> String {
    let bytes = hash.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

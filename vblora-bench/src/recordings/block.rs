//! Blocks of a recording. Each has a length and a checksum, so a reader detects a cut-off or damaged file.

use std::ops::Range;

/// Bytes of length and checksum.
const PREFIX: usize = 8;

/// Bytes of kind and step.
const START: usize = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Picks,
    Bank,
    End,
}

/// A block in the bytes of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) kind: Kind,
    pub(super) step: u64,
    /// The range of the body in the file.
    pub(super) body: Range<usize>,
}

pub(super) fn to_bytes(kind: Kind, step: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; PREFIX];
    bytes.push(kind as u8);
    bytes.extend(step.to_le_bytes());
    bytes.extend(body);
    let payload = &bytes[PREFIX..];
    let (length, sum) = (payload.len() as u32, crc32fast::hash(payload));
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..PREFIX].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Reads the block at byte `at`.
///
/// # Errors
/// Only the cause: the file ends inside the block, or its checksum is wrong.
pub(super) fn read(bytes: &[u8], at: usize) -> Result<Block, String> {
    let number = |at: usize| {
        let four = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes(four.try_into().expect("four bytes")))
    };
    let cut = || "the file is cut off".to_owned();
    let (length, sum) = (number(at).ok_or_else(cut)?, number(at + 4).ok_or_else(cut)?);
    let start = at + PREFIX;
    let end = start.saturating_add(length as usize);
    let payload = bytes.get(start..end).ok_or_else(cut)?;
    if crc32fast::hash(payload) != sum || payload.len() < START {
        return Err("a block is damaged".into());
    }
    let kind = match payload[0] {
        0 => Kind::Picks,
        1 => Kind::Bank,
        2 => Kind::End,
        other => return Err(format!("unknown kind of block {other}")),
    };
    Ok(Block {
        kind,
        step: u64::from_le_bytes(payload[1..START].try_into().expect("eight bytes")),
        body: start + START..end,
    })
}

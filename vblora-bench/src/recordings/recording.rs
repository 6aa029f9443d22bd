//! Reads a recording.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::{
    block::{self, Block, Kind},
    header::Header,
    picks::Picks,
};
use vblora::storage::read_file;

use crate::{Error, Result, limits::MAX_RECORDING_BYTES};

/// The extension of recording files.
pub(crate) const EXTENSION: &str = "rec";

/// The error for a run directory without recordings: most often none was asked for.
fn missing(place: &Path, folder: &Path, error: io::Error) -> Error {
    if error.kind() != ErrorKind::NotFound {
        return Error::read(folder, error);
    }
    match place.is_dir() {
        true => Error::Recording {
            path: place.to_owned(),
            reason: "no recording in it; vblora train --record-every N makes one".into(),
        },
        false => Error::read(place, error),
    }
}

/// The selection after a number of optimizer steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Optimizer steps taken.
    pub step: u64,
    /// The selection at this step.
    pub picks: Picks,
}

/// A recorded run up to the first damage in its file. It has at least one selection.
#[derive(Debug, Clone)]
pub struct Recording {
    header: Header,
    bytes: Vec<u8>,
    blocks: Vec<Block>,
    damage: Option<String>,
}

impl Recording {
    /// Reads a file up to its end or the first damage. [`damage`](Self::damage) describes the damage.
    ///
    /// # Errors
    /// The file cannot be read, or its first line or first selection is damaged.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = read_file(path, MAX_RECORDING_BYTES).map_err(|e| Error::read(path, e))?;
        Self::from_bytes(bytes).map_err(|reason| Error::Recording {
            path: path.to_owned(),
            reason,
        })
    }

    /// [`read`](Self::read) from memory.
    ///
    /// # Errors
    /// Only the cause.
    pub fn from_bytes(bytes: Vec<u8>) -> std::result::Result<Self, String> {
        let (header, start) = Header::of_bytes(&bytes)?;
        let (blocks, damage) = scan(&header, &bytes, start);
        if !blocks.iter().any(|block| block.kind == Kind::Picks) {
            return Err(damage.unwrap_or("it has no selection".into()));
        }
        Ok(Self {
            header,
            bytes,
            blocks,
            damage,
        })
    }

    /// Finds the recordings of a session directory (in its folder `selections`), or the recording file `place`. They are sorted by name.
    ///
    /// # Errors
    /// There is no recording.
    pub fn find(place: &Path) -> Result<Vec<PathBuf>> {
        if place.is_file() {
            return Ok(vec![place.to_owned()]);
        }
        let folder = place.join(FOLDER);
        let entries = std::fs::read_dir(&folder).map_err(|e| missing(place, &folder, e))?;
        let mut found: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|end| end == EXTENSION))
            .collect();
        found.sort();
        match found.is_empty() {
            true => Err(Error::Recording {
                path: folder,
                reason: format!("no file *.{EXTENSION} in it"),
            }),
            false => Ok(found),
        }
    }

    /// The header of the recording.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The place and cause of the damage in the file; `None` for a sound file.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// The selections in the order of their steps. Only one is in memory at a time.
    pub fn frames(&self) -> impl Iterator<Item = Frame> {
        let sizes = self.header.sizes();
        let blocks = self.blocks.iter().filter(|b| b.kind == Kind::Picks);
        blocks.scan(None, move |before, block| {
            let body = &self.bytes[block.body.clone()];
            let picks = Picks::after(before.take(), body, sizes)
                .expect("every block was applied when the file was read");
            *before = Some(picks.clone());
            Some(Frame {
                step: block.step,
                picks,
            })
        })
    }

    /// The first selection.
    pub fn first(&self) -> Frame {
        let first = self.frames().next();
        first.expect("a recording has a selection")
    }

    /// The last selection.
    pub fn last(&self) -> Frame {
        let last = self.frames().last();
        last.expect("a recording has a selection")
    }

    /// The banks, each with its step. There is one at the start and, unless the run was cut off, one at the end.
    ///
    /// # Shapes
    /// - each: `[h, b]`, row-major
    pub fn banks(&self) -> Vec<(u64, Vec<f32>)> {
        let blocks = self.blocks.iter().filter(|b| b.kind == Kind::Bank);
        let bank = |block: &Block| {
            let values = self.bytes[block.body.clone()].chunks_exact(4);
            let number = |v: &[u8]| f32::from_le_bytes(v.try_into().expect("four bytes"));
            (block.step, values.map(number).collect())
        };
        blocks.map(bank).collect()
    }

    /// Steps and encoded bodies of the selections, as stored in the file.
    pub fn differences(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let blocks = self.blocks.iter().filter(|b| b.kind == Kind::Picks);
        blocks.map(|block| (block.step, &self.bytes[block.body.clone()]))
    }

    /// The part of the recording that stays when the run continues from `step`: blocks before its end and not of a later step. `None`
    /// without a selection.
    pub(super) fn until(mut self, step: u64) -> Option<Self> {
        let stays = |block: &&Block| block.kind != Kind::End && block.step <= step;
        let kept = self.blocks.iter().take_while(stays).count();
        self.blocks.truncate(kept);
        self.bytes.truncate(self.blocks.last()?.body.end);
        let has_selection = self.blocks.iter().any(|b| b.kind == Kind::Picks);
        has_selection.then_some(self)
    }

    /// The bytes of the file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The folder of a session directory that holds recordings.
pub(crate) const FOLDER: &str = "selections";

/// The path of a run's recording in its session's directory.
pub(super) fn place(dir: &Path, run: &str) -> PathBuf {
    dir.join(FOLDER).join(format!("{run}.{EXTENSION}"))
}

/// The sound blocks after the header, and the damage of the first block that is not sound.
fn scan(header: &Header, bytes: &[u8], start: usize) -> (Vec<Block>, Option<String>) {
    let (mut blocks, mut at) = (Vec::new(), start);
    let (mut reached, mut picks) = (None, None);
    while at < bytes.len() {
        let next = block::read(bytes, at).and_then(|block| {
            check(header, bytes, &block, &mut reached, &mut picks)?;
            Ok(block)
        });
        match next {
            Ok(block) => {
                at = block.body.end;
                blocks.push(block);
            }
            Err(reason) => return (blocks, Some(format!("{reason}, at byte {at}"))),
        }
    }
    (blocks, None)
}

/// Refuses a block that does not fit the blocks before it.
fn check(
    header: &Header,
    bytes: &[u8],
    block: &Block,
    reached: &mut Option<u64>,
    picks: &mut Option<Picks>,
) -> std::result::Result<(), String> {
    let body = &bytes[block.body.clone()];
    match block.kind {
        Kind::Picks => {
            let is_late = block.step > header.steps;
            if is_late || reached.is_some_and(|reached| block.step <= reached) {
                return Err(format!(
                    "the selection of step {} is out of order",
                    block.step
                ));
            }
            *picks = Some(Picks::after(picks.take(), body, header.sizes())?);
            *reached = Some(block.step);
        }
        Kind::Bank => {
            let config = header.settings.config();
            let bytes = 4 * config.bank * config.vector_length;
            let is_finite = |v: &[u8]| f32::from_le_bytes(v.try_into().expect("four bytes"));
            if body.len() != bytes || body.chunks_exact(4).any(|v| !is_finite(v).is_finite()) {
                return Err("a bank with other values than [h, b] finite ones".into());
            }
        }
        Kind::End => {}
    }
    Ok(())
}

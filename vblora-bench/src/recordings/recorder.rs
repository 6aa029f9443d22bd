//! Writes a recording while a run trains.

use std::{
    fs::File,
    io::{self, Seek, Write},
    path::{Path, PathBuf},
};

use vblora::{VbLora, backend::VbLoraBackend, storage::write_atomically};

use super::{
    block::{self, Kind},
    header::Header,
    picks::Picks,
    recording::{Frame, Recording, place},
};
use crate::{Error, Result};

/// The open recording of a running run.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    file: File,
    every: u64,
    /// The step and content of the last selection in the file.
    last: Option<(u64, Picks)>,
}

impl Recorder {
    /// Starts to record the run `run` of the session in `dir` every `every` steps. `adapter` is its state after `step` steps. An existing
    /// recording of the run is continued, without its blocks of later steps.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn start<B: VbLoraBackend>(
        dir: &Path,
        run: &str,
        header: &Header,
        every: usize,
        step: u64,
        adapter: &VbLora<B>,
    ) -> Result<Self> {
        let path = place(dir, run);
        let last = match step {
            0 => None,
            _ => keep(&path, header, step)?,
        };
        if last.is_none() {
            write_atomically(&path, &header.to_line())?;
        }
        let mut recorder = Self {
            file: append(&path).map_err(|e| Error::write(&path, e))?,
            path,
            every: every as u64,
            last,
        };
        if recorder.last.is_none() {
            recorder.bank(step, adapter)?;
        }
        if recorder.last.is_none() || recorder.is_due(step) {
            recorder.record(step, adapter)?;
        }
        Ok(recorder)
    }

    /// Returns true if a selection is due after this many steps.
    pub fn is_due(&self, step: u64) -> bool {
        step.is_multiple_of(self.every)
    }

    /// Appends the selection after `step` steps, unless the file already has it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn record<B: VbLoraBackend>(&mut self, step: u64, adapter: &VbLora<B>) -> Result<()> {
        if self.last.as_ref().is_some_and(|(last, _)| *last >= step) {
            return Ok(());
        }
        let picks = Picks::new(&adapter.mixture());
        let before = self.last.as_ref().map(|(_, picks)| picks);
        self.append(Kind::Picks, step, &picks.difference(before))?;
        self.last = Some((step, picks));
        Ok(())
    }

    /// Appends the last selection and bank of a run that has ended, or has been interrupted.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn end<B: VbLoraBackend>(&mut self, step: u64, adapter: &VbLora<B>) -> Result<()> {
        self.append(Kind::End, step, &[])?;
        self.record(step, adapter)?;
        self.bank(step, adapter)?;
        self.sync()
    }

    /// Flushes the file to the disk.
    ///
    /// # Errors
    /// The operating system reports an error.
    pub fn sync(&mut self) -> Result<()> {
        let synced = self.file.sync_data();
        synced.map_err(|e| Error::write(&self.path, e))
    }

    fn bank<B: VbLoraBackend>(&mut self, step: u64, adapter: &VbLora<B>) -> Result<()> {
        let bytes = adapter.host_bank().into_iter().flat_map(f32::to_le_bytes);
        self.append(Kind::Bank, step, &bytes.collect::<Vec<_>>())
    }

    /// Writes a block in one call, so that an interrupted process leaves whole blocks.
    fn append(&mut self, kind: Kind, step: u64, body: &[u8]) -> Result<()> {
        let bytes = block::to_bytes(kind, step, body);
        let written = self.file.write_all(&bytes);
        written.map_err(|e| Error::write(&self.path, e))
    }
}

fn append(path: &Path) -> io::Result<File> {
    let mut file = File::options().write(true).open(path)?;
    file.seek(io::SeekFrom::End(0))?;
    Ok(file)
}

/// Cuts the recording at `path` to the part that a run continues from at `step`, and returns its last selection. Without such a part it
/// warns that the run's first steps will be missing, and returns `None`.
fn keep(path: &Path, header: &Header, step: u64) -> Result<Option<(u64, Picks)>> {
    let found = match Recording::read(path) {
        Ok(found) if found.header() == header => found,
        Ok(_) => return Ok(missing(path, step, "it belongs to another run")),
        Err(error) => return Ok(missing(path, step, &error.to_string())),
    };
    if let Some(damage) = found.damage() {
        tracing::warn!("{}: {damage}", path.display());
    }
    let Some(kept) = found.until(step) else {
        return Ok(missing(path, step, "it starts later"));
    };
    write_atomically(path, kept.bytes())?;
    let Frame { step, picks } = kept.last();
    Ok(Some((step, picks)))
}

fn missing(path: &Path, step: u64, reason: &str) -> Option<(u64, Picks)> {
    let path = path.display();
    tracing::warn!("{path} starts at step {step}, the steps before are not recorded: {reason}");
    None
}

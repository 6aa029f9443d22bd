//! A file of events that grows while a run goes on.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use vblora::storage::{read_file, write_atomically};

use super::{
    event::{Event, Scalar, VERSION},
    record,
};
use crate::{Error, Result, limits::MAX_LOG_BYTES};

/// The file's name. TensorBoard reads files with `tfevents` in their names, and shows each folder of one as a run.
pub const FILE_NAME: &str = "events.out.tfevents.vblora";

/// An open file of events.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventFile {
    /// Opens the file in `folder`, new or with the events of the first `steps` steps. Later events, which the run will repeat, and a last
    /// one that was cut off are removed.
    ///
    /// # Errors
    /// A file or folder cannot be read or written.
    pub fn open(folder: &Path, steps: u64) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        let path = folder.join(FILE_NAME);
        let bytes = match path.exists() {
            true => read_file(&path, MAX_LOG_BYTES).map_err(|e| Error::read(&path, e))?,
            false => Vec::new(),
        };
        let mut kept = Vec::new();
        for (event, bytes) in events(&bytes) {
            let is_first = kept.is_empty();
            if steps > 0 && (is_first == event.version.is_some()) && event.step <= steps {
                kept.extend(bytes);
            }
        }
        if kept.is_empty() {
            let first = Event {
                version: Some(VERSION.into()),
                ..now(0)
            };
            kept = record::framed(&first.encode());
        }
        if kept != bytes {
            write_atomically(&path, &kept)?;
        }
        let file = File::options().append(true).open(&path);
        let file = file
            .map(BufWriter::new)
            .map_err(|e| Error::write(&path, e))?;
        Ok(Self { path, file })
    }

    /// Adds the scalars that are finite, as values after `step` steps.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(
        &mut self,
        step: u64,
        scalars: impl IntoIterator<Item = (String, f64)>,
    ) -> Result<()> {
        let finite = scalars.into_iter().filter(|(_, value)| value.is_finite());
        let scalars = finite.map(|(tag, value)| Scalar {
            tag,
            value: value as f32,
        });
        let event = Event {
            scalars: scalars.collect(),
            ..now(step)
        };
        let written = self.file.write_all(&record::framed(&event.encode()));
        written.map_err(|e| Error::write(&self.path, e))
    }

    /// Hands the events to the system, where readers see them.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|e| Error::write(&self.path, e))
    }

    /// Flushes the file to the disk.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn sync(&mut self) -> Result<()> {
        self.flush()?;
        let synced = self.file.get_ref().sync_data();
        synced.map_err(|e| Error::write(&self.path, e))
    }
}

/// An event of this moment, without scalars.
fn now(step: u64) -> Event {
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Event {
        wall_time: since_1970.as_secs_f64(),
        step,
        ..Event::default()
    }
}

/// The events of a file up to the first that is cut off or damaged, each with its bytes.
fn events(bytes: &[u8]) -> impl Iterator<Item = (Event, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (data, size) = record::first(rest)?;
        let event = Event::decode(data)?;
        let (whole, later) = rest.split_at(size);
        rest = later;
        Some((event, whole))
    })
}

/// Reads the events of a file, up to the first that is cut off or damaged.
///
/// # Errors
/// The file cannot be read.
pub fn read_events(path: &Path) -> Result<Vec<Event>> {
    let bytes = read_file(path, MAX_LOG_BYTES).map_err(|e| Error::read(path, e))?;
    Ok(events(&bytes).map(|(event, _)| event).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(folder: &Path) -> Vec<u64> {
        let events = read_events(&folder.join(FILE_NAME)).unwrap();
        assert_eq!(events[0].version.as_deref(), Some(VERSION));
        assert!(events[1..].iter().all(|event| event.version.is_none()));
        events[1..].iter().map(|event| event.step).collect()
    }

    fn write(folder: &Path, reached: u64, steps: std::ops::RangeInclusive<u64>) {
        let mut file = EventFile::open(folder, reached).unwrap();
        for step in steps {
            let loss = 1.0 / step as f64;
            let scalars = [("loss".to_owned(), loss), ("norm".to_owned(), f64::NAN)];
            file.add(step, scalars).unwrap();
        }
        file.sync().unwrap();
    }

    #[test]
    fn a_file_goes_on_without_duplicates_and_begins_again_without_the_old() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("tensorboard/lora-seed1");
        write(&folder, 0, 1..=5);
        assert_eq!(steps(&folder), [1, 2, 3, 4, 5]);
        let path = folder.join(FILE_NAME);
        let events = read_events(&path).unwrap();
        assert_eq!(
            events[2].scalars.len(),
            1,
            "a value that is not finite is left out"
        );
        assert_eq!(
            (&*events[2].scalars[0].tag, events[2].scalars[0].value),
            ("loss", 0.5)
        );
        // A killed process leaves half an event.
        let mut bytes = std::fs::read(&path).unwrap();
        let whole = bytes.clone();
        bytes.extend(&whole[..17]);
        std::fs::write(&path, &bytes).unwrap();
        write(&folder, 3, 4..=6);
        assert_eq!(steps(&folder), [1, 2, 3, 4, 5, 6]);
        write(&folder, 0, 1..=2);
        assert_eq!(steps(&folder), [1, 2]);
        std::fs::write(&path, "not events").unwrap();
        write(&folder, 2, 3..=3);
        assert_eq!(steps(&folder), [3]);
    }
}

//! The user's data: the files, and the way to a development split.

use std::path::PathBuf;
use std::sync::Arc;

use super::{hold_out, notes::without_rows, read::read, store::StoredSplit};
use crate::tasks::{SplitName, Task};
use crate::{Error, Result};

/// The user's data.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnData {
    /// The training files.
    pub train: Vec<PathBuf>,
    /// The development split.
    pub dev: Dev,
}

/// Where the development split comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Dev {
    /// From files.
    Files(Vec<PathBuf>),
    /// From the training files, as a part that training does not see.
    HeldOut {
        /// The share of the rows, above 0 and below 1.
        share: f64,
        /// The seed of the choice.
        seed: u64,
    },
}

/// The splits of the user's data.
#[derive(Debug)]
pub struct Splits {
    /// The training split.
    pub train: StoredSplit,
    /// The development split.
    pub dev: StoredSplit,
    /// Notes for the user.
    pub notes: Vec<String>,
}

impl OwnData {
    /// Reads both splits.
    ///
    /// # Errors
    /// The task is not one of [`Task::own`]; a file cannot be read; a row has no label, or one that is not the task's.
    pub fn read(&self, task: &Task) -> Result<Splits> {
        let (columns, target) = task.named()?;
        let (store, mut notes) = read(&self.train, columns, target)?;
        let store = Arc::new(store);
        let (train, dev) = match &self.dev {
            Dev::Files(files) => {
                let (dev, more) = read(files, columns, target)?;
                notes.extend(more);
                (
                    StoredSplit::new(store, None),
                    StoredSplit::new(Arc::new(dev), None),
                )
            }
            Dev::HeldOut { share, seed } => {
                let (train, dev) = hold_out::split(store.len(), store.classes(), *share, *seed);
                if dev.is_empty() {
                    return Err(Error::Setting {
                        setting: "hold-out".into(),
                        expected: "at least two rows, or two of a class".into(),
                        found: format!("{} rows in {}", store.len(), self.train[0].display()),
                    });
                }
                let split = |rows| StoredSplit::new(store.clone(), Some(rows));
                (split(train), split(dev))
            }
        };
        notes.extend(without_rows(
            task.classes(),
            &train.counts(task.classes().len()),
        ));
        Ok(Splits { train, dev, notes })
    }

    /// The examples of one split, each on its own.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn split(&self, task: &Task, name: SplitName) -> Result<crate::tasks::Split> {
        let Splits { train, dev, .. } = self.read(task)?;
        let (split, files) = match (name, &self.dev) {
            (SplitName::Train, _) => (train, &self.train),
            (SplitName::Dev, Dev::Files(files)) => (dev, files),
            (SplitName::Dev, Dev::HeldOut { .. }) => (dev, &self.train),
        };
        Ok(crate::tasks::Split {
            examples: (0..split.len()).map(|index| split.example(index)).collect(),
            source: files[0].clone(),
        })
    }
}

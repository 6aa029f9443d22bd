//! The user's data: the files, and the way to a development split.

use std::path::PathBuf;
use std::sync::Arc;

use super::{
    hold_out,
    notes::{seen_in_training, without_rows},
    read::read,
    store::{Store, StoredSplit},
};
use crate::tasks::{SplitName, Task, counted};
use crate::{Error, Result, directory::is_same};

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
        self.check()?;
        let (store, mut notes) = read(&self.train, columns, target)?;
        let store = Arc::new(store);
        let mut seen = None;
        let (train, dev) = match &self.dev {
            Dev::Files(files) => {
                let (dev, more) = read(files, columns, target)?;
                notes.extend(more);
                let train = StoredSplit::new(store, None);
                let dev = StoredSplit::new(Arc::new(dev), None);
                seen = seen_in_training(&dev, &train, &files[0]);
                (train, dev)
            }
            Dev::HeldOut { share, seed } => {
                let (train, dev) = hold_out::split(store.len(), store.classes(), *share, *seed);
                if dev.is_empty() {
                    return Err(self.too_few(&store));
                }
                let split = |rows| StoredSplit::new(store.clone(), Some(rows));
                (split(train), split(dev))
            }
        };
        notes.extend(without_rows(
            task.classes(),
            &train.counts(task.classes().len()),
        ));
        notes.extend(seen);
        Ok(Splits { train, dev, notes })
    }

    /// Refuses a development file that is a training file.
    ///
    /// # Errors
    /// The file.
    pub fn check(&self) -> Result<()> {
        let Dev::Files(files) = &self.dev else {
            return Ok(());
        };
        let is_training = |file: &&PathBuf| self.train.iter().any(|train| is_same(train, file));
        match files.iter().find(is_training) {
            None => Ok(()),
            Some(file) => Err(Error::Setting {
                setting: "dev".into(),
                expected: "another file than the training file".into(),
                found: file.display().to_string(),
            }),
        }
    }

    /// The error of rows of which none can be held out.
    fn too_few(&self, store: &Store) -> Error {
        let file = self.train[0].display();
        let (expected, found) = match (store.classes(), store.len()) {
            (Some(_), 2..) => (
                "a class with two rows",
                format!("one row of each class of {file}"),
            ),
            (_, rows) => (
                "two rows",
                format!("{} in {file}", counted(rows, "row", "rows")),
            ),
        };
        Error::Setting {
            setting: "hold-out".into(),
            expected: expected.into(),
            found,
        }
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

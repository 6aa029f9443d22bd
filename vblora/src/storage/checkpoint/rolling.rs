//! The checkpoints of one run: sets named by step. The last few and the best stay.

use std::path::{Path, PathBuf};

use super::{FileSet, set::UNFINISHED};
use crate::{Error, Result, storage::atomic::make_folder};

/// The prefix of a set's name, before its step.
const STEP: &str = "step-";

/// A folder of sets named `step-N`.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// Opens a folder, which is made if absent, and removes half-written leftovers of a killed process.
    ///
    /// # Errors
    /// The operating system refuses, or the folder is a symbolic link, which is not followed.
    pub fn open(folder: &Path) -> Result<Self> {
        make_folder(folder)?;
        let checkpoints = Self {
            folder: folder.to_owned(),
        };
        for name in checkpoints.names()? {
            if name.starts_with(UNFINISHED) {
                checkpoints.remove(&folder.join(name))?;
            }
        }
        Ok(checkpoints)
    }

    /// The folder of the set of a step.
    pub fn place(&self, step: u64) -> PathBuf {
        self.folder.join(name_of(step))
    }

    /// True if this name in a folder of sets is that of a set, or of a leftover from writing or removing one.
    pub fn is_set(name: &str) -> bool {
        name.starts_with(UNFINISHED) || step_of(name).is_some()
    }

    /// The steps that have a set, sound or not, in ascending order.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let names = self.names()?;
        let mut steps: Vec<u64> = names.iter().filter_map(|name| step_of(name)).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Reads the set of a step and checks every byte of it.
    ///
    /// # Errors
    /// As [`FileSet::read`].
    pub fn load(&self, step: u64) -> Result<FileSet> {
        FileSet::read(&self.place(step))
    }

    /// Writes the set of a step, in place of an older one. A run that reaches a step again did not resume from the set that is there. That
    /// set is damaged, or belongs to something else.
    ///
    /// # Errors
    /// As [`FileSet::write`].
    pub fn save(&self, step: u64, set: &FileSet) -> Result<()> {
        let place = self.place(step);
        if std::fs::symlink_metadata(&place).is_ok_and(|found| found.is_dir()) {
            self.retire(&place)?;
        }
        set.write(&place)
    }

    /// Removes every set but the last `last` and that of step `best`.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn keep(&self, last: usize, best: Option<u64>) -> Result<()> {
        let steps = self.steps()?;
        let old = &steps[..steps.len().saturating_sub(last)];
        for &step in old.iter().filter(|&&step| Some(step) != best) {
            self.retire(&self.place(step))?;
        }
        Ok(())
    }

    /// Renames a set in one step, so that no reader sees it while its files are removed one by one.
    fn retire(&self, place: &Path) -> Result<()> {
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let retired = self.folder.join(format!("{UNFINISHED}{name}"));
        std::fs::rename(place, &retired).map_err(|cause| Error::Io {
            path: place.to_owned(),
            cause,
        })?;
        self.remove(&retired)
    }

    /// Removes a directory and its content, or a symbolic link alone.
    fn remove(&self, path: &Path) -> Result<()> {
        let removed = match std::fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
            _ => std::fs::remove_file(path),
        };
        removed.map_err(|cause| Error::Io {
            path: path.to_owned(),
            cause,
        })
    }

    fn names(&self) -> Result<Vec<String>> {
        let io = |cause| Error::Io {
            path: self.folder.clone(),
            cause,
        };
        let entries = std::fs::read_dir(&self.folder).map_err(io)?;
        entries
            .map(|entry| {
                Ok(entry
                    .map_err(io)?
                    .file_name()
                    .to_string_lossy()
                    .into_owned())
            })
            .collect()
    }
}

fn name_of(step: u64) -> String {
    format!("{STEP}{step:08}")
}

fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix(STEP)?.parse().ok()?;
    (name_of(step) == name).then_some(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> FileSet {
        let mut set = FileSet::default();
        set.insert("state", text.as_bytes().to_vec()).unwrap();
        set
    }

    #[test]
    fn the_last_few_and_the_best_stay() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(&folder.path().join("run")).unwrap();
        for step in [3, 7, 12, 20, 100_000_000, 1_000_000_000] {
            checkpoints.save(step, &set(&step.to_string())).unwrap();
        }
        checkpoints.keep(2, Some(7)).unwrap();
        let expected = [7, 100_000_000, 1_000_000_000];
        assert_eq!(checkpoints.steps().unwrap(), expected);
        assert_eq!(checkpoints.load(7).unwrap(), set("7"));
        checkpoints.keep(1, None).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), expected[2..]);
        let left = std::fs::read_dir(folder.path().join("run")).unwrap();
        assert_eq!(left.count(), 1, "nothing is left of what was removed");
    }

    #[test]
    fn an_older_set_is_replaced_sound_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(folder.path()).unwrap();
        checkpoints.save(4, &set("first")).unwrap();
        assert_eq!(checkpoints.load(4).unwrap(), set("first"));
        checkpoints.save(4, &set("another")).unwrap();
        assert_eq!(checkpoints.load(4).unwrap(), set("another"));
        std::fs::write(checkpoints.place(4).join("state"), "fIrst").unwrap();
        checkpoints.save(4, &set("second")).unwrap();
        assert_eq!(checkpoints.load(4).unwrap(), set("second"));
    }

    #[test]
    fn what_a_killed_writer_left_is_cleared_away_and_other_names_are_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at(".unfinished-abc")).unwrap();
        std::fs::write(at(".unfinished-abc/state"), "half").unwrap();
        for name in ["step-12", "step-x", "step-+0000001", "notes"] {
            std::fs::create_dir(at(name)).unwrap();
            assert!(!Checkpoints::is_set(name));
        }
        assert!(Checkpoints::is_set("step-00000012") && Checkpoints::is_set(".unfinished-abc"));
        let checkpoints = Checkpoints::open(folder.path()).unwrap();
        assert!(!at(".unfinished-abc").exists());
        assert!(checkpoints.steps().unwrap().is_empty());
        checkpoints.save(1, &set("1")).unwrap();
        checkpoints.keep(0, None).unwrap();
        assert!(at("step-12").exists() && at("notes").exists());
    }
}

//! Reads the splits of tasks with labels.

use std::path::{Path, PathBuf};

use vblora::storage::read_input;

use super::{
    example::{Split, SplitName},
    folder, rows,
    task::Task,
};
use crate::{Error, Result, limits::MAX_DATA_BYTES};

/// Reads a split from GLUE's layout, `<dir>/<task>/{train,dev}.tsv`.
///
/// The task's folder may be spelled as here or as in GLUE (`SST-2`), in any case. `dir` may also be that folder itself. If `train.tsv` is
/// missing and there is exactly one `train*.tsv`, such as a subset (`train_10k.tsv`), that file is read. [`Split::source`] names the file.
///
/// # Errors
/// The directory or file does not exist; the text is not UTF-8; [`parse_split`] refuses it; the task is that of causal models.
pub fn read_split(dir: &Path, task: &Task, name: SplitName) -> Result<Split> {
    read_split_file(&folder::find(dir, task, name)?, task)
}

/// Reads a split from one file in the task's TSV form.
///
/// # Errors
/// The file cannot be read; the text is not UTF-8; [`parse_split`] refuses it.
pub fn read_split_file(file: &Path, task: &Task) -> Result<Split> {
    let bytes = read_input(file, MAX_DATA_BYTES).map_err(|e| Error::read(file, e))?;
    let shown = file.display().to_string();
    let examples = rows::parse(rows::utf8(&bytes, &shown)?, &shown, task)?;
    let source = file.to_owned();
    Ok(Split { examples, source })
}

/// Reads the sentences of one file in the task's TSV form, of which labels are not read. A test split has none; if the task's other files
/// have no header, the test split has the columns `index` and `sentence`, as CoLA's.
///
/// # Errors
/// The file cannot be read; the text is not UTF-8 or empty; a column is missing from the header; a row has another number of fields.
pub(crate) fn read_sentences(file: &Path, task: &Task) -> Result<Vec<(String, Option<String>)>> {
    let bytes = read_input(file, MAX_DATA_BYTES).map_err(|e| Error::read(file, e))?;
    let shown = file.display().to_string();
    rows::parse_sentences(rows::utf8(&bytes, &shown)?, &shown, task)
}

/// Finds the files of both splits in GLUE's layout, and reads neither.
///
/// # Errors
/// The directory or a file does not exist; the task is that of causal models.
pub fn check_splits(dir: &Path, task: &Task) -> Result<()> {
    for name in [SplitName::Train, SplitName::Dev] {
        folder::find(dir, task, name)?;
    }
    Ok(())
}

/// Reads a split from text in the task's TSV form. Errors and the split show `source` as its name.
///
/// Fields are never quoted: `"` is a character like any other. A byte-order mark, CRLF line ends and a missing last newline are accepted.
/// The task defines the columns ([`Fields`](super::Fields)). Blanks at the ends of a sentence are dropped; every sentence of SST-2 has one.
///
/// # Errors
/// The split is empty; a column is missing from the header. A row has another number of fields than the header, an empty sentence, or an
/// unknown label; the error gives the line.
pub fn parse_split(text: &str, source: &str, task: &Task) -> Result<Split> {
    let examples = rows::parse(text, source, task)?;
    let source = PathBuf::from(source);
    Ok(Split { examples, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Label;

    type Published = (fn() -> Task, SplitName, usize, usize);

    /// (task, split, rows, rows of class 1), from shared/data/README.md.
    const PUBLISHED: [Published; 10] = [
        (Task::cola, SplitName::Train, 8551, 6023),
        (Task::cola, SplitName::Dev, 1043, 721),
        (Task::sst2, SplitName::Train, 67349, 37569),
        (Task::sst2, SplitName::Dev, 872, 444),
        (Task::mrpc, SplitName::Train, 3667, 2473),
        (Task::mrpc, SplitName::Dev, 408, 279),
        (Task::qnli, SplitName::Train, 9999, 4972),
        (Task::qnli, SplitName::Dev, 5463, 2761),
        (Task::rte, SplitName::Train, 2490, 1241),
        (Task::rte, SplitName::Dev, 277, 131),
    ];

    #[expect(clippy::print_stdout, reason = "a skipped test says why")]
    fn shared_data() -> Option<PathBuf> {
        let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data"));
        if !dir.is_dir() {
            println!("skipped: no {} in this checkout", dir.display());
            return None;
        }
        Some(dir)
    }

    #[test]
    fn shared_data_has_the_published_rows() {
        let Some(dir) = shared_data() else { return };
        for (task, name, rows, ones) in PUBLISHED {
            let task = task();
            let split = read_split(&dir, &task, name).unwrap();
            let found = split
                .examples
                .iter()
                .filter(|e| e.label == Label::Class(1))
                .count();
            assert_eq!(
                (split.examples.len(), found),
                (rows, ones),
                "{task} {}",
                name.name()
            );
            let pairs = [Task::mrpc(), Task::qnli(), Task::rte()].contains(&task);
            assert!(
                split.examples.iter().all(|e| e.b.is_some() == pairs),
                "{task}"
            );
            assert!(
                split
                    .examples
                    .iter()
                    .all(|e| e.a == e.a.trim() && !e.a.is_empty()),
                "{task}"
            );
        }
        let qnli = read_split(&dir, &Task::qnli(), SplitName::Train).unwrap();
        assert!(
            qnli.source.ends_with("qnli/train_10k.tsv"),
            "{:?}",
            qnli.source
        );
    }

    #[test]
    fn shared_data_stsb_has_the_published_means() {
        let Some(dir) = shared_data() else { return };
        for (name, rows, mean) in [
            (SplitName::Train, 5749, 2.701),
            (SplitName::Dev, 1500, 2.364),
        ] {
            // The task's own folder may be given too.
            let split = read_split(&dir.join("stsb"), &Task::stsb(), name).unwrap();
            let scores = split.examples.iter().map(|e| match e.label {
                Label::Value(score) => f64::from(score),
                Label::Class(_) | Label::Classes(_) => panic!("{:?} in STS-B", e.label),
            });
            let found = scores.sum::<f64>() / rows as f64;
            assert_eq!(split.examples.len(), rows);
            assert!((found - mean).abs() < 5e-4, "{found}");
        }
    }

    #[test]
    fn shared_data_rows_are_read_whole() {
        let Some(dir) = shared_data() else { return };
        let mrpc = read_split(&dir, &Task::mrpc(), SplitName::Dev).unwrap();
        let first = &mrpc.examples[0];
        assert!(
            first
                .a
                .starts_with("He said the foodservice pie business doesn 't fit")
        );
        let second = first.b.as_deref().unwrap();
        assert_eq!(
            second,
            "\" The foodservice pie business does not fit our long-term growth strategy ."
        );
    }
}

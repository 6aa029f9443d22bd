//! The six GLUE tasks of the paper (Table 1) and the demonstration set, read from GLUE's own TSV files; and the name of the task of causal
//! models, whose texts are read elsewhere ([`super::causal`]).

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{folder, rows};
use crate::metrics::Metric;
use crate::{Error, Result};

/// A task.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// CoLA: is the sentence grammatical?
    Cola,
    /// SST-2: is the film review positive?
    Sst2,
    /// MRPC: do the two sentences say the same?
    Mrpc,
    /// STS-B: how alike are the two sentences, 0 to 5?
    Stsb,
    /// QNLI: does the sentence answer the question?
    Qnli,
    /// RTE: does the second sentence follow from the first?
    Rte,
    /// The demonstration set: acceptability as in CoLA, built from BLiMP.
    Demo,
    /// Texts that a causal model is to continue.
    #[value(skip)]
    Text,
}

impl Task {
    /// Every task.
    pub const ALL: [Self; 8] = [
        Self::Cola,
        Self::Sst2,
        Self::Mrpc,
        Self::Stsb,
        Self::Qnli,
        Self::Rte,
        Self::Demo,
        Self::Text,
    ];

    /// The name used on the command line, in recipes and in results.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cola => "cola",
            Self::Sst2 => "sst2",
            Self::Mrpc => "mrpc",
            Self::Stsb => "stsb",
            Self::Qnli => "qnli",
            Self::Rte => "rte",
            Self::Demo => "demo",
            Self::Text => "text",
        }
    }

    /// The size of the head's output: the number of classes, or 1 for the regression task STS-B; 0 where there is no head.
    pub fn labels(&self) -> usize {
        match self {
            Self::Stsb => 1,
            Self::Text => 0,
            _ => 2,
        }
    }

    /// The classes' names in GLUE, in the order of their ids; empty where labels are no classes.
    pub fn classes(&self) -> &'static [&'static str] {
        match self {
            Self::Cola | Self::Demo => &["unacceptable", "acceptable"],
            Self::Sst2 => &["negative", "positive"],
            Self::Mrpc => &["not_equivalent", "equivalent"],
            Self::Qnli | Self::Rte => &["entailment", "not_entailment"],
            Self::Stsb | Self::Text => &[],
        }
    }

    /// Whether the label is a score (STS-B) and not a class.
    pub fn is_regression(&self) -> bool {
        matches!(self, Self::Stsb)
    }

    /// The metric by which the paper's Table 1 judges the task, and by which the best epoch is picked.
    pub fn primary_metric(&self) -> Metric {
        match self {
            Self::Cola | Self::Demo => Metric::Matthews,
            Self::Stsb => Metric::Pearson,
            Self::Sst2 | Self::Mrpc | Self::Qnli | Self::Rte => Metric::Accuracy,
            Self::Text => Metric::Nll,
        }
    }

    /// Every metric reported for the task.
    ///
    /// F1 only where class 1 is the one of interest; Matthews also for MRPC, whose classes are uneven.
    pub fn metrics(&self) -> &'static [Metric] {
        match self {
            Self::Cola | Self::Mrpc | Self::Demo => {
                &[Metric::Accuracy, Metric::F1, Metric::Matthews]
            }
            Self::Stsb => &[Metric::Pearson, Metric::Spearman],
            Self::Sst2 | Self::Qnli | Self::Rte => &[Metric::Accuracy],
            Self::Text => &[Metric::Nll],
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Task {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|task| task.name() == name);
        found.ok_or_else(|| Error::UnknownName {
            what: "task",
            name: name.to_string(),
            expected: Self::ALL.map(|task| task.name()).join(", "),
        })
    }
}

/// What an example is to be predicted as.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Label {
    /// A class below [`Task::labels`]. QNLI and RTE: 0 is `entailment`, 1 `not_entailment`.
    Class(usize),
    /// A score in 0..=5 (STS-B).
    Score(f32),
}

/// One row of a split.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The sentence, or the first of a pair; never empty, no blanks at its ends.
    pub a: String,
    /// The second sentence of a pair.
    pub b: Option<String>,
    /// The label.
    pub label: Label,
}

/// The labelled splits. (GLUE's test splits have no labels.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitName {
    /// `train.tsv`
    Train,
    /// `dev.tsv`
    Dev,
}

impl SplitName {
    /// `train` or `dev`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Dev => "dev",
        }
    }
}

/// The examples of one file, in its order; never empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// The examples.
    pub examples: Vec<Example>,
    /// The file they were read from. Worth reporting when it is not `train.tsv`: see [`read_split`].
    pub source: PathBuf,
}

/// Reads a split from GLUE's layout, `<dir>/<task>/{train,dev}.tsv`.
///
/// The task's folder may be spelled as here or as GLUE does (`SST-2`), in any case, and `dir` may be that
/// folder itself. Where `train.tsv` is absent and exactly one `train*.tsv` is there, as in a subset
/// (`train_10k.tsv`), that one is read, and [`Split::source`] says so.
///
/// # Errors
/// No such directory or file; everything that [`parse_split`] refuses; text that is not UTF-8; the task of causal models.
pub fn read_split(dir: &Path, task: Task, name: SplitName) -> Result<Split> {
    let source = folder::find(dir, task, name)?;
    let bytes = std::fs::read(&source).map_err(|e| Error::read(&source, e))?;
    let shown = source.display().to_string();
    let text = rows::utf8(&bytes, &shown)?;
    let examples = rows::parse(text, &shown, task)?;
    Ok(Split { examples, source })
}

/// Reads a split from text in the task's TSV form; `source` is the name that errors and the split carry.
///
/// Fields are never quoted: `"` is a character like any other. A byte-order mark, CRLF line ends and a missing
/// last newline are accepted. CoLA and the demonstration set have no header; elsewhere columns are found by name.
/// Blanks at the ends of a sentence (all of SST-2 has one) are dropped.
///
/// # Errors
/// An empty split, a column missing from the header, and, with the line, a row of another number of fields than the
/// header's, an empty sentence, a label outside the task, a score outside 0..=5.
pub fn parse_split(text: &str, source: &str, task: Task) -> Result<Split> {
    let examples = rows::parse(text, source, task)?;
    let source = PathBuf::from(source);
    Ok(Split { examples, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_round() {
        for task in Task::ALL {
            assert_eq!(task.name().parse::<Task>().unwrap(), task);
            let by_flag = <Task as ValueEnum>::from_str(task.name(), false);
            assert_eq!(by_flag.ok(), Some(task).filter(|&task| task != Task::Text));
            assert_eq!(serde_json::to_value(task).unwrap(), task.name());
            assert!(task.metrics().contains(&task.primary_metric()), "{task}");
        }
        let error = "mnli".parse::<Task>().unwrap_err().to_string();
        assert!(error.contains("mnli") && error.contains("stsb"), "{error}");
        assert_eq!(Task::Stsb.labels(), 1);
        assert_eq!(Task::Qnli.labels(), 2);
    }

    /// (task, split, rows, rows of class 1), from shared/data/README.md.
    const PUBLISHED: [(Task, SplitName, usize, usize); 10] = [
        (Task::Cola, SplitName::Train, 8551, 6023),
        (Task::Cola, SplitName::Dev, 1043, 721),
        (Task::Sst2, SplitName::Train, 67349, 37569),
        (Task::Sst2, SplitName::Dev, 872, 444),
        (Task::Mrpc, SplitName::Train, 3667, 2473),
        (Task::Mrpc, SplitName::Dev, 408, 279),
        (Task::Qnli, SplitName::Train, 9999, 4972),
        (Task::Qnli, SplitName::Dev, 5463, 2761),
        (Task::Rte, SplitName::Train, 2490, 1241),
        (Task::Rte, SplitName::Dev, 277, 131),
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
            let split = read_split(&dir, task, name).unwrap();
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
            let pairs = matches!(task, Task::Mrpc | Task::Qnli | Task::Rte);
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
        let qnli = read_split(&dir, Task::Qnli, SplitName::Train).unwrap();
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
            let split = read_split(&dir.join("stsb"), Task::Stsb, name).unwrap();
            let scores = split.examples.iter().map(|e| match e.label {
                Label::Score(score) => f64::from(score),
                Label::Class(class) => panic!("class {class} in STS-B"),
            });
            let found = scores.sum::<f64>() / rows as f64;
            assert_eq!(split.examples.len(), rows);
            assert!((found - mean).abs() < 5e-4, "{found}");
        }
    }

    #[test]
    fn shared_data_rows_are_read_whole() {
        let Some(dir) = shared_data() else { return };
        let mrpc = read_split(&dir, Task::Mrpc, SplitName::Dev).unwrap();
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

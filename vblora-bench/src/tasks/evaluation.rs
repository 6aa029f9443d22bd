//! Scores of predictions, as a whole and for each class.

use serde::{Deserialize, Serialize};

use crate::metrics::{ClassCounts, ClassScores, Scores};

/// The scores of predictions.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Every metric of the task.
    pub scores: Scores,
    /// Scores of each class; `None` for numbers and texts.
    pub by_class: Option<ByClass>,
}

impl From<Scores> for Evaluation {
    fn from(scores: Scores) -> Self {
        Self {
            scores,
            by_class: None,
        }
    }
}

/// Scores of each class, in the order of the classes' ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByClass {
    /// The scores of each class.
    pub classes: Vec<NamedScores>,
    /// The number of rows by class of the label, then by predicted class. `None` if a row may have several classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confusion: Option<Vec<Vec<usize>>>,
}

/// The scores of one class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamedScores {
    /// The name of the class.
    pub label: String,
    /// Its scores.
    #[serde(flatten)]
    pub scores: ClassScores,
}

impl ByClass {
    pub(super) fn new(
        names: &[String],
        counts: &[ClassCounts],
        confusion: Option<Vec<Vec<usize>>>,
    ) -> Self {
        let classes = names.iter().zip(counts);
        let classes = classes.map(|(name, counts)| NamedScores {
            label: name.clone(),
            scores: counts.scores(),
        });
        Self {
            classes: classes.collect(),
            confusion,
        }
    }

    /// Refuses scores of other classes, and a confusion matrix of another shape.
    pub(crate) fn check(&self, names: &[String]) -> Result<(), String> {
        let own = self.classes.iter().map(|class| &class.label);
        if !own.eq(names) {
            return Err("by_class: the scores are of other classes".into());
        }
        let count = names.len();
        let is_square =
            |rows: &Vec<Vec<usize>>| rows.len() == count && rows.iter().all(|r| r.len() == count);
        match self.confusion.as_ref().is_none_or(is_square) {
            true => Ok(()),
            false => Err(format!(
                "by_class: expected a confusion matrix of {count} classes"
            )),
        }
    }
}

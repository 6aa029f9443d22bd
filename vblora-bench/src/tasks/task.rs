//! The definition of a task: columns, labels and metrics.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, metrics::Metric};

/// A task, defined by data. GLUE's six tasks ([`Task::mrpc`]) and the bundled ones are values of this type. [`Task::own`] makes others.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The name on the command line, in recipes and in results.
    pub name: String,
    /// The kind of its examples.
    pub kind: Kind,
    /// The metric that selects the best epoch.
    pub primary_metric: Metric,
    /// Metrics that are reported in addition.
    pub other_metrics: Vec<Metric>,
}

/// The kind of a task's examples.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// One or two sentences with a label.
    Labelled {
        /// The columns of its files.
        fields: Fields,
        /// The kind of its labels.
        target: Target,
    },
    /// Texts to continue. A [`Form`](super::causal::Form) defines prompt and response.
    Texts,
}

/// The positions of an example's parts in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Fields {
    /// A header names the columns. There may be other columns.
    Named(Columns<String>),
    /// The file has no header. Columns are counted from 0, and a row has `count` fields.
    Placed {
        /// The columns.
        columns: Columns<usize>,
        /// The number of fields of every row.
        count: usize,
    },
}

/// The columns of an example.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns<C> {
    /// The first sentence.
    pub first: C,
    /// The second sentence, for tasks on pairs.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub second: Option<C>,
    /// The label.
    pub label: C,
}

/// The kind of a label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Target {
    /// One of several classes. The id of a class is the index of its name.
    Classes {
        /// The classes' names.
        names: Vec<String>,
        /// The notation of a class in files.
        written: Written,
    },
    /// Any number of several classes, also none (multi-label). The id of a class is the index of its name.
    Sets {
        /// The classes' names.
        names: Vec<String>,
        /// The text between two names in files whose cells are text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        separator: Option<String>,
    },
    /// A number from `lowest` to `highest`, both included (regression).
    Number {
        /// The lowest label.
        lowest: f32,
        /// The highest label.
        highest: f32,
    },
}

impl Target {
    /// The classes' names, in the order of their ids; empty for numbers.
    pub fn classes(&self) -> &[String] {
        match self {
            Self::Classes { names, .. } | Self::Sets { names, .. } => names,
            Self::Number { .. } => &[],
        }
    }
}

/// The notation of a class in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Written {
    /// By its id: `0`, `1`.
    Id,
    /// By its name.
    Name,
}

impl Task {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The output size of the head: the number of classes, or 1 for regression; 0 for a task without a head.
    pub fn outputs(&self) -> usize {
        match self.target() {
            Some(Target::Classes { names, .. } | Target::Sets { names, .. }) => names.len(),
            Some(Target::Number { .. }) => 1,
            None => 0,
        }
    }

    /// The kind of a label; `None` for texts.
    pub fn target(&self) -> Option<&Target> {
        match &self.kind {
            Kind::Labelled { target, .. } => Some(target),
            Kind::Texts => None,
        }
    }

    /// The columns and the kind of a label, for a task whose columns have names.
    ///
    /// # Errors
    /// The columns have no names, or there are no labels.
    pub fn named(&self) -> Result<(&Columns<String>, &Target)> {
        match &self.kind {
            Kind::Labelled {
                fields: Fields::Named(columns),
                target,
            } => Ok((columns, target)),
            Kind::Labelled { .. } | Kind::Texts => Err(Error::Setting {
                setting: "task".into(),
                expected: "one with named columns".into(),
                found: self.to_string(),
            }),
        }
    }

    /// The classes' names, in the order of their ids; empty for other labels.
    pub fn classes(&self) -> &[String] {
        match self.target() {
            Some(target) => target.classes(),
            None => &[],
        }
    }

    /// Returns true if the label is a number.
    pub fn is_regression(&self) -> bool {
        matches!(self.target(), Some(Target::Number { .. }))
    }

    /// Returns true if an example has a set of classes.
    pub fn is_multi_label(&self) -> bool {
        matches!(self.target(), Some(Target::Sets { .. }))
    }

    /// Returns true if the examples are texts for a causal model.
    pub fn is_text(&self) -> bool {
        matches!(self.kind, Kind::Texts)
    }

    /// Every metric that is reported.
    pub fn metrics(&self) -> impl Iterator<Item = Metric> {
        std::iter::once(self.primary_metric).chain(self.other_metrics.iter().copied())
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}

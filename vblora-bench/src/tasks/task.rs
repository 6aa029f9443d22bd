//! What a task is: where its rows have what, what is predicted, and how predictions are judged.

use std::fmt;

use crate::metrics::Metric;

/// A task, as data: the six of GLUE are values of it ([`Task::mrpc`]), and so are the bundled ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The name on the command line, in recipes and in results.
    pub name: String,
    /// What its examples are.
    pub kind: Kind,
    /// The metric that judges a model: by it the best epoch is picked.
    pub primary_metric: Metric,
    /// Metrics that are reported beside it.
    pub other_metrics: Vec<Metric>,
}

/// What the examples of a task are.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// One or two sentences with a label.
    Labelled {
        /// Where a row of its files has what.
        fields: Fields,
        /// What a label is.
        target: Target,
    },
    /// Texts to continue. A [`Form`](super::causal::Form) says where a row has prompt and response.
    Texts,
}

/// Where the rows of a file have what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fields {
    /// A header names the columns. Others may stand between them.
    Named(Columns<String>),
    /// The file has no header. Columns are counted from 0, and a row has `count` fields.
    Placed {
        /// The columns.
        columns: Columns<usize>,
        /// Fields of every row.
        count: usize,
    },
}

/// The columns of an example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns<C> {
    /// The first sentence.
    pub first: C,
    /// The second sentence, where a task is about pairs.
    pub second: Option<C>,
    /// The label.
    pub label: C,
}

/// What a label is.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// One of several classes; its id is the place of its name here.
    Classes {
        /// The classes' names.
        names: Vec<String>,
        /// How a file writes one.
        written: Written,
    },
    /// A number from `lowest` to `highest`, both included (regression).
    Number {
        /// The smallest.
        lowest: f32,
        /// The largest.
        highest: f32,
    },
}

/// How a file writes a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

    /// The size of the head's output: the number of classes, or 1 for regression; 0 where there is no head.
    pub fn outputs(&self) -> usize {
        match self.target() {
            Some(Target::Classes { names, .. }) => names.len(),
            Some(Target::Number { .. }) => 1,
            None => 0,
        }
    }

    /// What a label is; none for texts.
    pub fn target(&self) -> Option<&Target> {
        match &self.kind {
            Kind::Labelled { target, .. } => Some(target),
            Kind::Texts => None,
        }
    }

    /// The classes' names, in the order of their ids; empty where labels are no classes.
    pub fn classes(&self) -> &[String] {
        match self.target() {
            Some(Target::Classes { names, .. }) => names,
            Some(Target::Number { .. }) | None => &[],
        }
    }

    /// Whether the label is a number and not a class.
    pub fn is_regression(&self) -> bool {
        matches!(self.target(), Some(Target::Number { .. }))
    }

    /// Whether a causal model is to continue texts.
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

//! The six GLUE tasks of the paper (Table 1), the demonstration task, which has the form of CoLA, and the task of causal models.
//!
//! The metrics are those of Table 1. F1 is reported only if class 1 is the class of interest. Matthews is also reported for MRPC, because
//! its classes are uneven.

use super::task::{Columns, Fields, Kind, Target, Task, Written};
use crate::metrics::Metric;

impl Task {
    /// CoLA: is the sentence grammatical?
    pub fn cola() -> Self {
        acceptability("cola")
    }

    /// SST-2: is the film review positive?
    pub fn sst2() -> Self {
        let classes = ids(["negative", "positive"]);
        labelled(
            "sst2",
            named("sentence", None, "label"),
            classes,
            [Metric::Accuracy],
        )
    }

    /// MRPC: do the two sentences have the same meaning?
    pub fn mrpc() -> Self {
        labelled(
            "mrpc",
            named("#1 String", Some("#2 String"), "Quality"),
            ids(["not_equivalent", "equivalent"]),
            [Metric::Accuracy, Metric::F1, Metric::Matthews],
        )
    }

    /// STS-B: how similar are the two sentences, from 0 to 5?
    pub fn stsb() -> Self {
        labelled(
            "stsb",
            named("sentence1", Some("sentence2"), "score"),
            Target::Number {
                lowest: 0.0,
                highest: 5.0,
            },
            [Metric::Pearson, Metric::Spearman],
        )
    }

    /// QNLI: does the sentence answer the question?
    pub fn qnli() -> Self {
        let fields = named("question", Some("sentence"), "label");
        labelled("qnli", fields, entailment(), [Metric::Accuracy])
    }

    /// RTE: does the second sentence follow from the first?
    pub fn rte() -> Self {
        let fields = named("sentence1", Some("sentence2"), "label");
        labelled("rte", fields, entailment(), [Metric::Accuracy])
    }

    /// The demonstration set: acceptability as in CoLA, built from BLiMP.
    pub fn demo() -> Self {
        acceptability("demo")
    }

    /// Texts for a causal model to continue.
    pub fn text() -> Self {
        Self {
            name: "text".into(),
            kind: Kind::Texts,
            primary_metric: Metric::Nll,
            other_metrics: Vec::new(),
        }
    }
}

/// A task in the form of CoLA. Its files have no header; the columns are source, label, author's mark, sentence.
fn acceptability(name: &str) -> Task {
    let columns = Columns {
        first: 3,
        second: None,
        label: 1,
    };
    labelled(
        name,
        Fields::Placed { columns, count: 4 },
        ids(["unacceptable", "acceptable"]),
        [Metric::Matthews, Metric::Accuracy, Metric::F1],
    )
}

/// A task with labels. The first metric is the primary one.
fn labelled<const N: usize>(
    name: &str,
    fields: Fields,
    target: Target,
    metrics: [Metric; N],
) -> Task {
    const { assert!(N > 0) };
    Task {
        name: name.into(),
        kind: Kind::Labelled { fields, target },
        primary_metric: metrics[0],
        other_metrics: metrics[1..].to_vec(),
    }
}

fn named(first: &str, second: Option<&str>, label: &str) -> Fields {
    Fields::Named(Columns {
        first: first.into(),
        second: second.map(Into::into),
        label: label.into(),
    })
}

/// Classes that files denote by ids.
fn ids(names: [&str; 2]) -> Target {
    Target::Classes {
        names: names.map(Into::into).into(),
        written: Written::Id,
    }
}

fn entailment() -> Target {
    Target::Classes {
        names: ["entailment", "not_entailment"].map(Into::into).into(),
        written: Written::Name,
    }
}

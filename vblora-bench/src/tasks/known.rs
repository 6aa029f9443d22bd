//! The tasks with a name, which command lines, recipes and results use.

use std::{fmt, str::FromStr};

use clap::builder::{
    PossibleValue, PossibleValuesParser, TypedValueParser, ValueParser, ValueParserFactory,
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{own_task::Definition, task::Task};
use crate::{Error, Result};

/// Name, question, and the task.
type Known = (&'static str, &'static str, fn() -> Task);

const KNOWN: [Known; 8] = [
    ("cola", "CoLA: is the sentence grammatical?", Task::cola),
    ("sst2", "SST-2: is the film review positive?", Task::sst2),
    (
        "mrpc",
        "MRPC: do the two sentences have the same meaning?",
        Task::mrpc,
    ),
    (
        "stsb",
        "STS-B: how similar are the two sentences, from 0 to 5?",
        Task::stsb,
    ),
    (
        "qnli",
        "QNLI: does the sentence answer the question?",
        Task::qnli,
    ),
    (
        "rte",
        "RTE: does the second sentence follow from the first?",
        Task::rte,
    ),
    (
        "demo",
        "The demonstration set: acceptability as in CoLA, built from BLiMP",
        Task::demo,
    ),
    ("text", "Texts for a causal model to continue", Task::text),
];

const NAMES: [&str; KNOWN.len()] = {
    let mut names = [""; KNOWN.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = KNOWN[i].0;
        i += 1;
    }
    names
};

impl Task {
    /// Every task with a name.
    pub fn known() -> impl Iterator<Item = Self> {
        KNOWN.iter().map(|(_, _, task)| task())
    }

    /// Returns true if this is a task with a name. Its metrics do not count.
    pub fn is_known(&self) -> bool {
        Self::find(&self.name).is_some_and(|known| known.kind == self.kind)
    }

    fn find(name: &str) -> Option<Self> {
        let found = KNOWN.iter().find(|(known, ..)| *known == name);
        found.map(|(_, _, task)| task())
    }
}

impl FromStr for Task {
    type Err = Error;

    /// # Errors
    /// The name is unknown. The error lists the known tasks.
    fn from_str(name: &str) -> Result<Self> {
        Self::find(name).ok_or_else(|| Error::UnknownName {
            what: "task",
            name: name.to_string(),
            expected: NAMES.join(", "),
        })
    }
}

/// A flag takes the name of a task with labels. Its help lists the names.
impl ValueParserFactory for Task {
    type Parser = ValueParser;

    fn value_parser() -> ValueParser {
        let labelled = KNOWN.iter().filter(|(_, _, task)| !task().is_text());
        let values = labelled.map(|(name, about, _)| PossibleValue::new(*name).help(*about));
        let parser = PossibleValuesParser::new(values);
        parser.try_map(|name: String| name.parse::<Self>()).into()
    }
}

/// A known task with its own metrics is serialized as its name, every other one as its definition.
impl Serialize for Task {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let is_named = Self::find(&self.name).is_some_and(|known| known == *self);
        match Definition::of(self).filter(|_| !is_named) {
            Some(own) => own.serialize(serializer),
            None => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Task {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(NameOrDefinition)
    }
}

struct NameOrDefinition;

impl<'de> Visitor<'de> for NameOrDefinition {
    type Value = Task;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a task or its definition")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> std::result::Result<Task, E> {
        Task::find(name).ok_or_else(|| E::unknown_variant(name, &NAMES))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Task, A::Error> {
        let definition = Definition::deserialize(MapAccessDeserializer::new(map))?;
        definition.task().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command};

    use super::*;

    /// The task that a flag's value names.
    fn by_flag(name: &str) -> Option<Task> {
        let flag = Arg::new("task").value_parser(Task::value_parser());
        let found = Command::new("x")
            .arg(flag)
            .try_get_matches_from(["x", name]);
        found.ok()?.get_one("task").cloned()
    }

    #[test]
    fn names_go_round() {
        for (task, name) in Task::known().zip(NAMES) {
            assert_eq!(task.name(), name);
            assert_eq!(task.name().parse::<Task>().unwrap(), task);
            let by_flag = by_flag(task.name());
            assert_eq!(
                by_flag,
                Some(task.clone()).filter(|task| *task != Task::text())
            );
            assert_eq!(serde_json::to_value(&task).unwrap(), task.name());
            let read: Task = serde_json::from_value(task.name().into()).unwrap();
            assert_eq!(read, task);
            assert!(
                task.metrics().any(|metric| metric == task.primary_metric),
                "{task}"
            );
        }
        let error = "mnli".parse::<Task>().unwrap_err().to_string();
        assert!(error.contains("mnli") && error.contains("stsb"), "{error}");
        let other = Task::mrpc().with_primary_metric(crate::metrics::Metric::F1);
        let other = other.unwrap();
        assert!(other.is_known() && other != Task::mrpc());
        let definition = serde_json::to_value(&other).unwrap();
        assert!(definition.is_object(), "{definition}");
        assert_eq!(serde_json::from_value::<Task>(definition).unwrap(), other);
        assert_eq!(Task::stsb().outputs(), 1);
        assert_eq!(Task::qnli().outputs(), 2);
    }
}

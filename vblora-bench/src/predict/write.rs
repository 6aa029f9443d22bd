//! Predictions as CSV, TSV or JSON lines.

use std::path::Path;

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use super::outcome::Outcome;
use crate::{
    Error, Result,
    tasks::{Target, Task},
};

/// The form of a file of predictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Comma-separated values with a header.
    Csv,
    /// Tab-separated values with a header.
    Tsv,
    /// One JSON object a line.
    Jsonl,
}

impl Form {
    /// The form that the name of a file says.
    ///
    /// # Errors
    /// The suffix is unknown.
    pub fn of(path: &Path) -> Result<Self> {
        let suffix = path.extension().and_then(|suffix| suffix.to_str());
        match suffix.map(str::to_ascii_lowercase).as_deref() {
            Some("csv") => Ok(Self::Csv),
            Some("tsv") => Ok(Self::Tsv),
            Some("jsonl") => Ok(Self::Jsonl),
            _ => Err(Error::Setting {
                setting: "out".into(),
                expected: "a file that ends in .csv, .tsv or .jsonl, or - for standard output"
                    .into(),
                found: path.display().to_string(),
            }),
        }
    }
}

/// The separator of a set's labels in CSV and TSV.
const SEPARATOR: &str = ";";

/// The file of these predictions, a row each in their order.
///
/// | task | CSV and TSV | JSON lines |
/// | --- | --- | --- |
/// | classes | `label`, and `probability_NAME` of each class | `{"label": NAME, "probabilities": {NAME: p, ..}}` |
/// | sets of classes | `labels`, separated by the task's separator or `;`, and `probability_NAME` of each class | `{"labels": [NAME, ..], "probabilities": {NAME: p, ..}}` |
/// | numbers | `value` | `{"value": x}` |
///
/// # Errors
/// As [`check`]; a row cannot be written as CSV.
pub fn encode(task: &Task, outcomes: &[Outcome], form: Form) -> Result<Vec<u8>> {
    check(task, form)?;
    match form {
        Form::Csv => separated(task, outcomes, b','),
        Form::Tsv => separated(task, outcomes, b'\t'),
        Form::Jsonl => Ok(lines(task.classes(), outcomes)),
    }
}

/// The separator of the labels of a row, in tasks with several of them.
fn separator(task: &Task) -> Option<&str> {
    match task.target() {
        Some(Target::Sets { separator, .. }) => Some(separator.as_deref().unwrap_or(SEPARATOR)),
        Some(Target::Classes { .. } | Target::Number { .. }) | None => None,
    }
}

/// Refuses a form in which the labels of a row cannot be told apart.
///
/// # Errors
/// The form joins labels with a separator, and the name of a class contains it.
pub fn check(task: &Task, form: Form) -> Result<()> {
    let (Form::Csv | Form::Tsv, Some(separator)) = (form, separator(task)) else {
        return Ok(());
    };
    match task.classes().iter().find(|name| name.contains(separator)) {
        None => Ok(()),
        Some(name) => Err(Error::Setting {
            setting: "out".into(),
            expected: format!(
                "JSON lines (--out FILE.jsonl or --format jsonl), because {separator:?} separates the labels of a row in CSV and TSV"
            ),
            found: format!("a class {name:?}"),
        }),
    }
}

fn separated(task: &Task, outcomes: &[Outcome], delimiter: u8) -> Result<Vec<u8>> {
    let names = task.classes();
    let separator = separator(task).unwrap_or(SEPARATOR);
    let first = match task.target() {
        Some(Target::Classes { .. }) => "label",
        Some(Target::Sets { .. }) => "labels",
        Some(Target::Number { .. }) | None => "value",
    };
    let mut writer = csv::WriterBuilder::new()
        .delimiter(delimiter)
        .from_writer(Vec::new());
    let failed = |cause: csv::Error| Error::write(Path::new("predictions"), cause.into());
    let probability = |name: &String| format!("probability_{name}");
    let header = std::iter::once(first.to_owned()).chain(names.iter().map(probability));
    writer.write_record(header).map_err(failed)?;
    for outcome in outcomes {
        let (first, probabilities) = match outcome {
            Outcome::Class(class, all) => (names[*class].clone(), &**all),
            Outcome::Set(set, all) => {
                let labels: Vec<&str> = set.iter().map(|class| &*names[*class]).collect();
                (labels.join(separator), &**all)
            }
            Outcome::Value(value) => (value.to_string(), &[][..]),
        };
        let probabilities = probabilities.iter().map(f32::to_string);
        let record = std::iter::once(first).chain(probabilities);
        writer.write_record(record).map_err(failed)?;
    }
    writer
        .into_inner()
        .map_err(|cause| Error::write(Path::new("predictions"), cause.into_error()))
}

fn lines(names: &[String], outcomes: &[Outcome]) -> Vec<u8> {
    let by_name = |all: &[f32]| -> Map<String, Value> {
        let pairs = names.iter().zip(all);
        pairs
            .map(|(name, probability)| (name.clone(), number(*probability)))
            .collect()
    };
    let line = |outcome: &Outcome| match outcome {
        Outcome::Class(class, all) => {
            json!({"label": names[*class], "probabilities": by_name(all)})
        }
        Outcome::Set(set, all) => {
            let labels: Vec<&String> = set.iter().map(|class| &names[*class]).collect();
            json!({"labels": labels, "probabilities": by_name(all)})
        }
        Outcome::Value(value) => json!({"value": number(*value)}),
    };
    let mut text = String::new();
    for outcome in outcomes {
        text.push_str(&line(outcome).to_string());
        text.push('\n');
    }
    text.into_bytes()
}

/// The shortest number that reads as this one in single precision.
fn number(value: f32) -> Value {
    value
        .to_string()
        .parse::<serde_json::Number>()
        .map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Written;

    fn task(target: Target) -> Task {
        let columns = crate::tasks::Columns {
            first: "text".into(),
            second: None,
            label: "label".into(),
        };
        Task::own("reviews", columns, target)
    }

    fn names() -> Vec<String> {
        ["bad", "so, so"].map(String::from).to_vec()
    }

    fn written(target: Target, outcome: Outcome, form: Form) -> String {
        String::from_utf8(encode(&task(target), &[outcome], form).unwrap()).unwrap()
    }

    #[test]
    fn classes_sets_and_numbers_have_their_columns() {
        let classes = || Target::Classes {
            names: names(),
            written: Written::Name,
        };
        let sets = || Target::Sets {
            names: names(),
            separator: None,
        };
        let numbers = || Target::Number {
            lowest: 0.0,
            highest: 5.0,
        };
        let class = || Outcome::Class(1, vec![0.25, 0.75]);
        let set = || Outcome::Set(vec![0, 1], vec![0.75, 0.6]);
        assert_eq!(
            written(classes(), class(), Form::Csv),
            "label,probability_bad,\"probability_so, so\"\n\"so, so\",0.25,0.75\n"
        );
        assert_eq!(
            written(sets(), set(), Form::Tsv),
            "labels\tprobability_bad\tprobability_so, so\nbad;so, so\t0.75\t0.6\n"
        );
        assert_eq!(
            written(numbers(), Outcome::Value(0.1), Form::Csv),
            "value\n0.1\n"
        );
        for (target, outcome, line) in [
            (
                classes(),
                class(),
                "{\"label\":\"so, so\",\"probabilities\":{\"bad\":0.25,\"so, so\":0.75}}\n",
            ),
            (
                sets(),
                set(),
                "{\"labels\":[\"bad\",\"so, so\"],\"probabilities\":{\"bad\":0.75,\"so, so\":0.6}}\n",
            ),
            (numbers(), Outcome::Value(0.1), "{\"value\":0.1}\n"),
        ] {
            assert_eq!(written(target, outcome, Form::Jsonl), line);
        }
    }

    #[test]
    fn a_class_whose_name_has_the_separator_needs_json_lines() {
        let sets = |separator: Option<&str>| {
            task(Target::Sets {
                names: names(),
                separator: separator.map(Into::into),
            })
        };
        check(&sets(None), Form::Csv).unwrap();
        let set = [Outcome::Set(vec![0, 1], vec![0.75, 0.6])];
        for form in [Form::Csv, Form::Tsv] {
            let error = encode(&sets(Some(", ")), &set, form).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains(".jsonl") && error.contains("found a class \"so, so\""),
                "{error}"
            );
        }
        encode(&sets(Some(", ")), &set, Form::Jsonl).unwrap();
    }

    #[test]
    fn the_form_is_that_of_the_suffix() {
        assert_eq!(Form::of(Path::new("a/b.JSONL")).unwrap(), Form::Jsonl);
        let error = Form::of(Path::new("b.txt")).unwrap_err().to_string();
        assert!(
            error.contains(".jsonl") && error.contains("b.txt"),
            "{error}"
        );
    }
}

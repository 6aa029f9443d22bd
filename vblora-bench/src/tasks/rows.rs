//! Rows of a GLUE TSV text to examples.

use super::glue::{Example, Label, Task};
use crate::{Error, Result};

/// Where a task keeps its sentences and its label.
struct Columns {
    a: usize,
    b: Option<usize>,
    label: usize,
    /// Fields of every row.
    count: usize,
}

/// The text of a file.
pub(super) fn utf8<'a>(bytes: &'a [u8], file: &str) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let line = 1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count();
        row_error(
            file,
            line,
            "UTF-8 text",
            format!("byte 0x{:02x}", bytes[at]),
        )
    })
}

/// Every example of the text; see [`super::parse_split`].
pub(super) fn parse(text: &str, file: &str, task: Task) -> Result<Vec<Example>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(Error::EmptySplit {
            file: file.to_string(),
        });
    }
    let lines = text
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line));
    let mut lines = (1..).zip(lines);
    let columns = match names(task) {
        None => Columns {
            a: 3,
            b: None,
            label: 1,
            count: 4,
        },
        Some(names) => {
            let header = lines.next().map_or("", |(_, line)| line);
            find_columns(header, names, file)?
        }
    };
    let examples: Result<Vec<Example>> = lines
        .map(|(number, line)| example(line, &columns, task, file, number))
        .collect();
    let examples = examples?;
    if examples.is_empty() {
        return Err(Error::EmptySplit {
            file: file.to_string(),
        });
    }
    Ok(examples)
}

/// The header's names of first sentence, second sentence and label; none for the headless CoLA form.
fn names(task: Task) -> Option<(&'static str, Option<&'static str>, &'static str)> {
    match task {
        Task::Cola | Task::Demo | Task::Text => None,
        Task::Sst2 => Some(("sentence", None, "label")),
        Task::Mrpc => Some(("#1 String", Some("#2 String"), "Quality")),
        Task::Stsb => Some(("sentence1", Some("sentence2"), "score")),
        Task::Qnli => Some(("question", Some("sentence"), "label")),
        Task::Rte => Some(("sentence1", Some("sentence2"), "label")),
    }
}

fn find_columns(
    header: &str,
    (a, b, label): (&'static str, Option<&'static str>, &'static str),
    file: &str,
) -> Result<Columns> {
    let fields: Vec<&str> = header.split('\t').map(str::trim).collect();
    let find = |column: &'static str| {
        fields
            .iter()
            .position(|field| *field == column)
            .ok_or_else(|| Error::MissingColumn {
                file: file.to_string(),
                column,
                found: shown(header),
            })
    };
    let b = b.map(find).transpose()?;
    Ok(Columns {
        a: find(a)?,
        b,
        label: find(label)?,
        count: fields.len(),
    })
}

fn example(
    line: &str,
    columns: &Columns,
    task: Task,
    file: &str,
    number: usize,
) -> Result<Example> {
    let fields: Vec<&str> = line.split('\t').collect();
    if fields.len() != columns.count {
        let expected = format!("{} tab-separated fields", columns.count);
        return Err(row_error(
            file,
            number,
            &expected,
            format!("{}: {}", fields.len(), shown(line)),
        ));
    }
    let sentence = |column: usize| {
        let sentence = fields[column].trim();
        if sentence.is_empty() {
            return Err(row_error(
                file,
                number,
                "a sentence",
                format!("nothing in field {}", column + 1),
            ));
        }
        Ok(sentence.to_string())
    };
    let label = label(fields[columns.label].trim(), task)
        .map_err(|expected| row_error(file, number, expected, shown(fields[columns.label])))?;
    Ok(Example {
        a: sentence(columns.a)?,
        b: columns.b.map(sentence).transpose()?,
        label,
    })
}

/// The label, or what the task expects there.
fn label(field: &str, task: Task) -> std::result::Result<Label, &'static str> {
    match task {
        Task::Stsb => match field.parse::<f32>() {
            // NaN is in no range.
            Ok(score) if (0.0..=5.0).contains(&score) => Ok(Label::Score(score)),
            _ => Err("a score in 0..=5"),
        },
        Task::Qnli | Task::Rte => match field {
            "entailment" => Ok(Label::Class(0)),
            "not_entailment" => Ok(Label::Class(1)),
            _ => Err("the label entailment or not_entailment"),
        },
        Task::Cola | Task::Sst2 | Task::Mrpc | Task::Demo => match field {
            "0" => Ok(Label::Class(0)),
            "1" => Ok(Label::Class(1)),
            _ => Err("the label 0 or 1"),
        },
        Task::Text => Err("a task with labels"),
    }
}

fn row_error(file: &str, line: usize, expected: &str, found: String) -> Error {
    Error::Row {
        file: file.to_string(),
        line,
        expected: expected.to_string(),
        found,
    }
}

/// Characters of a row that an error shows.
const SHOWN: usize = 80;

fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::parse_split;

    fn message(text: &str, task: Task) -> String {
        parse_split(text, "here.tsv", task).unwrap_err().to_string()
    }

    #[test]
    fn mark_crlf_quotes_and_a_missing_newline_are_read() {
        let text = "\u{feff}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n\
                    1\t3\t4\the said \"yes .\t\"\r\n0\t5\t6\tone 'two\tthree";
        let split = parse_split(text, "mrpc", Task::Mrpc).unwrap();
        let example = |a: &str, b: &str, class| Example {
            a: a.into(),
            b: Some(b.into()),
            label: Label::Class(class),
        };
        assert_eq!(
            split.examples,
            [
                example("he said \"yes .", "\"", 1),
                example("one 'two", "three", 0)
            ]
        );
    }

    #[test]
    fn columns_are_found_by_name() {
        let text = "label\tsentence\textra\tquestion\nnot_entailment\tIt is so.\t-\tIs it?\n";
        let split = parse_split(text, "qnli", Task::Qnli).unwrap();
        let expected = Example {
            a: "Is it?".into(),
            b: Some("It is so.".into()),
            label: Label::Class(1),
        };
        assert_eq!(split.examples, [expected]);
        let error = message("sentence1\tsentence\tscore\na\tb\t1", Task::Stsb);
        assert!(
            error.contains("here.tsv") && error.contains("\"sentence2\""),
            "{error}"
        );
    }

    #[test]
    fn the_cola_form_has_no_header() {
        for task in [Task::Cola, Task::Demo] {
            let split = parse_split("gj04\t0\t*\tThey drank the pub.\n", "x", task).unwrap();
            assert_eq!(split.examples[0].a, "They drank the pub.");
            assert_eq!(split.examples[0].label, Label::Class(0));
        }
    }

    #[test]
    fn bad_rows_name_file_and_line() {
        let sst2 = "sentence\tlabel\nfine\t1\n";
        for (rest, expected) in [
            (
                "no label\n",
                "here.tsv, line 3: expected 2 tab-separated fields, found 1: \"no label\"",
            ),
            (
                "a\tb\t1\n",
                "here.tsv, line 3: expected 2 tab-separated fields, found 3: \"a\\tb\\t1\"",
            ),
            (
                "so\t2\n",
                "here.tsv, line 3: expected the label 0 or 1, found \"2\"",
            ),
            (
                "\r\nso\t1",
                "here.tsv, line 3: expected 2 tab-separated fields, found 1: \"\"",
            ),
            (
                " \t1\n",
                "here.tsv, line 3: expected a sentence, found nothing in field 1",
            ),
        ] {
            assert_eq!(message(&format!("{sst2}{rest}"), Task::Sst2), expected);
        }
        let error = message("a\t1\t\tFine.\r\nb\t-1\t\tFine.\r\n", Task::Cola);
        assert!(
            error.contains("line 2") && error.contains("\"-1\""),
            "{error}"
        );
    }

    #[test]
    fn scores_outside_the_range_are_refused() {
        let text = |score: &str| format!("sentence1\tsentence2\tscore\na\tb\t{score}\n");
        let read =
            |score: &str| parse_split(&text(score), "x", Task::Stsb).unwrap().examples[0].label;
        assert_eq!(read("3.8"), Label::Score(3.8));
        assert_eq!(read("5.000"), Label::Score(5.0));
        for score in ["5.01", "-0.1", "nan", "inf", "", "high"] {
            let error = message(&text(score), Task::Stsb);
            assert!(
                error.contains("line 2") && error.contains("0..=5"),
                "{error}"
            );
        }
    }

    #[test]
    fn empty_splits_are_refused() {
        for (text, task) in [
            ("", Task::Cola),
            ("\u{feff}", Task::Cola),
            ("\r\n\n", Task::Demo),
            ("sentence\tlabel\n", Task::Sst2),
        ] {
            assert!(message(text, task).contains("here.tsv: the split is empty"));
        }
    }

    #[test]
    fn bytes_that_are_no_text_name_their_line() {
        let error = utf8(b"a\t1\t\tfine\nb\t1\t\tcaf\xe9\n", "x.tsv")
            .unwrap_err()
            .to_string();
        assert_eq!(error, "x.tsv, line 2: expected UTF-8 text, found byte 0xe9");
    }

    #[test]
    fn long_rows_are_shortened_in_messages() {
        let long = "é".repeat(500);
        let error = message(&long, Task::Cola);
        assert!(
            error.chars().count() < 200 && error.contains('…'),
            "{error}"
        );
    }
}

//! Reads rows of a TSV text as examples.
//!
//! This module splits lines itself. The `csv` crate skips empty lines, even without quoting, but here an empty line is an error with its
//! number. The crate also gives no raw line to show in an error.

use super::{
    example::{Example, Label},
    place, sets,
    task::{Columns, Fields, Kind, Target, Task, Written},
};
use crate::{Error, Result};

/// The sentence of a row, or its pair of sentences.
pub(super) type Sentences = (String, Option<String>);

/// The way in which the rows of a file become examples.
struct Reader<'a> {
    file: &'a str,
    columns: Columns<usize>,
    /// The number of fields of every row.
    count: usize,
    target: &'a Target,
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
pub(super) fn parse(text: &str, file: &str, task: &Task) -> Result<Vec<Example>> {
    let Kind::Labelled { fields, target } = &task.kind else {
        return Err(row_error(file, 1, "a task with labels", task.to_string()));
    };
    let mut lines = numbered(text, file)?;
    let (columns, count) = match fields {
        Fields::Placed { columns, count } => (columns.clone(), *count),
        Fields::Named(names) => {
            let header = lines.next().map_or("", |(_, line)| line);
            find_columns(header, names, file)?
        }
    };
    let reader = Reader {
        file,
        columns,
        count,
        target,
    };
    let examples: Result<Vec<Example>> = lines
        .map(|(number, line)| reader.example(line, number))
        .collect();
    let examples = examples?;
    match examples.is_empty() {
        true => Err(empty(file)),
        false => Ok(examples),
    }
}

/// The texts of every row, whose labels may be missing, as in a test split. An empty sentence is taken.
pub(super) fn parse_sentences(text: &str, file: &str, task: &Task) -> Result<Vec<Sentences>> {
    let Kind::Labelled { fields, .. } = &task.kind else {
        return Err(row_error(file, 1, "a task with labels", task.to_string()));
    };
    let mut lines = numbered(text, file)?.peekable();
    let header = lines.peek().map_or("", |(_, line)| *line);
    let has_test_header = header.split('\t').map(str::trim).eq(TEST_HEADER);
    let (first, second, count) = match fields {
        Fields::Placed { columns, count } if !has_test_header => {
            (columns.first, columns.second, *count)
        }
        Fields::Placed { .. } => (1, None, TEST_HEADER.len()),
        Fields::Named(names) => {
            let second = names.second.as_ref();
            let second = second.map(|name| find_column(header, name, file));
            let first = find_column(header, &names.first, file)?;
            (first, second.transpose()?, header.split('\t').count())
        }
    };
    if has_test_header || matches!(fields, Fields::Named(_)) {
        lines.next();
    }
    lines
        .map(|(number, line)| {
            let fields = split_fields(line, count, file, number)?;
            let sentence = |column: usize| fields[column].trim().to_string();
            Ok((sentence(first), second.map(sentence)))
        })
        .collect()
}

/// The first line of a test split whose task has files without a header.
const TEST_HEADER: [&str; 2] = ["index", "sentence"];

fn empty(file: &str) -> Error {
    Error::EmptySplit {
        file: file.to_string(),
    }
}

/// The lines of a text and their numbers, at least one line.
fn numbered<'a>(text: &'a str, file: &str) -> Result<impl Iterator<Item = (usize, &'a str)>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(empty(file));
    }
    let lines = text.split('\n');
    Ok((1..).zip(lines.map(|line| line.strip_suffix('\r').unwrap_or(line))))
}

/// The fields of a line, as many as expected.
fn split_fields<'a>(
    line: &'a str,
    count: usize,
    file: &str,
    number: usize,
) -> Result<Vec<&'a str>> {
    let fields: Vec<&str> = line.split('\t').collect();
    if fields.len() != count {
        let expected = format!("{count} tab-separated fields");
        let found = format!("{}: {}", fields.len(), shown(line));
        return Err(row_error(file, number, &expected, found));
    }
    Ok(fields)
}

/// The index of the column of this name in a header.
fn find_column(header: &str, column: &str, file: &str) -> Result<usize> {
    let mut fields = header.split('\t').map(str::trim);
    let found = fields.position(|field| field == column);
    found.ok_or_else(|| Error::MissingColumn {
        file: file.to_string(),
        column: column.to_owned(),
        found: shown(header),
    })
}

/// The indices of the columns that a header names, and the number of fields of a row.
fn find_columns(
    header: &str,
    names: &Columns<String>,
    file: &str,
) -> Result<(Columns<usize>, usize)> {
    let find = |column: &String| find_column(header, column, file);
    let second = names.second.as_ref().map(find).transpose()?;
    let columns = Columns {
        first: find(&names.first)?,
        second,
        label: find(&names.label)?,
    };
    Ok((columns, header.split('\t').count()))
}

impl Reader<'_> {
    fn example(&self, line: &str, number: usize) -> Result<Example> {
        let fields = split_fields(line, self.count, self.file, number)?;
        let sentence = |column: usize| match fields[column].trim() {
            "" => {
                let found = format!("nothing in field {}", column + 1);
                Err(row_error(self.file, number, "a sentence", found))
            }
            sentence => Ok(sentence.to_string()),
        };
        let field = fields[self.columns.label];
        let label = self.target.label(field.trim());
        let label = label
            .ok_or_else(|| row_error(self.file, number, &self.target.expected(), shown(field)))?;
        Ok(Example {
            a: sentence(self.columns.first)?,
            b: self.columns.second.map(sentence).transpose()?,
            label,
        })
    }
}

impl Target {
    /// The label for a field's text, if there is one.
    fn label(&self, field: &str) -> Option<Label> {
        match self {
            Self::Classes { names, written } => {
                let is_it = |(id, name): (usize, &String)| match written {
                    Written::Id => field == id.to_string(),
                    Written::Name => field == name,
                };
                names.iter().enumerate().position(is_it).map(Label::Class)
            }
            Self::Sets { names, separator } => sets::parse(field, names, separator.as_deref()),
            Self::Number { lowest, highest } => {
                let number = field.parse::<f32>().ok();
                // NaN is in no range.
                let number = number.filter(|number| (*lowest..=*highest).contains(number));
                number.map(Label::Value)
            }
        }
    }

    /// The texts that a file may use for a label, for messages.
    fn expected(&self) -> String {
        match self {
            Self::Classes { names, written } => {
                let one = |(id, name): (usize, &String)| match written {
                    Written::Id => id.to_string(),
                    Written::Name => name.clone(),
                };
                let all: Vec<_> = names.iter().enumerate().map(one).collect();
                format!("the label {}", all.join(" or "))
            }
            Self::Sets { names, separator } => sets::expected(names, separator.as_deref()),
            Self::Number { lowest, highest } => format!("a score in {lowest}..={highest}"),
        }
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

/// The maximum number of characters of a row in an error.
const SHOWN: usize = 80;

fn shown(text: &str) -> String {
    format!("{:?}", place::shown(text, SHOWN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metrics::Metric, tasks::parse_split};

    fn message(text: &str, task: &Task) -> String {
        parse_split(text, "here.tsv", task).unwrap_err().to_string()
    }

    #[test]
    fn mark_crlf_quotes_and_a_missing_newline_are_read() {
        let text = "\u{feff}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n\
                    1\t3\t4\the said \"yes .\t\"\r\n0\t5\t6\tone 'two\tthree";
        let split = parse_split(text, "mrpc", &Task::mrpc()).unwrap();
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
        let split = parse_split(text, "qnli", &Task::qnli()).unwrap();
        let expected = Example {
            a: "Is it?".into(),
            b: Some("It is so.".into()),
            label: Label::Class(1),
        };
        assert_eq!(split.examples, [expected]);
        let error = message("sentence1\tsentence\tscore\na\tb\t1", &Task::stsb());
        assert!(
            error.contains("here.tsv") && error.contains("\"sentence2\""),
            "{error}"
        );
    }

    #[test]
    fn a_task_that_is_none_of_glues_is_read_by_its_own_columns_and_classes() {
        let columns = |second: Option<&str>| Columns {
            first: "review".into(),
            second: second.map(Into::into),
            label: "stars".into(),
        };
        let task = |second, written| Task {
            name: "reviews".into(),
            kind: Kind::Labelled {
                fields: Fields::Named(columns(second)),
                target: Target::Classes {
                    names: ["bad", "so so", "good"].map(Into::into).into(),
                    written,
                },
            },
            primary_metric: Metric::Accuracy,
            other_metrics: Vec::new(),
        };
        let text = "stars\treview\tanswer\nso so\tIt works.\tThanks!\ngood\tGreat.\tOh.\n";
        let labels = |task: &Task| -> Vec<Label> {
            let split = parse_split(text, "reviews.tsv", task).unwrap();
            let examples = split.examples.into_iter();
            examples.map(|example| example.label).collect()
        };
        let pairs = task(Some("answer"), Written::Name);
        assert_eq!(pairs.outputs(), 3);
        assert_eq!(labels(&pairs), [1, 2].map(Label::Class));
        assert_eq!(labels(&task(None, Written::Name)), [1, 2].map(Label::Class));
        let error = message(text, &task(None, Written::Id));
        assert_eq!(
            error,
            "here.tsv, line 2: expected the label 0 or 1 or 2, found \"so so\""
        );
        let error = message(text, &task(Some("reply"), Written::Name));
        assert!(error.contains("no column \"reply\""), "{error}");
    }

    #[test]
    fn the_cola_form_has_no_header() {
        for task in [Task::cola(), Task::demo()] {
            let split = parse_split("gj04\t0\t*\tThey drank the pub.\n", "x", &task).unwrap();
            assert_eq!(split.examples[0].a, "They drank the pub.");
            assert_eq!(split.examples[0].label, Label::Class(0));
        }
    }

    #[test]
    fn sentences_are_read_without_quotes_and_without_labels() {
        let read = |text: &str, task: &Task| parse_sentences(text, "here.tsv", task);
        let pair = |a: &str, b: &str| (a.to_owned(), Some(b.to_owned()));
        let one = |a: &str| (a.to_owned(), None);
        let dev = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t3\t4\tone\t\" two .\r\n";
        let test = "\u{feff}index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t3\t4\tone\t\" two .";
        for text in [dev, test] {
            assert_eq!(
                read(text, &Task::mrpc()).unwrap(),
                [pair("one", "\" two .")]
            );
        }
        let test = "index\tsentence\n0\t\"Two.\n1\t \n";
        for task in [Task::cola(), Task::sst2()] {
            assert_eq!(read(test, &task).unwrap(), [one("\"Two."), one("")]);
        }
        let dev = "gj04\t0\t*\tThey drank the pub.\n";
        assert_eq!(
            read(dev, &Task::demo()).unwrap(),
            [one("They drank the pub.")]
        );
        assert!(read("index\tsentence\n", &Task::sst2()).unwrap().is_empty());
        for (text, task, expected) in [
            (
                "index\tsentence\n0\n",
                Task::cola(),
                "here.tsv, line 2: expected 2 tab-separated fields, found 1: \"0\"",
            ),
            (
                "sentence,label\na,1\n",
                Task::demo(),
                "here.tsv, line 1: expected 4 tab-separated fields, found 1",
            ),
            (
                "text\na\n",
                Task::sst2(),
                "here.tsv: no column \"sentence\"",
            ),
            ("\n", Task::sst2(), "here.tsv: the split is empty"),
        ] {
            let error = read(text, &task).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
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
            assert_eq!(message(&format!("{sst2}{rest}"), &Task::sst2()), expected);
        }
        let error = message("a\t1\t\tFine.\r\nb\t-1\t\tFine.\r\n", &Task::cola());
        assert!(
            error.contains("line 2") && error.contains("\"-1\""),
            "{error}"
        );
    }

    #[test]
    fn scores_outside_the_range_are_refused() {
        let text = |score: &str| format!("sentence1\tsentence2\tscore\na\tb\t{score}\n");
        let read = |score: &str| {
            parse_split(&text(score), "x", &Task::stsb())
                .unwrap()
                .examples[0]
                .label
                .clone()
        };
        assert_eq!(read("3.8"), Label::Value(3.8));
        assert_eq!(read("5.000"), Label::Value(5.0));
        for score in ["5.01", "-0.1", "nan", "inf", "", "high"] {
            let error = message(&text(score), &Task::stsb());
            assert!(
                error.contains("line 2") && error.contains("0..=5"),
                "{error}"
            );
        }
    }

    #[test]
    fn empty_splits_are_refused() {
        for (text, task) in [
            ("", Task::cola()),
            ("\u{feff}", Task::cola()),
            ("\r\n\n", Task::demo()),
            ("sentence\tlabel\n", Task::sst2()),
        ] {
            assert!(message(text, &task).contains("here.tsv: the split is empty"));
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
        let error = message(&long, &Task::cola());
        assert!(
            error.chars().count() < 200 && error.contains('…'),
            "{error}"
        );
    }
}

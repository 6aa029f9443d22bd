//! Texts that a causal model learns from: prompts and their responses, conversations, and whole documents.

mod blocks;
mod chat;
mod conversation;
mod e2e;
mod form;
mod format;
mod metamath;
mod rows;
mod template;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

pub use chat::{ChatForm, Turns};
pub(crate) use conversation::FIELDS as CONVERSATIONS;
pub use form::Form;
pub use format::{Format, TextFile};
use rayon::prelude::*;
pub use template::TextTemplate;

use crate::{Error, Result};

/// A prompt and its response. Spaces between the two belong to one of them, because the texts are joined unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// The input of the model; may be empty.
    pub prompt: String,
    /// The expected answer; not blank. For a conversation, its text from the assistant's first turn on.
    pub response: String,
    /// The parts of the response that are learned, for a conversation. None for a response that is learned as a whole.
    pub turns: Option<Turns>,
}

/// The form in which a model reads texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Layout {
    /// Each text is an example.
    #[default]
    Examples,
    /// The texts are documents. They are joined, with end tokens between, and cut into blocks of the same length.
    Blocks,
}

/// A prompt to answer, and the responses that are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question<'a> {
    /// The prompt.
    pub prompt: &'a str,
    /// Its responses. For a conversation, the content of the assistant's first turn.
    pub references: Vec<&'a str>,
    /// True if a chat template wrote the prompt, with all its special tokens.
    pub is_rendered: bool,
}

/// The texts of one file, in its order; never empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    /// The texts.
    pub texts: Vec<Text>,
    /// The file they were read from.
    pub source: PathBuf,
    /// Number of rows that were left out because their response is empty.
    pub empty: usize,
    /// Examples, or documents to cut into blocks.
    pub layout: Layout,
}

/// A single document is held out from its last part on: one in so many of its bytes.
const TAIL: usize = 20;

impl Texts {
    /// Holds out every `every`-th prompt, including the first, with all its responses. Returns (the rest, the held-out texts). Documents are
    /// prompts here; a single document is cut, and its last twentieth is held out.
    ///
    /// # Errors
    /// All texts have the same prompt, or there are too few for both parts.
    pub fn hold_out(self, every: usize) -> Result<(Self, Self)> {
        let layout = self.layout;
        if layout == Layout::Blocks && self.texts.len() == 1 {
            return Ok(self.hold_out_tail());
        }
        let mut numbers = HashMap::new();
        let (mut rest, mut taken) = (Vec::new(), Vec::new());
        for (row, text) in self.texts.into_iter().enumerate() {
            // Each text without a prompt counts as a prompt of its own.
            let key = match text.prompt.as_str() {
                "" => format!("{row}"),
                prompt => format!(" {prompt}"),
            };
            let next = numbers.len();
            match *numbers.entry(key).or_insert(next) % every {
                0 => taken.push(text),
                _ => rest.push(text),
            }
        }
        if rest.is_empty() {
            return Err(Error::Setting {
                setting: "held-out texts".into(),
                expected: "some left to train on".into(),
                found: format!("{} prompt(s) in {}", numbers.len(), self.source.display()),
            });
        }
        let with = |texts| Self {
            texts,
            source: self.source.clone(),
            empty: self.empty,
            layout,
        };
        Ok((with(rest), with(taken)))
    }

    /// Cuts the only document in two, before a blank if there is one.
    fn hold_out_tail(mut self) -> (Self, Self) {
        let whole = std::mem::take(&mut self.texts).remove(0).response;
        let near = whole.floor_char_boundary(whole.len() - whole.len() / TAIL);
        let blank = whole[..near].rfind(char::is_whitespace);
        let (rest, tail) = whole.split_at(blank.filter(|at| *at > near / 2).unwrap_or(near));
        let with = |response: &str| Self {
            texts: vec![Text {
                response: response.to_owned(),
                ..Text::default()
            }],
            ..self.clone()
        };
        (with(rest), with(tail))
    }

    /// Keeps at most `most` of the texts, evenly spaced.
    pub fn thinned(mut self, most: usize) -> Self {
        let n = self.texts.len();
        let mut rows = 0..n;
        self.texts
            .retain(|_| is_kept(rows.next().unwrap_or(n), n, most));
        self
    }

    /// Each prompt once, in order of first appearance, with all its responses. This is the form of a test set with several references.
    pub fn by_prompt(&self) -> Vec<(&str, Vec<&str>)> {
        let questions = self.questions().into_iter();
        questions
            .map(|question| (question.prompt, question.references))
            .collect()
    }

    /// The prompts to answer, each once in order of first appearance. Documents have none.
    pub fn questions(&self) -> Vec<Question<'_>> {
        if self.layout == Layout::Blocks {
            return Vec::new();
        }
        let mut places = HashMap::new();
        let mut questions: Vec<Question<'_>> = Vec::new();
        for text in &self.texts {
            let reference = text.turns.as_ref().map(|turns| turns.first.clone());
            let reference = reference.map_or(text.response.as_str(), |at| &text.response[at]);
            let next = questions.len();
            let place = *places.entry(text.prompt.as_str()).or_insert(next);
            match questions.get_mut(place) {
                Some(question) => question.references.push(reference),
                None => questions.push(Question {
                    prompt: &text.prompt,
                    references: vec![reference],
                    is_rendered: text.turns.is_some(),
                }),
            }
        }
        questions
    }
}

/// Returns true if a row is one of at most `most` that are evenly spaced over `count` rows.
pub(crate) fn is_kept(row: usize, count: usize, most: usize) -> bool {
    // A row is kept when the share of rows seen reaches the next whole number.
    count <= most || (row + 1) * most / count > row * most / count
}

/// Reads a file of texts. A `.csv` file has a header. A `.json` file is an array of objects, alone or in the field `data` of an object, or
/// JSON lines. All other files are JSON lines.
///
/// A byte-order mark, CRLF line ends, and empty lines between JSON lines are accepted. CSV fields may be quoted. Rows with an empty
/// response are left out and counted.
///
/// # Errors
/// The file does not exist, is not UTF-8, has no rows, or has no row with a response. A row does not parse, repeats or lacks a field, or
/// has a field that is not text. The error gives the line, or the item of a JSON array.
pub fn read_texts(path: &Path, form: &Form) -> Result<Texts> {
    TextFile::read(path)?.parse(form)
}

/// Reads texts from the contents of a file. `ending` is the file's extension. Errors and the texts show `source` as its name.
///
/// # Errors
/// As [`read_texts`].
pub fn parse_texts(text: &str, ending: &str, source: &str, form: &Form) -> Result<Texts> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let rows = rows::read(text, &ending.to_ascii_lowercase(), source)?;
    let mut texts = Vec::with_capacity(rows.len());
    let mut first_empty = None;
    // A chat template takes some tenths of a millisecond a row. The first error in order of rows is the one to tell.
    let found: Vec<Result<Text>> = rows.par_iter().map(|row| form.text(row)).collect();
    for (row, text) in rows.iter().zip(found) {
        let text = text?;
        if text.response.trim().is_empty() {
            first_empty.get_or_insert(row);
        } else {
            texts.push(text);
        }
    }
    let empty = rows.len() - texts.len();
    match (texts.is_empty(), first_empty) {
        (true, Some(row)) => {
            let (expected, found) = form.nothing();
            return Err(row.error(expected, found));
        }
        (true, None) => {
            let file = source.to_owned();
            return Err(Error::EmptySplit { file });
        }
        (false, Some(row)) => tracing::warn!(
            "{source}: {empty} of {} rows {} left out, the first in {}: expected {}, found {}",
            rows.len(),
            if empty == 1 { "is" } else { "are" },
            row.place,
            form.nothing().0,
            form.nothing().1
        ),
        (false, None) => {}
    }
    Ok(Texts {
        texts,
        source: PathBuf::from(source),
        empty,
        layout: Layout::Examples,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(ending: &str, text: &str) -> Result<Vec<(String, String)>> {
        let form = "fields:q,a".parse()?;
        let texts = parse_texts(text, ending, "data", &form)?.texts;
        Ok(texts.into_iter().map(|t| (t.prompt, t.response)).collect())
    }

    #[test]
    fn the_three_kinds_of_file_give_the_same_texts() {
        let expected = vec![
            ("one \"word\"".to_owned(), " so, it is".to_owned()),
            ("é\nline".to_owned(), "2".to_owned()),
        ];
        let lines = "\u{feff}{\"q\": \"one \\\"word\\\"\", \"a\": \" so, it is\", \"x\": 3}\r\n\n{\"a\":\"2\",\"q\":\"é\\nline\"}";
        assert_eq!(pairs("jsonl", lines).unwrap(), expected);
        let array = "[{\"q\": \"one \\\"word\\\"\", \"a\": \" so, it is\"},\n{\"a\":\"2\",\"q\":\"é\\nline\"}]\n";
        assert_eq!(pairs("JSON", array).unwrap(), expected);
        let csv = "\u{feff}a,x,q\r\n\" so, it is\",,\"one \"\"word\"\"\"\r\n2,3,\"é\nline\"";
        assert_eq!(pairs("csv", csv).unwrap(), expected);
    }

    #[test]
    fn bad_rows_are_named_with_their_place() {
        for (ending, text, expected) in [
            (
                "jsonl",
                "{\"q\":\"a\",\"a\":\"b\"}\n\n{\"q\":\"a\"}",
                "data, line 3: expected a field \"a\", found q",
            ),
            (
                "jsonl",
                "{\"q\":\"a\",\"a\":7}",
                "data, line 1: expected text in field \"a\", found 7",
            ),
            (
                "jsonl",
                "{\"q\":\"a\",\"a\":null}",
                "data, line 1: expected text in field \"a\", found null",
            ),
            (
                "jsonl",
                "{\"q\":\"a\",\"a\":\" \\n\"}",
                "data, line 1: expected a response, found one that is empty",
            ),
            ("jsonl", "[\"q\"]", "data, line 1: expected a JSON object"),
            (
                "jsonl",
                "{\"q\":\"a\",\"a\":\"b\"}\n{\"q\"",
                "data, line 2: expected a JSON object, found EOF",
            ),
            (
                "json",
                "[{\"q\":\"a\",\"a\":\"b\"},{\"a\":\"b\"}]",
                "data, item 2: expected a field \"q\", found a",
            ),
            (
                "json",
                "[{\"q\":\"a\",\n\"a\":\"b\"},\n7]",
                "data, item 2: expected a JSON object, found 7",
            ),
            (
                "json",
                "{\"q\":\"a\",\"a\":\"b\"}",
                "data, line 1: expected an array of JSON objects",
            ),
            (
                "json",
                "[{\"q\":\"a\",\n\"a\"}]",
                "data, line 2: expected an array of JSON objects, found expected `:`",
            ),
            (
                "csv",
                "q,a\nx,y\n\"z\nz\",\"w\n\"\nv",
                "data, line 6: expected 2 fields, found 1",
            ),
            (
                "csv",
                "q,b\nx,y",
                "data, line 2: expected a field \"a\", found b, q",
            ),
            (
                "csv",
                "q,q\nx,y",
                "data, line 1: expected columns of different names, found \"q\" twice",
            ),
            (
                "csv",
                "q,a\n1,\"2\n3,4\n",
                "data, line 2: expected a quote at the end of the quoted field, found the end of the file",
            ),
            (
                "csv",
                "q,a\n1,2\n\"3,4\n\"5\" he said,6\n",
                "data, line 3: expected a quoted field that ends with its closing quote, found text after that quote in line 4",
            ),
            (
                "csv",
                "q,a\r\n1,2\r\n3\r\n",
                "data, line 3: expected 2 fields, found 1",
            ),
        ] {
            let error = pairs(ending, text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}\nnot\n{expected}");
        }
    }

    #[test]
    fn nothing_is_an_error() {
        for (ending, text) in [
            ("jsonl", "\n \n"),
            ("json", "[]"),
            ("csv", "q,a\n"),
            ("csv", ""),
        ] {
            let error = pairs(ending, text).unwrap_err().to_string();
            assert!(error.starts_with("data: the split is empty"), "{error}");
        }
        let absent = read_texts(Path::new("nowhere.csv"), &Form::E2e)
            .unwrap_err()
            .to_string();
        assert!(absent.starts_with("cannot read nowhere.csv"), "{absent}");
    }

    #[test]
    fn rows_without_a_response_are_left_out_and_counted() {
        let form = "fields:q,a".parse().unwrap();
        let text =
            "{\"q\":\"a\",\"a\":\"\"}\n{\"q\":\"b\",\"a\":\"c\"}\n{\"q\":\"d\",\"a\":\" \\n\"}";
        let texts = parse_texts(text, "jsonl", "data", &form).unwrap();
        assert_eq!((texts.texts.len(), texts.empty), (1, 2));
        assert_eq!(texts.texts[0].prompt, "b");
        let error = parse_texts("{\"q\":\"a\",\"a\":\"\"}", "jsonl", "data", &form).unwrap_err();
        assert!(error.to_string().contains("one that is empty"), "{error}");
        let document = "completion".parse().unwrap();
        let error = parse_texts("{\"text\":\"\"}", "jsonl", "data", &document).unwrap_err();
        let expected = "expected a text, found one that is empty";
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn json_lines_and_wrapped_rows_are_read_from_json_files() {
        let expected = vec![
            ("a".to_owned(), "b".to_owned()),
            ("c".to_owned(), "d".to_owned()),
        ];
        let rows = [r#"{"q": "a", "a": "b"}"#, r#"{"q": "c", "a": "d"}"#];
        for text in [
            rows.join("\n"),
            format!("\u{feff}\n{}\r\n\r\n{}\r\n", rows[0], rows[1]),
            format!("{{\"version\": 1,\n \"data\": [{}, {}]}}", rows[0], rows[1]),
            format!(" [{}, {}]", rows[0], rows[1]),
        ] {
            assert_eq!(pairs("json", &text).unwrap(), expected, "{text}");
        }
        for (text, message) in [
            (
                format!("{}\n{{\"q\": 1}}", rows[0]),
                "data, line 2: expected text in field \"q\", found 1",
            ),
            (
                format!("{}\n7", rows[0]),
                "data, line 2: expected a JSON object",
            ),
            (
                r#"{"data": {"q": "a"}}"#.to_owned(),
                "data, line 1: expected an array of JSON objects, alone or in the field \"data\", or JSON lines",
            ),
            (
                r#"{"train": [], "test": []}"#.to_owned(),
                "found an object with test, train",
            ),
            ("7".to_owned(), "expected an array of JSON objects"),
            ("[".to_owned(), "data, line 1: expected an array"),
        ] {
            let error = pairs("json", &text).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn a_field_that_comes_twice_is_refused() {
        let twice = r#"{"q": "a", "a": "b", "q": "c"}"#;
        let array = format!("[{twice}]");
        let wrapped = format!("{{\"data\": [{twice}]}}");
        for (ending, text) in [("jsonl", twice), ("json", &array), ("json", &wrapped)] {
            let error = pairs(ending, text).unwrap_err().to_string();
            assert!(error.contains("twice"), "{error}");
        }
    }

    #[test]
    fn long_values_are_shortened_in_messages() {
        let text = format!("{{\"q\":\"a\",\"a\":[\"{}\"]}}", "é".repeat(500));
        let error = pairs("jsonl", &text).unwrap_err().to_string();
        assert!(
            error.chars().count() < 200 && error.contains('…'),
            "{error}"
        );
    }

    #[test]
    fn prompts_are_grouped_in_order_of_first_appearance() {
        let text = "mr,ref\nname[B],first\nname[A],second\nname[B],third";
        let texts = parse_texts(text, "csv", "data", &Form::E2e).unwrap();
        let groups = texts.by_prompt();
        let expected = [
            ("name : B ||", vec![" first", " third"]),
            ("name : A ||", vec![" second"]),
        ];
        assert_eq!(groups, expected);
    }

    fn numbered(n: usize, prompts: usize) -> Texts {
        let text = |i: usize| Text {
            prompt: match prompts {
                0 => String::new(),
                _ => format!("{}", i % prompts),
            },
            response: format!("{i}"),
            ..Text::default()
        };
        Texts {
            texts: (0..n).map(text).collect(),
            source: "made".into(),
            ..Texts::default()
        }
    }

    fn responses(texts: &Texts) -> Vec<&str> {
        texts.texts.iter().map(|t| t.response.as_str()).collect()
    }

    #[test]
    fn held_out_texts_share_no_prompt_with_the_rest() {
        let (rest, taken) = numbered(10, 4).hold_out(3).unwrap();
        assert_eq!(responses(&taken), ["0", "3", "4", "7", "8"]);
        assert_eq!(responses(&rest), ["1", "2", "5", "6", "9"]);
        let (rest, taken) = numbered(5, 0).hold_out(2).unwrap();
        assert_eq!(
            (responses(&taken), rest.texts.len()),
            (vec!["0", "2", "4"], 2)
        );
        let error = numbered(5, 1).hold_out(2).unwrap_err().to_string();
        assert!(error.contains("1 prompt(s) in made"), "{error}");
    }

    #[test]
    fn thinned_texts_are_evenly_spaced() {
        assert_eq!(responses(&numbered(10, 0).thinned(4)), ["2", "4", "7", "9"]);
        assert_eq!(numbered(10, 0).thinned(10), numbered(10, 0));
        assert_eq!(numbered(10, 0).thinned(99), numbered(10, 0));
        assert_eq!(numbered(32_171, 0).thinned(2_000).texts.len(), 2_000);
    }

    /// (file, form, rows), from shared/data/README.md.
    const PUBLISHED: [(&str, Form, usize); 6] = [
        ("alpaca/alpaca_data_cleaned_5k.json", Form::Alpaca, 5_000),
        ("gsm8k/train.jsonl", Form::Gsm8k, 7_473),
        ("gsm8k/test.jsonl", Form::Gsm8k, 1_319),
        ("e2e/trainset_subset.csv", Form::E2e, 32_171),
        ("e2e/devset.csv", Form::E2e, 4_672),
        ("e2e/testset_w_refs.csv", Form::E2e, 4_693),
    ];

    #[test]
    fn thinned_and_held_out_texts_keep_the_count_of_empty_rows() {
        let texts = Texts {
            empty: 3,
            ..numbered(10, 0)
        };
        assert_eq!(texts.clone().thinned(4).empty, 3);
        assert_eq!(texts.hold_out(2).unwrap().0.empty, 3);
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "a skipped test says why")]
    fn shared_data_has_the_published_rows() {
        let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data"));
        if !dir.is_dir() {
            println!("skipped: no {} in this checkout", dir.display());
            return;
        }
        for (file, form, rows) in PUBLISHED {
            let texts = read_texts(&dir.join(file), &form).unwrap();
            assert_eq!(texts.texts.len(), rows, "{file}");
        }
        let dev = read_texts(&dir.join("e2e/devset.csv"), &Form::E2e).unwrap();
        assert_eq!(dev.by_prompt().len(), 547);
        let alpaca = read_texts(&dir.join(PUBLISHED[0].0), &Form::Alpaca).unwrap();
        let with_input = |t: &&Text| t.prompt.contains("### Input:\n");
        assert_eq!(alpaca.texts.iter().filter(with_input).count(), 1_990);
    }
}

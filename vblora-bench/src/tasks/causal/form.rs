//! Turns a row into a prompt and a response.

use std::{fmt, str::FromStr};

use serde_json::Value;

use super::{ChatForm, Text, TextTemplate, e2e, metamath, rows::Row};
use crate::{Error, Result};

/// The format of a row: its fields, and how they form a prompt and a response.
#[derive(Debug, Clone)]
pub enum Form {
    /// Stanford Alpaca: `instruction`, `input` (may be empty, `null` or absent), `output`. The prompt has Alpaca's text.
    Alpaca,
    /// The E2E challenge: `mr`, a meaning representation, and `ref`. The prompt has the form of LoRA's data for GPT-2: `name : Alimentum |
    /// area : city centre ||`.
    E2e,
    /// GSM8K: `question` and `answer`.
    Gsm8k,
    /// MetaMathQA: `query` and `response`. The prompt is Alpaca's text, and the response follows without a blank.
    Metamath,
    /// GSM8K in MetaMathQA's form, with its last line "The answer is: N".
    Gsm8kMetamath,
    /// A text in one field; no prompt.
    Completion(String),
    /// A prompt and a response in one field each, unchanged.
    Fields {
        /// The prompt's field.
        prompt: String,
        /// The response's field.
        response: String,
    },
    /// A template builds the text from the fields.
    Template(TextTemplate),
    /// A conversation, written with a model's chat template.
    Chat(ChatForm),
}

/// The names of the forms that a name describes.
pub(super) const NAMES: &str = "alpaca, e2e, gsm8k, metamath, gsm8k-metamath, completion (of field text), completion:FIELD, fields:PROMPT,RESPONSE";

/// tatsu-lab/stanford_alpaca, train.py.
const WITH_INPUT: [&str; 3] = [
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\n",
    "\n\n### Input:\n",
    "\n\n### Response:",
];

/// The same without an input.
const WITHOUT_INPUT: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\n";

impl Form {
    /// The content that a row with a blank response lacks, and what it has, for messages.
    pub(super) fn nothing(&self) -> (&'static str, &'static str) {
        match self {
            Self::Alpaca
            | Self::E2e
            | Self::Gsm8k
            | Self::Metamath
            | Self::Gsm8kMetamath
            | Self::Fields { .. }
            | Self::Template(_) => ("a response", "one that is empty"),
            Self::Completion(_) => ("a text", "one that is empty"),
            Self::Chat(_) => ("an answer to learn", "none, or a blank turn"),
        }
    }

    /// Builds the prompt and the response. The response may be blank.
    ///
    /// # Errors
    /// A field is missing or not a text; the template fails on the row.
    pub(super) fn text(&self, row: &Row<'_>) -> Result<Text> {
        let (prompt, response) = match self {
            Self::Alpaca => (alpaca(row)?, row.text("output")?.to_owned()),
            Self::E2e => (e2e::prompt(row)?, after_space(row.text("ref")?)),
            Self::Gsm8k => {
                let question = row.text("question")?;
                let prompt = format!("Question: {question}\nAnswer:");
                (prompt, after_space(row.text("answer")?))
            }
            Self::Metamath => metamath::metamath(row)?,
            Self::Gsm8kMetamath => metamath::gsm8k(row)?,
            Self::Completion(field) => (String::new(), row.text(field)?.to_owned()),
            Self::Fields { prompt, response } => {
                (row.text(prompt)?.to_owned(), row.text(response)?.to_owned())
            }
            Self::Template(template) => template.render(row)?,
            Self::Chat(chat) => return chat.text(row),
        };
        Ok(Text {
            prompt,
            response,
            turns: None,
        })
    }
}

fn alpaca(row: &Row<'_>) -> Result<String> {
    let instruction = row.text("instruction")?;
    let input = match row.values.get("input") {
        None | Some(Value::Null) => "",
        Some(_) => row.text("input")?,
    };
    let [begin, between, end] = WITH_INPUT;
    Ok(match input {
        "" => without_input(instruction),
        input => format!("{begin}{instruction}{between}{input}{end}"),
    })
}

/// Alpaca's prompt for an instruction without an input.
pub(super) fn without_input(instruction: &str) -> String {
    let [_, _, end] = WITH_INPUT;
    format!("{WITHOUT_INPUT}{instruction}{end}")
}

/// The text after a space, because byte-level tokenizers encode a word with the space before it.
fn after_space(text: &str) -> String {
    format!(" {}", text.trim())
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alpaca => f.write_str("alpaca"),
            Self::E2e => f.write_str("e2e"),
            Self::Gsm8k => f.write_str("gsm8k"),
            Self::Metamath => f.write_str("metamath"),
            Self::Gsm8kMetamath => f.write_str("gsm8k-metamath"),
            Self::Completion(field) => write!(f, "completion:{field}"),
            Self::Fields { prompt, response } => write!(f, "fields:{prompt},{response}"),
            Self::Template(_) => f.write_str("a template"),
            Self::Chat(_) => f.write_str("chat"),
        }
    }
}

impl FromStr for Form {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let unknown = || Error::UnknownName {
            what: "format",
            name: name.to_owned(),
            expected: NAMES.to_owned(),
        };
        Ok(match (name, name.split_once(':')) {
            ("alpaca", _) => Self::Alpaca,
            ("e2e", _) => Self::E2e,
            ("gsm8k", _) => Self::Gsm8k,
            ("metamath", _) => Self::Metamath,
            ("gsm8k-metamath", _) => Self::Gsm8kMetamath,
            ("completion", _) => Self::Completion("text".into()),
            (_, Some(("completion", field))) if !field.is_empty() => Self::Completion(field.into()),
            (_, Some(("fields", fields))) => match fields.split_once(',') {
                Some((prompt, response)) if !prompt.is_empty() && !response.is_empty() => {
                    Self::Fields {
                        prompt: prompt.into(),
                        response: response.into(),
                    }
                }
                _ => return Err(unknown()),
            },
            _ => return Err(unknown()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::causal::parse_texts;

    fn text(form: &str, row: &str) -> Text {
        let texts = parse_texts(row, "jsonl", "data", &form.parse().unwrap());
        texts.unwrap().texts.remove(0)
    }

    #[test]
    fn alpaca_has_its_own_words_with_and_without_input() {
        let row = r#"{"instruction": "Add.", "input": "1 and 2", "output": "3"}"#;
        let Text {
            prompt, response, ..
        } = text("alpaca", row);
        let expected = "Below is an instruction that describes a task, paired with an input that provides further context. \
            Write a response that appropriately completes the request.\n\n\
            ### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:";
        assert_eq!((prompt.as_str(), response.as_str()), (expected, "3"));
        let expected = "Below is an instruction that describes a task. \
            Write a response that appropriately completes the request.\n\n\
            ### Instruction:\nAdd.\n\n### Response:";
        for row in [
            r#"{"instruction": "Add.", "input": "", "output": "3"}"#,
            r#"{"instruction": "Add.", "input": null, "output": "3"}"#,
            r#"{"instruction": "Add.", "output": "3"}"#,
        ] {
            assert_eq!(text("alpaca", row).prompt, expected);
        }
    }

    #[test]
    fn questions_and_completions() {
        let row = r#"{"question": "How many?", "answer": "2+1=<<2+1=3>>3\n#### 3", "text": "All of it."}"#;
        let gsm8k = text("gsm8k", row);
        assert_eq!(gsm8k.prompt, "Question: How many?\nAnswer:");
        assert_eq!(gsm8k.response, " 2+1=<<2+1=3>>3\n#### 3");
        let whole = text("completion", row);
        assert_eq!(
            (whole.prompt.as_str(), whole.response.as_str()),
            ("", "All of it.")
        );
        assert_eq!(text("completion:question", row).response, "How many?");
        let fields = text("fields:text,question", row);
        assert_eq!(
            (fields.prompt.as_str(), fields.response.as_str()),
            ("All of it.", "How many?")
        );
    }

    #[test]
    fn unknown_names_list_the_known_ones() {
        for name in ["chat", "completion:", "fields:a", "fields:,b", ""] {
            let error = name.parse::<Form>().unwrap_err().to_string();
            assert!(
                error.starts_with("unknown format") && error.contains("gsm8k"),
                "{error}"
            );
        }
    }
}

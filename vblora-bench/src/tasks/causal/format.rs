//! The kinds of files that a causal model learns from, by the user's name for each or by the file's fields.

use std::{path::Path, str::FromStr};

use vblora::storage::read_input;
use vblora_models::ModelFiles;

use super::{ChatForm, Form, Layout, Text, Texts, conversation, form, parse_texts, rows};
use crate::{Error, Result, limits::MAX_DATA_BYTES};

/// The field of a document, unless another is named.
const TEXT: &str = "text";
/// Files of this kind are one document.
const DOCUMENT: &str = "txt";

/// The format of a file.
#[derive(Debug, Clone)]
pub enum Format {
    /// Conversations, written with the model's chat template. The loss is on the assistant's turns.
    Chat,
    /// Whole documents, cut into blocks: a `.txt` file, or rows with a text in this field. The loss is on everything.
    Text(String),
    /// Prompts and responses.
    Rows(Form),
}

impl Format {
    /// The format of a file by its ending, or by the fields of its first row.
    ///
    /// # Errors
    /// The file cannot be read, or its fields are those of no format.
    pub fn detect(path: &Path) -> Result<Self> {
        let ending = ending(path);
        if ending == DOCUMENT {
            return Ok(Self::Text(TEXT.into()));
        }
        let (file, bytes) = read(path)?;
        let text = utf8(&bytes, &file)?;
        let Some(row) = rows::first(text, &ending, &file)? else {
            return Err(Error::EmptySplit { file });
        };
        let has = |fields: &[&str]| fields.iter().all(|field| row.values.contains_key(*field));
        let fields = |prompt: &str, response: &str| Form::Fields {
            prompt: prompt.into(),
            response: response.into(),
        };
        Ok(match () {
            () if conversation::FIELDS.iter().any(|field| has(&[field])) => Self::Chat,
            () if has(&["instruction", "output"]) => Self::Rows(Form::Alpaca),
            () if has(&["mr", "ref"]) => Self::Rows(Form::E2e),
            () if has(&["question", "answer"]) => Self::Rows(Form::Gsm8k),
            () if has(&["prompt", "completion"]) => Self::Rows(fields("prompt", "completion")),
            () if has(&["prompt", "response"]) => Self::Rows(fields("prompt", "response")),
            () if has(&[TEXT]) => Self::Text(TEXT.into()),
            () => {
                let expected = "fields of a known format, or --format or --template";
                return Err(row.error(expected, row.names()));
            }
        })
    }

    /// The format in words.
    pub fn describe(&self) -> String {
        match self {
            Self::Chat => "chat: conversations, loss on the assistant's turns".into(),
            Self::Text(field) => {
                format!(
                    "text: whole documents (of field {field}) cut into blocks, loss on everything"
                )
            }
            Self::Rows(form) => format!("{form}: prompts and responses, loss on the responses"),
        }
    }

    /// Reads a file. `files` are the model's, for the chat template.
    ///
    /// # Errors
    /// As [`read_texts`](super::read_texts); the model has no chat template for conversations, or one that cannot write them.
    pub fn read(&self, path: &Path, files: &ModelFiles) -> Result<Texts> {
        let form = match self {
            Self::Chat => Form::Chat(ChatForm::from_files(files)?),
            Self::Text(field) => Form::Completion(field.clone()),
            Self::Rows(form) => form.clone(),
        };
        let (file, bytes) = read(path)?;
        let text = utf8(&bytes, &file)?;
        let ending = ending(path);
        let layout = match self {
            Self::Chat | Self::Rows(_) => Layout::Examples,
            Self::Text(_) => Layout::Blocks,
        };
        let texts = match (layout, ending.as_str()) {
            (Layout::Blocks, DOCUMENT) => document(text, path, file)?,
            _ => parse_texts(text, &ending, &file, &form)?,
        };
        Ok(Texts { layout, ..texts })
    }
}

fn read(path: &Path) -> Result<(String, Vec<u8>)> {
    let bytes = read_input(path, MAX_DATA_BYTES).map_err(|e| Error::read(path, e))?;
    Ok((path.display().to_string(), bytes))
}

fn utf8<'a>(bytes: &'a [u8], file: &str) -> Result<&'a str> {
    let text = crate::tasks::rows::utf8(bytes, file)?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn ending(path: &Path) -> String {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.unwrap_or_default().to_ascii_lowercase()
}

/// A whole file as one text.
fn document(text: &str, path: &Path, file: String) -> Result<Texts> {
    if text.trim().is_empty() {
        return Err(Error::EmptySplit { file });
    }
    let text = Text {
        response: text.to_owned(),
        ..Text::default()
    };
    Ok(Texts {
        texts: vec![text],
        source: path.to_owned(),
        ..Texts::default()
    })
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match (name, name.split_once(':')) {
            ("chat", _) => Ok(Self::Chat),
            ("text", _) => Ok(Self::Text(TEXT.into())),
            (_, Some(("text", field))) if !field.is_empty() => Ok(Self::Text(field.into())),
            _ => name
                .parse()
                .map(Self::Rows)
                .map_err(|_| Error::UnknownName {
                    what: "format",
                    name: name.to_owned(),
                    expected: format!(
                        "chat, text (of field text, or a .txt file), text:FIELD, {}",
                        form::NAMES
                    ),
                }),
        }
    }
}

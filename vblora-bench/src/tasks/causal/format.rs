//! The kinds of files that a causal model learns from, by the user's name for each or by the file's fields.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use vblora::storage::read_input;
use vblora_models::ModelFiles;

use super::{ChatForm, Form, Layout, Text, Texts, conversation, form, parse_texts, rows};
use crate::{Error, Result, limits::MAX_DATA_BYTES, tasks::rows::utf8};

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
    /// The file's fields are those of no format.
    pub fn detect(file: &TextFile) -> Result<Self> {
        if file.ending == DOCUMENT {
            return Ok(Self::Text(TEXT.into()));
        }
        let Some(row) = rows::first(file.text()?, &file.ending, &file.name)? else {
            let file = file.name.clone();
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

    /// The name that [`FromStr`] reads. A format of a template has none.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Chat => Some("chat".into()),
            Self::Text(field) => Some(format!("text:{field}")),
            Self::Rows(Form::Template(_) | Form::Chat(_)) => None,
            Self::Rows(form) => Some(form.to_string()),
        }
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

    /// The texts of a file. `files` are the model's, for the chat template.
    ///
    /// # Errors
    /// As [`parse_texts`]; the model has no chat template for conversations, or one that cannot write them.
    pub fn texts(&self, file: &TextFile, files: &ModelFiles) -> Result<Texts> {
        let form = match self {
            Self::Chat => Form::Chat(ChatForm::from_files(files)?),
            Self::Text(field) => Form::Completion(field.clone()),
            Self::Rows(form) => form.clone(),
        };
        let layout = match self {
            Self::Chat | Self::Rows(_) => Layout::Examples,
            Self::Text(_) => Layout::Blocks,
        };
        let texts = match (layout, file.ending.as_str()) {
            (Layout::Blocks, DOCUMENT) => document(file)?,
            _ => file.parse(&form)?,
        };
        Ok(Texts { layout, ..texts })
    }
}

/// The contents of a file of texts. A stream can be read only once.
#[derive(Debug)]
pub struct TextFile {
    /// The path, for messages.
    name: String,
    /// The extension, in lower case.
    ending: String,
    bytes: Vec<u8>,
}

impl TextFile {
    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = read_input(path, MAX_DATA_BYTES).map_err(|e| Error::read(path, e))?;
        let ending = path.extension().and_then(|ending| ending.to_str());
        Ok(Self {
            name: path.display().to_string(),
            ending: ending.unwrap_or_default().to_ascii_lowercase(),
            bytes,
        })
    }

    /// The prompts and responses of its rows.
    ///
    /// # Errors
    /// As [`parse_texts`]; the file is not UTF-8.
    pub(super) fn parse(&self, form: &Form) -> Result<Texts> {
        parse_texts(self.text()?, &self.ending, &self.name, form)
    }

    /// The text without its byte-order mark.
    fn text(&self) -> Result<&str> {
        let text = utf8(&self.bytes, &self.name)?;
        Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
    }
}

/// A whole file as one text.
fn document(file: &TextFile) -> Result<Texts> {
    let text = file.text()?;
    if text.trim().is_empty() {
        let file = file.name.clone();
        return Err(Error::EmptySplit { file });
    }
    let text = Text {
        response: text.to_owned(),
        ..Text::default()
    };
    Ok(Texts {
        texts: vec![text],
        source: PathBuf::from(&file.name),
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

//! Chat templates: messages to the text of a prompt, as the model's authors wrote it down.

mod answers;

use std::ops::Range;

use jiff::civil::DateTime;
use jiff::fmt::strtime;
use minijinja::value::Value;
use minijinja::{Error as TemplateError, ErrorKind};
use serde::Serialize;

use crate::config::{chat_template, special_tokens};
use crate::template::{Problem, Style, Template};
use crate::{Error, ModelFiles, Result};

pub use answers::{Answer, Rendered};

const TEMPLATE: &str = "chat_template.jinja";
/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// The text of the message.
    pub content: String,
}

impl Message {
    /// A message of `role` with the text `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// A model's chat template: Jinja as transformers runs it, with Python's methods, operators and way of printing, `raise_exception`,
/// `strftime_now`, `tojson` and `{% generation %}`. It runs within the limits of [`template`](crate::template).
#[derive(Debug)]
pub struct ChatTemplate {
    template: Template,
    /// Special tokens by the names that templates have for them.
    tokens: Vec<(String, String)>,
    /// The file it came from, for messages.
    file: String,
}

impl ChatTemplate {
    /// The template of a model: `chat_template.jinja`, or else `chat_template` of `tokenizer_config.json`, of several the one named
    /// `default`. None if there is none.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] for one that does not parse, with its line; [`Error::Json`] and [`Error::Config`] for a
    /// `tokenizer_config.json` that is none.
    pub fn from_files(files: &ModelFiles) -> Result<Option<Self>> {
        let (file, text) = if files.contains(TEMPLATE) {
            let file = files.describe(TEMPLATE);
            let text = String::from_utf8(files.read(TEMPLATE)?.into_owned());
            let text = text.map_err(|error| failed(&file, None, error))?;
            (file, text)
        } else {
            match chat_template(files)? {
                Some(found) => found,
                None => return Ok(None),
            }
        };
        Self::new(text, special_tokens(files)?, file).map(Some)
    }

    fn new(text: String, tokens: Vec<(String, String)>, file: String) -> Result<Self> {
        Self::with_clock(&text, tokens, file, || jiff::Zoned::now().datetime())
    }

    fn with_clock(
        text: &str,
        tokens: Vec<(String, String)>,
        file: String,
        now: fn() -> DateTime,
    ) -> Result<Self> {
        let template = Template::with(text, Style::Chat, move |environment| {
            environment.add_function("raise_exception", |message: String| -> Result<(), _> {
                Err(TemplateError::new(ErrorKind::InvalidOperation, message))
            });
            environment.add_function("strftime_now", move |format: String| {
                strftime(&format, now())
            });
        });
        let template = template.map_err(|problem| refused(&file, problem))?;
        Ok(Self {
            template,
            tokens,
            file,
        })
    }

    /// The text of a conversation; with `answer` it ends where the assistant's next turn begins. It has all special tokens that it
    /// should have, so it is to be encoded without ([`TextTokenizer::encode_plain`](crate::TextTokenizer::encode_plain)).
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if the template refuses the messages (roles that do not alternate, for example), fails, or exceeds a limit.
    pub fn apply(&self, messages: &[Message], answer: bool) -> Result<String> {
        let arguments = [(answers::PROMPT.to_owned(), Value::from(answer))];
        self.render(Value::from_serialize(messages), arguments)
    }

    /// The text of messages of any form, with arguments for the template.
    fn render(
        &self,
        messages: Value,
        arguments: impl IntoIterator<Item = (String, Value)>,
    ) -> Result<String> {
        self.render_marked(messages, arguments)
            .map(|(text, _)| text)
    }

    /// The text, and the byte ranges that `{% generation %}` blocks wrote.
    fn render_marked(
        &self,
        messages: Value,
        arguments: impl IntoIterator<Item = (String, Value)>,
    ) -> Result<(String, Vec<Range<usize>>)> {
        // As transformers passes them: nobody gave tools or documents, and that is not the same as undefined.
        let none = ["tools", "documents"].map(|name| (name.to_owned(), Value::from(())));
        let tokens = self.tokens.iter();
        let tokens = tokens.map(|(name, token)| (name.clone(), Value::from(token.as_str())));
        let values = none.into_iter().chain(tokens).chain(arguments);
        let values: Value = values.chain([("messages".to_owned(), messages)]).collect();
        let text = self.template.render_marked(values);
        text.map_err(|problem| refused(&self.file, problem))
    }
}

/// Python's `strftime` of a time without a zone.
fn strftime(format: &str, now: DateTime) -> Result<String, TemplateError> {
    let mut ours = String::new();
    let mut letters = format.chars();
    while let Some(c) = letters.next() {
        match (c, c == '%') {
            (_, true) => match letters.next() {
                // A time without a zone has none to name.
                Some('z' | 'Z') => {}
                Some('f') => ours.push_str("%6f"),
                Some(other) => ours.extend(['%', other]),
                None => ours.push_str("%%"),
            },
            (c, false) => ours.push(c),
        }
    }
    strtime::format(&ours, now)
        .map_err(|error| TemplateError::new(ErrorKind::InvalidOperation, error.to_string()))
}

fn refused(file: &str, problem: Problem) -> Error {
    failed(file, problem.line, problem.text)
}

fn failed(file: &str, line: Option<usize>, problem: impl ToString) -> Error {
    Error::ChatTemplate {
        file: file.to_owned(),
        line,
        problem: problem.to_string(),
    }
}

#[cfg(test)]
mod tests;

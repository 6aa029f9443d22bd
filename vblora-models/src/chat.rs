//! Chat templates: messages to the text of a prompt, as the model's authors wrote it down.

use minijinja::{Environment, Error as TemplateError, ErrorKind, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;

use crate::config::{chat_template, special_tokens};
use crate::{Error, ModelFiles, Result};

const TEMPLATE: &str = "chat_template.jinja";
/// What the one template is called in its environment; a name that ended in `.html` or `.json` would have texts escaped.
const NAME: &str = "chat";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// What somebody says.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// A model's chat template: Jinja, with what Hugging Face's templates use beyond it (Python's string methods, `raise_exception`).
///
/// `strftime_now` is not defined: a prompt that depends on the day does not repeat. Templates that ask for it with `is defined` take a
/// fixed date instead, others are refused when they are applied.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
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
        let mut environment = Environment::new();
        // As transformers sets them.
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<(), _> {
            Err(TemplateError::new(ErrorKind::InvalidOperation, message))
        });
        let parsed = environment.add_template_owned(NAME, text);
        parsed.map_err(|error| refused(&file, &error))?;
        Ok(Self {
            environment,
            tokens,
            file,
        })
    }

    /// The text of a conversation; with `answer` it ends where the assistant's next turn begins. It has all special tokens that it
    /// should have, so it is to be encoded without ([`TextTokenizer::encode_plain`](crate::TextTokenizer::encode_plain)).
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if the template refuses the messages (roles that do not alternate, for example) or fails.
    pub fn apply(&self, messages: &[Message], answer: bool) -> Result<String> {
        let tokens: Value = self.tokens.iter().cloned().collect();
        let values = context! {
            messages => messages,
            add_generation_prompt => answer,
            tools => (),
            documents => (),
            ..tokens
        };
        let template = self.environment.get_template(NAME);
        let text = template.and_then(|template| template.render(values));
        text.map_err(|error| refused(&self.file, &error))
    }
}

fn refused(file: &str, error: &TemplateError) -> Error {
    let problem = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    failed(file, error.line(), problem)
}

fn failed(file: &str, line: Option<usize>, problem: impl ToString) -> Error {
    Error::ChatTemplate {
        file: file.to_owned(),
        line,
        problem: problem.to_string(),
    }
}

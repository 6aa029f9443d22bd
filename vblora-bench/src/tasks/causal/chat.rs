//! Turns a conversation into a text, with the parts of it that the assistant has to write.

use std::{ops::Range, sync::Arc};

use regex::Regex;
use vblora_models::{ChatTemplate, Message, ModelFiles, Rendered, TextTokenizer};

use super::{Text, conversation, rows::Row};
use crate::{Error, Result};

/// A model's chat template, for the rows of a file.
#[derive(Debug, Clone)]
pub struct ChatForm {
    template: Arc<ChatTemplate>,
    /// The special tokens of the tokenizer, if it has any.
    special: Option<Regex>,
}

/// The turns of a response that holds a conversation from the assistant's first turn on. Byte ranges are of the response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turns {
    /// The parts that the assistant has to write.
    pub answers: Vec<vblora_models::Answer>,
    /// The content of the assistant's first turn.
    pub first: Range<usize>,
}

impl ChatForm {
    /// The chat template of a model.
    ///
    /// # Errors
    /// The model has no chat template, or one that does not parse; its tokenizer cannot be used.
    pub fn from_files(files: &ModelFiles) -> Result<Self> {
        let template = ChatTemplate::from_files(files)?.ok_or_else(|| Error::Setting {
            setting: "format".into(),
            expected: "a model with a chat template (chat_template.jinja, or chat_template in tokenizer_config.json) for conversations".into(),
            found: format!("{}, which has none", files.place()),
        })?;
        let special = TextTokenizer::from_files(files)?.special_texts();
        let special: Vec<String> = special.iter().map(|token| regex::escape(token)).collect();
        let pattern = Regex::new(&special.join("|")).map_err(|error| Error::Setting {
            setting: "special tokens".into(),
            expected: format!("few enough to search for, in {}", files.place()),
            found: error.to_string(),
        })?;
        Ok(Self {
            template: Arc::new(template),
            special: (!special.is_empty()).then_some(pattern),
        })
    }

    /// The text of a row. Its response is blank if the row has nothing to learn.
    pub(super) fn text(&self, row: &Row<'_>) -> Result<Text> {
        let Some(messages) = conversation::read(row)? else {
            return Ok(Text::default());
        };
        for (i, message) in messages.iter().enumerate() {
            self.check(row, i, message)?;
        }
        let rendered = self.template.apply_whole(&messages).map_err(|error| {
            row.error(
                "a conversation that the chat template can write",
                error.to_string(),
            )
        })?;
        Ok(split(rendered, &messages))
    }

    /// Refuses special tokens inside a content: the tokenizer would take them for those of the template.
    fn check(&self, row: &Row<'_>, turn: usize, message: &Message) -> Result<()> {
        match self
            .special
            .as_ref()
            .and_then(|special| special.find(&message.content))
        {
            None => Ok(()),
            Some(found) => Err(row.error(
                format!(
                    "no special token of the model inside turn {} ({})",
                    turn + 1,
                    message.role
                ),
                format!(
                    "{:?}, which the tokenizer would take for the template's own",
                    found.as_str()
                ),
            )),
        }
    }
}

/// The prompt is what stands before the first part to learn.
fn split(rendered: Rendered, messages: &[Message]) -> Text {
    let Rendered {
        text,
        mut answers,
        contents,
    } = rendered;
    let seam = answers
        .first()
        .map_or(text.len(), |answer| answer.range.start);
    for answer in &mut answers {
        answer.range = answer.range.start - seam..answer.range.end - seam;
        answer.content_end = answer.content_end.map(|end| end - seam);
    }
    let first = messages
        .iter()
        .zip(contents)
        .find(|(m, _)| m.role == "assistant");
    let first = first.map_or(0..0, |(_, content)| {
        content.start - seam..content.end - seam
    });
    let (prompt, response) = text.split_at(seam);
    Text {
        prompt: prompt.to_owned(),
        response: response.to_owned(),
        turns: Some(Turns { answers, first }),
    }
}

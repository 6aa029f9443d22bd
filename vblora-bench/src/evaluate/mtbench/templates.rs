//! The template in which a model is asked.

use std::path::Path;

use serde_json::{Map, Value};
use vblora_models::{ChatTemplate, Message, ModelFiles, TextTokenizer};

use super::{CONVERSATIONS, Conversation};
use crate::{
    Error, Result,
    results::Results,
    tasks::causal::{Form, Format, Text, TextTemplate, parse_texts},
};

/// The name of the form of training, and of the model's chat template.
const TRAINING: &str = "training";
const CHAT: &str = "chat";

/// The results of a session, beside the folders of its adapters.
const RESULTS: &str = "results.json";

/// How questions and earlier answers become the text of a prompt.
#[derive(Debug)]
pub enum Template {
    /// A template of FastChat.
    FastChat(&'static Conversation),
    /// The form of the texts that the adapter was trained with. A later turn follows in the same form, after the token that ends a response.
    Training {
        /// The form's name.
        name: String,
        /// The form.
        form: Form,
    },
    /// The model's chat template.
    Chat(ChatTemplate),
}

/// A template by its name, before files are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateName {
    /// A template of FastChat.
    FastChat(&'static str),
    /// The form of training.
    Training,
    /// The model's chat template.
    Chat,
}

impl std::str::FromStr for TemplateName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match (Conversation::named(name), name) {
            (Some(known), _) => Ok(Self::FastChat(known.name)),
            (None, TRAINING) => Ok(Self::Training),
            (None, CHAT) => Ok(Self::Chat),
            (None, _) => Err(Error::UnknownName {
                what: "template",
                name: name.into(),
                expected: names(),
            }),
        }
    }
}

/// The error for a form of training in which an instruction is no part of the prompt.
fn without_instruction(found: String) -> Error {
    Error::Setting {
        setting: "template".into(),
        expected: format!("a form with an instruction; choose one of {}", names()),
        found,
    }
}

/// All names, for messages.
fn names() -> String {
    let known = CONVERSATIONS.iter().map(|template| template.name);
    let all: Vec<_> = known.chain([CHAT, TRAINING]).collect();
    all.join(", ")
}

impl Template {
    /// Finds a template for a model. Without a name it is the form of the adapter's training.
    ///
    /// # Errors
    /// No name is given and no record says how the adapter was trained. The form has no place for an instruction. The model has no chat
    /// template.
    pub fn find(
        name: Option<&TemplateName>,
        adapter: Option<&Path>,
        files: &ModelFiles,
    ) -> Result<Self> {
        match name {
            Some(TemplateName::FastChat(name)) => {
                let known = Conversation::named(name);
                Ok(Self::FastChat(known.expect("the name of a template")))
            }
            Some(TemplateName::Chat) => Self::chat(files),
            Some(TemplateName::Training) | None => Self::training(adapter, files),
        }
    }

    fn chat(files: &ModelFiles) -> Result<Self> {
        let found = ChatTemplate::from_files(files)?;
        found.map(Self::Chat).ok_or_else(|| Error::Setting {
            setting: "template".into(),
            expected: format!("one of {}", names()),
            found: format!("{CHAT}, but {} has no chat template", files.place()),
        })
    }

    fn training(adapter: Option<&Path>, files: &ModelFiles) -> Result<Self> {
        let unknown = |found: String| Error::Setting {
            setting: "template".into(),
            expected: format!("one of {}", names()),
            found,
        };
        let Some(adapter) = adapter else {
            return Err(unknown(
                "none, and a model without an adapter has no form of training".into(),
            ));
        };
        let Some((flag, value)) = trained_with(adapter)? else {
            let place = adapter.display();
            return Err(unknown(format!(
                "none, and no {RESULTS} beside {place} says with which --format it was trained"
            )));
        };
        let (form, name) = match flag {
            "--template" => (
                Form::Template(TextTemplate::read(Path::new(&value))?),
                "template",
            ),
            _ => match value.parse()? {
                Format::Chat => return Self::chat(files),
                Format::Text(_) => {
                    return Err(without_instruction(format!(
                        "format {value}, which has none"
                    )));
                }
                Format::Rows(form) => (form, "format"),
            },
        };
        let name = format!("{name} {value}");
        let template = Self::Training { name, form };
        template.check()?;
        Ok(template)
    }

    /// Refuses a form in which an instruction is no part of the prompt.
    fn check(&self) -> Result<()> {
        let probe = "Is this a question?";
        if let Self::Training { name, form } = self {
            let text =
                text(form, name, probe, "x").map_err(|e| without_instruction(e.to_string()))?;
            if !text.prompt.contains(probe) {
                return Err(without_instruction(format!("{name}, which has none")));
            }
        }
        Ok(())
    }

    /// The name, for the record.
    pub fn name(&self) -> String {
        match self {
            Self::FastChat(template) => template.name.into(),
            Self::Training { name, .. } => format!("{TRAINING} ({name})"),
            Self::Chat(_) => CHAT.into(),
        }
    }

    /// The text that ends an answer, beside the model's stop tokens.
    pub fn stop(&self) -> Option<&'static str> {
        match self {
            Self::FastChat(template) => template.stop,
            Self::Training { .. } | Self::Chat(_) => None,
        }
    }

    /// The tokens of the prompt for the last of the user's messages, after the answers to those before.
    ///
    /// # Errors
    /// The tokenizer or the chat template refuses a text.
    pub fn encode(
        &self,
        user: &[String],
        answers: &[String],
        tokenizer: &TextTokenizer,
    ) -> Result<Vec<u32>> {
        let texts = match self {
            Self::Chat(template) => {
                let texts = [template.apply(&messages(user, answers), true)?];
                tokenizer.encode_plain(&texts.each_ref().map(String::as_str))?
            }
            Self::FastChat(template) => {
                tokenizer.encode_prompts(&[&template.prompt(user, answers)])?
            }
            Self::Training { form, name } => {
                let text = in_form(form, name, user, answers, tokenizer)?;
                tokenizer.encode_prompts(&[&text])?
            }
        };
        Ok(texts.into_iter().next().unwrap_or_default())
    }
}

fn messages(user: &[String], answers: &[String]) -> Vec<Message> {
    let turns = user.iter().enumerate().flat_map(|(turn, text)| {
        let answer = answers.get(turn);
        let asked = [Message::new("user", text)].into_iter();
        asked.chain(answer.map(|text| Message::new("assistant", text)))
    });
    turns.collect()
}

/// The conversation in the form of training texts, one after the other, each with the token that ends a response.
fn in_form(
    form: &Form,
    name: &str,
    user: &[String],
    answers: &[String],
    tokenizer: &TextTokenizer,
) -> Result<String> {
    let end = match tokenizer.end() {
        Some(id) => tokenizer.decode_with_special_tokens(&[id])?,
        None => String::new(),
    };
    let mut whole = String::new();
    for (turn, question) in user.iter().enumerate() {
        match answers.get(turn) {
            None => whole += &text(form, name, question, "x")?.prompt,
            // Texts for training are never without a response.
            Some(answer) if answer.trim().is_empty() => {
                whole += &text(form, name, question, "x")?.prompt;
                whole += &end;
            }
            Some(answer) => {
                let Text {
                    prompt, response, ..
                } = text(form, name, question, answer)?;
                whole += &(prompt + &response + &end);
            }
        }
    }
    Ok(whole)
}

/// A question and an answer in the form of a training text. The row has them under all names that known forms have.
fn text(form: &Form, name: &str, question: &str, answer: &str) -> Result<Text> {
    let fields = name
        .strip_prefix("format fields:")
        .and_then(|fields| fields.split_once(','));
    let questions = ["instruction", "question", "query", "prompt"].into_iter();
    let answers = ["output", "answer", "response", "completion"].into_iter();
    let named = questions
        .chain(fields.map(|(prompt, _)| prompt))
        .map(|field| (field, question));
    let named = named.chain(
        answers
            .chain(fields.map(|(_, response)| response))
            .map(|field| (field, answer)),
    );
    let mut row: Map<String, Value> = named
        .map(|(field, text)| (field.to_owned(), text.into()))
        .collect();
    row.insert("input".into(), "".into());
    let row = Value::Object(row).to_string();
    let mut texts = parse_texts(
        &row,
        "jsonl",
        &format!("the form of training ({name})"),
        form,
    )?;
    Ok(texts.texts.remove(0))
}

/// The flag of `vblora train` that chose the form of an adapter's training texts, with its value.
fn trained_with(adapter: &Path) -> Result<Option<(&'static str, String)>> {
    // `.` and `..` have a parent only by their full path.
    let place = adapter
        .canonicalize()
        .map_err(|e| Error::read(adapter, e))?;
    let folder = place.parent().unwrap_or(&place);
    let path = folder.join(RESULTS);
    if !path.is_file() {
        return Ok(None);
    }
    let command = Results::read(&path)?.command;
    let words: Vec<&str> = command.split_whitespace().collect();
    let value = |flag: &str| {
        words.iter().enumerate().find_map(|(at, word)| {
            let rest = word.strip_prefix(flag)?;
            match rest.strip_prefix('=') {
                Some(value) => Some(value.to_owned()),
                None if rest.is_empty() => words.get(at + 1).map(|value| (*value).to_owned()),
                None => None,
            }
        })
    };
    let found = ["--format", "--template"].into_iter();
    Ok(found.filter_map(|flag| Some((flag, value(flag)?))).next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::decoder_files;

    fn tokenizer() -> TextTokenizer {
        TextTokenizer::from_files(&decoder_files()).unwrap()
    }

    /// The template of an adapter that this command trained.
    fn trained_by(command: &str) -> Result<Template> {
        let dir = tempfile::tempdir().unwrap();
        let adapter = dir.path().join("vblora-seed0");
        std::fs::create_dir(&adapter).unwrap();
        Results::new(command, "flex", Vec::new())
            .write(dir.path().join(RESULTS))
            .unwrap();
        Template::find(None, Some(&adapter), &decoder_files())
    }

    #[test]
    fn the_form_of_training_is_that_of_the_record() {
        let template = trained_by("vblora train --data a.json --format alpaca --out runs").unwrap();
        assert_eq!(template.name(), "training (format alpaca)");
        let Template::Training { form, name } = &template else {
            panic!("{template:?}");
        };
        let turns = ["Add 1 {and} 2.", "And 3?"].map(str::to_owned);
        let tokenizer = tokenizer();
        let end = tokenizer
            .decode_with_special_tokens(&[tokenizer.end().unwrap()])
            .unwrap();
        let begin = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n";
        let first = format!("{begin}### Instruction:\nAdd 1 {{and}} 2.\n\n### Response:");
        let second = format!("{begin}### Instruction:\nAnd 3?\n\n### Response:");
        let answers = ["3".to_owned()];
        let prompt = |user: &[String], answers: &[String]| {
            in_form(form, name, user, answers, &tokenizer).unwrap()
        };
        assert_eq!(prompt(&turns[..1], &[]), first);
        assert_eq!(prompt(&turns, &answers), format!("{first}3{end}{second}"));
        assert_eq!(
            prompt(&turns, &[String::new()]),
            format!("{first}{end}{second}")
        );
        let gsm8k = trained_by("vblora train --format=gsm8k").unwrap();
        assert_eq!(gsm8k.name(), "training (format gsm8k)");
        let fields = trained_by("vblora train --format fields:ask,reply").unwrap();
        assert_eq!(fields.name(), "training (format fields:ask,reply)");
    }

    #[test]
    fn without_a_record_or_an_instruction_a_template_is_asked_for() {
        for (command, message) in [
            (
                "vblora train --out runs",
                "says with which --format it was trained",
            ),
            ("vblora train --format e2e", "a form with an instruction"),
            ("vblora train --format completion:output", "which has none"),
            ("vblora train --format chat", "has no chat template"),
            ("vblora train --format text:text", "which has none"),
        ] {
            let error = trained_by(command).unwrap_err().to_string();
            assert!(
                error.contains(message) && error.contains("alpaca, llama-2"),
                "{error}"
            );
        }
        let error = Template::find(None, None, &decoder_files()).unwrap_err();
        assert!(error.to_string().contains("without an adapter"), "{error}");
        let error = "llama".parse::<TemplateName>().unwrap_err().to_string();
        assert!(error.ends_with("one_shot, raw, chat, training"), "{error}");
    }

    #[test]
    fn a_template_of_fastchat_is_encoded_with_its_text() {
        let name = "zero_shot".parse().unwrap();
        let template = Template::find(Some(&name), None, &decoder_files()).unwrap();
        assert_eq!(
            (template.name(), template.stop()),
            ("zero_shot".into(), Some("###"))
        );
        let tokenizer = tokenizer();
        let turns = ["Why?".to_owned()];
        let ids = template.encode(&turns, &[], &tokenizer).unwrap();
        let known = Conversation::named("zero_shot").unwrap();
        let text = known.prompt(&turns, &[]);
        assert_eq!(ids, tokenizer.encode_prompts(&[&text]).unwrap()[0]);
    }
}

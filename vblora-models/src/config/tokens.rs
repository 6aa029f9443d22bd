//! Reads the special tokens and the chat template from the files beside `config.json`.

use serde_json::Value;

use super::{
    FILE,
    fields::Fields,
    side_files::{TOKENIZER, TokenizerSettings},
    wrong,
};
use crate::{ModelFiles, Result, TextTokenizer};

pub(super) const GENERATION: &str = "generation_config.json";
const CHAT_TEMPLATE: &str = "chat_template";
/// The chat template among several.
const DEFAULT: &str = "default";

/// The tokens that end a model's texts, the one that a text for training ends with first: the tokenizer's `eos_token`, then `eos_token_id`
/// of `generation_config.json`. A chat model often ends its turns with one of them and texts with another.
///
/// `config.json` counts if there is no `generation_config.json`, as in transformers, or if no other file names an end. A model tuned for
/// chats often keeps its old end there.
pub(crate) fn ends(
    files: &ModelFiles,
    settings: &TokenizerSettings,
    id: impl Fn(&str) -> Option<u32>,
) -> Result<Vec<End>> {
    let named = settings.token("eos_token");
    let named = named.and_then(|token| id(&token.content));
    let mut ends: Vec<End> = named
        .map(|id| End {
            id,
            source: format!("{}: field \"eos_token\"", files.describe(TOKENIZER)),
        })
        .into_iter()
        .collect();
    let mut add = |name| -> Result<bool> {
        let source = format!("{}: field \"eos_token_id\"", files.describe(name));
        for id in read(files, name, |fields| fields.ids("eos_token_id"))? {
            if !ends.iter().any(|end| end.id == id) {
                let source = source.clone();
                ends.push(End { id, source });
            }
        }
        Ok(ends.is_empty())
    };
    if add(GENERATION)? || !files.contains(GENERATION) {
        add(FILE)?;
    }
    Ok(ends)
}

/// A token that ends texts.
#[derive(Debug, Clone)]
pub(crate) struct End {
    /// Its id.
    pub(crate) id: u32,
    /// The file and field that say so, for messages.
    pub(crate) source: String,
}

/// The tokens that end what a model generates, in rising order: `eos_token_id` of `generation_config.json` and the tokenizer's `eos_token`;
/// that of `config.json` where there is no `generation_config.json`, or where nothing else is said.
///
/// Ids that the model does not have are left out where the tokenizer knows its model ([`TextTokenizer::for_decoder`]).
///
/// # Errors
/// [`Error::Json`](crate::Error::Json) or [`Error::Config`](crate::Error::Config) for a file or field that has another form.
pub fn stop_tokens(files: &ModelFiles, tokenizer: &TextTokenizer) -> Result<Vec<u32>> {
    let settings = TokenizerSettings::from_files(files)?;
    let ends = ends(files, &settings, |token| tokenizer.token_id(token))?;
    let mut ids: Vec<u32> = ends.into_iter().map(|end| end.id).collect();
    ids.retain(|&id| tokenizer.has_embedding(id));
    ids.sort_unstable();
    Ok(ids)
}

/// The special tokens of the tokenizer by their names in transformers and in chat templates (`bos_token`).
pub(crate) fn special_tokens(files: &ModelFiles) -> Result<Vec<(String, String)>> {
    let settings = TokenizerSettings::from_files(files)?;
    let named = settings.named.into_iter();
    Ok(named.map(|(name, token)| (name, token.content)).collect())
}

/// The chat template of `tokenizer_config.json` and the file's name; of several the one named `default`.
pub(crate) fn chat_template(files: &ModelFiles) -> Result<Option<(String, String)>> {
    let text = read(files, TOKENIZER, |fields| {
        match fields.value(CHAT_TEMPLATE) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Array(named)) => default_of(named)
                .map_err(|problem| wrong(fields.file, CHAT_TEMPLATE, problem))
                .map(Some),
            Some(other) => {
                let problem = format!("expected a template or a list of them, found {other}");
                Err(wrong(fields.file, CHAT_TEMPLATE, problem))
            }
        }
    })?;
    Ok(text.map(|text| (files.describe(TOKENIZER), text)))
}

fn default_of(named: &[Value]) -> Result<String, String> {
    let name = |entry: &Value| Some(entry.get("name")?.as_str()?.to_owned());
    let mut entries = named.iter();
    let found = entries.find(|entry| name(entry).as_deref() == Some(DEFAULT));
    let text = found.and_then(|entry| entry.get("template")?.as_str());
    text.map(str::to_owned).ok_or_else(|| {
        let names: Vec<String> = named.iter().filter_map(name).collect();
        format!("expected one named {DEFAULT:?}, found {names:?}")
    })
}

/// Reads a file's fields; one that is absent has none.
pub(super) fn read<T>(
    files: &ModelFiles,
    name: &str,
    get: impl FnOnce(&Fields<'_>) -> Result<T>,
) -> Result<T> {
    let bytes = match files.contains(name) {
        true => files.read(name)?,
        false => b"{}".into(),
    };
    get(&Fields::parse(&bytes, &files.describe(name))?)
}

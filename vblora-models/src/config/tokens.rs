//! What the files beside `config.json` say of special tokens and chats.

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
/// What `config.json` says counts where there is no `generation_config.json`, as in transformers, or where nothing else is said: a model that
/// was tuned for chats often has the old end there.
pub(crate) fn ends(
    files: &ModelFiles,
    settings: &TokenizerSettings,
    id: impl Fn(&str) -> Option<u32>,
) -> Result<Vec<u32>> {
    let named = settings.token("eos_token");
    let named = named.and_then(|token| id(&token.content));
    let ids = |name| read(files, name, |fields| fields.ids("eos_token_id"));
    let mut listed = ids(GENERATION)?;
    if !files.contains(GENERATION) || (listed.is_empty() && named.is_none()) {
        listed = ids(FILE)?;
    }
    let mut ends: Vec<u32> = named.into_iter().collect();
    for id in listed {
        if !ends.contains(&id) {
            ends.push(id);
        }
    }
    Ok(ends)
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
    let mut ends = ends(files, &settings, |token| tokenizer.token_id(token))?;
    ends.retain(|&id| tokenizer.has_embedding(id));
    ends.sort_unstable();
    Ok(ends)
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

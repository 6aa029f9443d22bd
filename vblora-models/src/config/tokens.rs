//! What the files beside `config.json` say of special tokens and chats.

use serde_json::Value;

use super::{FILE, fields::Fields, wrong};
use crate::{ModelFiles, Result, TextTokenizer};

const TOKENIZER: &str = "tokenizer_config.json";
const GENERATION: &str = "generation_config.json";
/// The names that transformers has for special tokens, and chat templates with it.
const SPECIAL: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];
const CHAT_TEMPLATE: &str = "chat_template";
/// The chat template among several.
const DEFAULT: &str = "default";

/// The tokens that end a text: `eos_token_id` of `generation_config.json` and `config.json`, and the token that `tokenizer_config.json`
/// calls `eos_token`. A chat model often ends its turns with one of them and texts with another.
///
/// # Errors
/// [`Error::Json`](crate::Error::Json) or [`Error::Config`](crate::Error::Config) for a file or field that has another form.
pub fn stop_tokens(files: &ModelFiles, tokenizer: &TextTokenizer) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for name in [GENERATION, FILE] {
        ids.extend(read(files, name, |fields| fields.ids("eos_token_id"))?);
    }
    let named = read(files, TOKENIZER, |fields| fields.token("eos_token"))?;
    ids.extend(named.and_then(|token| tokenizer.token_id(&token)));
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// The special tokens of `tokenizer_config.json` by their names there.
pub(crate) fn special_tokens(files: &ModelFiles) -> Result<Vec<(&'static str, String)>> {
    read(files, TOKENIZER, |fields| {
        let tokens = SPECIAL.map(|name| Ok(fields.token(name)?.map(|token| (name, token))));
        tokens.into_iter().filter_map(Result::transpose).collect()
    })
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
fn read<T>(
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

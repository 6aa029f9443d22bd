//! Checks of a tokenizer before its first text.
//!
//! The tokenizers crate believes its files. An id outside its vocabulary goes to the model, and a template's unknown token ends the process.
//! A chain of replacements can make a text of one letter fill the memory.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer;
use tokenizers::models::ModelWrapper;

/// How many times as long a text may become before it is split: a replacement of blanks by SentencePiece's mark makes three bytes of one.
const MAX_GROWTH: usize = 1 << 16;

/// The most letters of a word that is cut into pieces. BERT's files say 100; the crate's time grows with the cube of it.
const MAX_WORD: usize = 1 << 12;

/// A file's entry for a token that it adds.
#[derive(Deserialize)]
struct Added {
    #[serde(default)]
    added_tokens: Option<Vec<Token>>,
}

#[derive(Deserialize)]
struct Token {
    id: u32,
    content: String,
}

/// Checks that tokens which a `tokenizer.json` adds have the ids that it says; the crate counts on from its vocabulary, whatever they are.
pub(super) fn added_tokens(tokenizer: &Tokenizer, file: &[u8]) -> Result<(), String> {
    let added: Added = serde_json::from_slice(file).map_err(|error| error.to_string())?;
    for Token { id, content } in added.added_tokens.into_iter().flatten() {
        match tokenizer.token_to_id(&content) {
            Some(found) if found != id => {
                return Err(format!(
                    "added token {content:?}: expected id {id} as the file says, found {found}, which the vocabulary gives it"
                ));
            }
            // Without a text there is no token.
            _ => {}
        }
    }
    Ok(())
}

/// Checks the ids that the post-processor adds, the parts of its templates, how much the text can grow, and how long a word may be.
pub(super) fn parts(tokenizer: &Tokenizer) -> Result<(), String> {
    if let ModelWrapper::WordPiece(model) = tokenizer.get_model()
        && model.max_input_chars_per_word > MAX_WORD
    {
        return Err(format!(
            "max_input_chars_per_word: expected at most {MAX_WORD}, found {}",
            model.max_input_chars_per_word
        ));
    }
    let json = |part: Result<Value, serde_json::Error>| part.map_err(|error| error.to_string());
    if let Some(processor) = tokenizer.get_post_processor() {
        post_processor(tokenizer, &json(serde_json::to_value(processor))?)?;
    }
    if let Some(normalizer) = tokenizer.get_normalizer() {
        growth("normalizer", &json(serde_json::to_value(normalizer))?)?;
    }
    if let Some(decoder) = tokenizer.get_decoder() {
        growth("decoder", &json(serde_json::to_value(decoder))?)?;
    }
    Ok(())
}

fn post_processor(tokenizer: &Tokenizer, processor: &Value) -> Result<(), String> {
    for inner in processor["processors"].as_array().into_iter().flatten() {
        post_processor(tokenizer, inner)?;
    }
    for field in ["cls", "sep"] {
        // A token and its id.
        if let Some([token, id]) = processor[field].as_array().map(Vec::as_slice) {
            known(tokenizer, field, token, id)?;
        }
    }
    let special = processor["special_tokens"].as_object();
    for (name, token) in special.into_iter().flatten() {
        let (ids, tokens) = (token["ids"].as_array(), token["tokens"].as_array());
        let (ids, tokens) = (
            ids.map_or(&[][..], Vec::as_slice),
            tokens.map_or(&[][..], Vec::as_slice),
        );
        if ids.len() != tokens.len() {
            return Err(format!(
                "post_processor: special token {name:?}: expected one id a token, found {} and {}",
                ids.len(),
                tokens.len()
            ));
        }
        for (token, id) in tokens.iter().zip(ids) {
            known(tokenizer, name, token, id)?;
        }
    }
    for template in ["single", "pair"] {
        for piece in processor[template].as_array().into_iter().flatten() {
            let name = piece["SpecialToken"]["id"].as_str();
            if let Some(name) = name.filter(|name| !special.is_some_and(|s| s.contains_key(*name)))
            {
                return Err(format!(
                    "post_processor: the template {template:?} has the special token {name:?}, which special_tokens has not"
                ));
            }
            if template == "single" && piece["Sequence"]["id"] == "B" {
                return Err("post_processor: the template \"single\" has a second text".to_owned());
            }
        }
    }
    Ok(())
}

/// A token that the post-processor adds must be one of the vocabulary's.
fn known(tokenizer: &Tokenizer, name: &str, token: &Value, id: &Value) -> Result<(), String> {
    let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
    match number.and_then(|id| tokenizer.id_to_token(id)) {
        None => Err(format!(
            "post_processor: {name:?} adds token {token} with id {id}, which the vocabulary has not"
        )),
        Some(found) if token.as_str() != Some(&found) => {
            crate::notice::once(format!(
                "post_processor: {name:?} adds id {id} as {token}; in the vocabulary it is {found:?}"
            ));
            Ok(())
        }
        Some(_) => Ok(()),
    }
}

fn growth(part: &str, json: &Value) -> Result<(), String> {
    match factor(json) {
        ..=MAX_GROWTH => Ok(()),
        _ => Err(format!(
            "{part}: its replacements can make a text over {MAX_GROWTH} times as long"
        )),
    }
}

/// At most how many times as long a text becomes.
fn factor(part: &Value) -> usize {
    let inner = ["normalizers", "decoders"].map(|name| part[name].as_array());
    let inner = inner.into_iter().flatten().flatten().map(factor);
    let inner = inner.fold(1, usize::saturating_mul);
    if part["type"] != "Replace" {
        return inner;
    }
    let content = part["content"].as_str().map_or(0, str::len);
    // An empty pattern, or a regex that matches nothing, comes between all letters.
    let growth = match part["pattern"]["String"].as_str().map(str::len) {
        Some(1..) if content <= part["pattern"]["String"].as_str().map_or(0, str::len) => 1,
        Some(length @ 1..) => content.div_ceil(length),
        _ => content.saturating_add(1),
    };
    inner.saturating_mul(growth)
}

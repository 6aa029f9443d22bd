//! The fields of the base's `config.json` that a merge needs.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{
    Error, Result,
    storage::{files::MAX_CONFIG_BYTES, strict_json, write_atomically},
};

pub(super) const CONFIG: &str = "config.json";

/// Models whose maps are transformers' `Conv1D`, which stores `[d_in, d_out]` where torch's `Linear` stores `[d_out, d_in]`.
const CONV1D_MODELS: &[&str] = &[
    "clvp",
    "clvp_decoder",
    "decision_transformer",
    "gpt2",
    "imagegpt",
    "openai-gpt",
];

/// Their maps of that kind, by the last part of the name.
const CONV1D_MAPS: &[&str] = &["c_attn", "c_fc", "c_proj", "q_attn"];

/// Models whose head is not tied to the token embedding unless the file says so.
const UNTIED_MODELS: &[&str] = &["llama", "mistral"];

/// A base's configuration; empty if there is none.
pub(super) struct Model {
    path: PathBuf,
    fields: Map<String, Value>,
}

/// The changes of a merge to the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Edits {
    /// The head is no longer tied to the token embedding.
    pub(super) unties: bool,
    /// The rows of the token embedding.
    pub(super) vocab_size: Option<usize>,
}

impl Model {
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let fields = match path.exists() {
            false => Map::new(),
            true => strict_json::read(&path, MAX_CONFIG_BYTES)?,
        };
        Ok(Self { path, fields })
    }

    /// The kind of model; `None` if the configuration does not say.
    pub(super) fn kind(&self) -> Option<&str> {
        self.fields.get("model_type")?.as_str()
    }

    /// True if a module's weight is stored `[d_in, d_out]`. The model decides; `said`, the adapter's flag, counts only if the model is
    /// unknown.
    pub(super) fn is_transposed(&self, module: &str, said: bool) -> bool {
        let last = module.rsplit('.').next().unwrap_or(module);
        match self.kind() {
            None => said,
            Some(kind) => CONV1D_MODELS.contains(&kind) && CONV1D_MAPS.contains(&last),
        }
    }

    /// True if the head is said to be tied to the token embedding.
    pub(super) fn is_tied(&self) -> bool {
        let said = self.find("tie_word_embeddings").and_then(Value::as_bool);
        said.unwrap_or_else(|| {
            !self
                .kind()
                .is_some_and(|kind| UNTIED_MODELS.contains(&kind))
        })
    }

    /// The name of the token embedding, for a file that stores it under the head's name alone.
    pub(super) fn words(&self) -> &'static str {
        match self.kind() {
            Some("gpt2") => "transformer.wte.weight",
            _ => "model.embed_tokens.weight",
        }
    }

    /// A field of the model, or of the language model in it.
    fn find(&self, field: &str) -> Option<&Value> {
        let inner = || self.fields.get("text_config")?.get(field);
        self.fields.get(field).or_else(inner)
    }

    /// Writes the configuration with these edits into a directory.
    pub(super) fn write(&self, edits: Edits, dir: &Path) -> Result<()> {
        let mut fields = self.fields.clone();
        if edits.unties {
            fields.insert("tie_word_embeddings".into(), false.into());
        }
        let is_inner = !fields.contains_key("vocab_size");
        if let Some(Value::Object(inner)) = fields.get_mut("text_config") {
            if edits.unties && inner.contains_key("tie_word_embeddings") {
                inner.insert("tie_word_embeddings".into(), false.into());
            }
            if let Some(size) = edits.vocab_size.filter(|_| is_inner) {
                inner.insert("vocab_size".into(), size.into());
            }
        } else if let Some(size) = edits.vocab_size.filter(|_| is_inner) {
            return Err(self.error(format!(
                "no vocab_size, which the adapter changes to {size}"
            )));
        }
        if let Some(size) = edits.vocab_size.filter(|_| !is_inner) {
            fields.insert("vocab_size".into(), size.into());
        }
        let text = serde_json::to_string_pretty(&fields).map_err(|e| self.error(e.to_string()))?;
        write_atomically(&dir.join(CONFIG), (text + "\n").as_bytes())
    }

    fn error(&self, reason: String) -> Error {
        Error::Format {
            path: self.path.clone(),
            reason,
        }
    }
}

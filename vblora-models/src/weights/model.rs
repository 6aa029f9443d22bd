//! A model that was trained, as a directory that this project and transformers load.

use std::path::Path;

use serde_json::{Map, Value};
use vblora::storage::write_atomically;

use super::{HostTensor, SaveDtype, save::save_tensors};
use crate::{Error, ModelFiles, Result};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// Files beside a model's weights and configuration that say how text becomes tokens, and tokens text.
pub const SIDE_FILES: [&str; 13] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spm.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// Writes further trained weights of `base`, in f32, with everything else that a model's directory has. The base's configuration gets
/// `settings` in place of its own; the base's tokenizer and side files are copied.
///
/// Each file appears whole or not at all, the weights last.
///
/// # Errors
/// A file of the base cannot be read; a file cannot be written; a weight is not finite.
pub fn save_model(
    dir: &Path,
    base: &ModelFiles,
    settings: Map<String, Value>,
    tensors: &[(String, HostTensor)],
) -> Result<()> {
    for name in SIDE_FILES {
        if base.contains(name) {
            write_atomically(&dir.join(name), &base.read(name)?)?;
        }
    }
    save_config(dir, base, settings)?;
    save_tensors(&dir.join(WEIGHTS), tensors, SaveDtype::F32)
}

/// Writes the configuration of `base` to the directory, with `settings` in place of its own.
///
/// # Errors
/// The base's configuration cannot be read; the file cannot be written.
pub fn save_config(dir: &Path, base: &ModelFiles, settings: Map<String, Value>) -> Result<()> {
    let config = config_with(base, settings)?;
    Ok(write_atomically(&dir.join(CONFIG), config.as_bytes())?)
}

/// The text of a `config.json`: that of `base`, in f32, with `settings` in place of its own.
///
/// # Errors
/// The base's configuration cannot be read.
pub fn config_with(base: &ModelFiles, settings: Map<String, Value>) -> Result<String> {
    Ok(format!("{:#}\n", Value::Object(config(base, settings)?)))
}

fn config(base: &ModelFiles, settings: Map<String, Value>) -> Result<Map<String, Value>> {
    let config = serde_json::from_slice::<Map<String, Value>>(&base.read(CONFIG)?);
    let mut config = config.map_err(|error| Error::Json {
        file: base.describe(CONFIG),
        problem: error.to_string(),
    })?;
    // The number of labels is that of their names.
    config.remove("num_labels");
    // Older files have the type under another name, which transformers still reads.
    for name in ["dtype", "torch_dtype"] {
        if name == "dtype" || config.contains_key(name) {
            config.insert(name.into(), "float32".into());
        }
    }
    config.extend(settings);
    Ok(config)
}

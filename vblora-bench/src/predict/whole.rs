//! The model that a base becomes when a classifier is merged into it.

use std::path::Path;

use vblora::storage::{MAX_CONFIG_BYTES, Whole, peft::PeftAdapter, read_input};
use vblora_models::{BaseDtype, EncoderConfig, ModelFiles, config_with};

use crate::{
    Error, Result,
    train::{HEAD_SETTINGS, HeadSettings, class_settings},
};

const CONFIG: &str = "config.json";

/// The class in transformers of a base with the head that an adapter saved, and what a merge writes of it. `dir` is the adapter's. `None`
/// if the base is no encoder, or the adapter has no head of its class.
///
/// # Errors
/// A configuration cannot be read.
pub fn whole(
    dir: &Path,
    adapter: &PeftAdapter,
    base: &ModelFiles,
) -> Result<Option<(&'static str, Whole)>> {
    let is_encoder = !adapter.saved.is_empty() && base.contains(CONFIG);
    let Some(config) = is_encoder
        .then(|| EncoderConfig::from_files(base).ok())
        .flatten()
    else {
        return Ok(None);
    };
    let names = config.classifier();
    let bias = format!("{}bias", names.output);
    let mut sites = adapter.adapter.plan().sites().iter();
    let is_below =
        sites.all(|site| format!("{}{}", adapter.prefix, site.name).starts_with(names.prefix));
    let output = adapter.saved.iter().find(|(name, _)| *name == bias);
    let Some((_, output)) = output.filter(|_| is_below) else {
        return Ok(None);
    };
    let outputs = output.values.len();
    let mut files = Vec::new();
    if dir.join(HEAD_SETTINGS).is_file() {
        let mut settings = HeadSettings::read(dir, outputs)?;
        // The merged weights are no longer those of 4 bits.
        if matches!(settings.base_dtype, BaseDtype::Nf4(_)) {
            settings.base_dtype = BaseDtype::F32;
        }
        files.push((HEAD_SETTINGS.to_owned(), settings.to_json()));
    }
    let own = dir.join(CONFIG);
    let text = match !files.is_empty() && own.is_file() {
        true => read_input(&own, MAX_CONFIG_BYTES).map_err(|e| Error::read(&own, e))?,
        false => {
            let labels: Vec<_> = (0..outputs).map(|id| format!("LABEL_{id}")).collect();
            config_with(base, class_settings(names.class, &labels))?.into_bytes()
        }
    };
    files.push((CONFIG.to_owned(), text));
    let prefix = names.prefix.to_owned();
    Ok(Some((names.class, Whole { prefix, files })))
}

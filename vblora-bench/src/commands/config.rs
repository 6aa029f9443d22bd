//! A model's `config.json` alone. It is enough to list the linear maps, and no weights are downloaded.

use std::path::Path;

use anyhow::{Context, Result, bail};
use vblora::{
    Site, Targets,
    storage::{MAX_CONFIG_BYTES, read_file},
};
use vblora_models::{
    DecoderConfig, EncoderConfig, Error, ModelFiles, decoder, encoder, resolve_config,
};

use super::models;

const FILE: &str = "config.json";

/// The configuration of a model of either kind.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelConfig {
    /// An encoder.
    Encoder(EncoderConfig),
    /// A causal model.
    Decoder(Box<DecoderConfig>),
}

impl ModelConfig {
    /// Reads the `config.json` of a path, a directory, a bundled model, or a hub id at a revision.
    ///
    /// # Errors
    /// There is no such file, directory or model; this library does not support the model.
    pub fn find(model: &Path, revision: Option<&str>) -> Result<Self> {
        if let Some(name) = model.to_str().filter(|name| models::is_bundled(name)) {
            return Self::of(&models::find(name, revision)?);
        }
        if model.is_file() {
            let bytes = read_file(model, MAX_CONFIG_BYTES)
                .with_context(|| format!("cannot read {}", model.display()))?;
            return Self::parse(&bytes, &model.display().to_string());
        }
        if model.is_dir() {
            return Self::of(&ModelFiles::open(model)?);
        }
        let name = model
            .to_str()
            .with_context(|| format!("no such directory: {}", model.display()))?;
        Self::of(&resolve_config(name, revision)?)
    }

    /// Reads the `config.json` of a model's files.
    ///
    /// # Errors
    /// The file is missing, or this library does not support the model.
    pub fn of(files: &ModelFiles) -> Result<Self> {
        match EncoderConfig::from_files(files) {
            Ok(config) => Ok(Self::Encoder(config)),
            Err(Error::OtherArchitecture { .. }) => {
                Self::parse(&files.read(FILE)?, &files.describe(FILE))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn parse(bytes: &[u8], file: &str) -> Result<Self> {
        let encoders = match EncoderConfig::from_json(bytes, file) {
            Ok(config) => return Ok(Self::Encoder(config)),
            Err(Error::OtherArchitecture { supported, .. }) => supported,
            Err(error) => return Err(error.into()),
        };
        match DecoderConfig::from_json(bytes, file) {
            Ok(config) => Ok(Self::Decoder(Box::new(config))),
            Err(Error::OtherArchitecture {
                found,
                supported: decoders,
                ..
            }) => {
                let known = [encoders, decoders].map(plain_list).join(", ");
                bail!("{file}: model_type {found:?} is not supported; supported are {known}")
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The `model_type`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Encoder(config) => config.family.name(),
            Self::Decoder(config) => config.family.name(),
        }
    }

    /// The same configuration, with the fused map of query, key and value as three sites. Only GPT-2 has such a map.
    #[must_use]
    pub fn with_split_qkv(self, split_qkv: bool) -> Self {
        match self {
            Self::Decoder(mut config) => {
                config.split_qkv = split_qkv;
                Self::Decoder(config)
            }
            encoder @ Self::Encoder(_) => encoder,
        }
    }

    /// Says which map is a site in some checkpoints only, if the model has such a map and this one has it not.
    pub fn note(&self) -> Option<String> {
        match self {
            Self::Encoder(config) => config.optional_site().map(|site| {
                format!("{site} is trained with the head; in a checkpoint that holds it, it is one more linear map")
            }),
            Self::Decoder(_) => None,
        }
    }

    /// Every linear map except the head, in the model's order.
    pub fn sites(&self) -> Vec<Site> {
        match self {
            Self::Encoder(config) => encoder::sites(config),
            Self::Decoder(config) => decoder::sites(config),
        }
    }

    /// Parses a target rule: `qv` (query and value), `all`, comma-separated suffixes, or `regex:PATTERN`.
    ///
    /// # Errors
    /// The text is not a valid rule.
    pub fn targets(&self, text: &str) -> Result<Targets> {
        Ok(match self {
            Self::Encoder(_) => encoder::targets(text)?,
            Self::Decoder(_) => decoder::targets(text)?,
        })
    }
}

/// Turns `"a", "b" and "c"` into `a, b, c`.
fn plain_list(names: String) -> String {
    names.replace(" and ", ", ").replace('"', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo;

    #[test]
    fn both_kinds_have_a_name_sites_and_the_papers_targets() {
        for (files, name, all, qv) in [
            (demo::model_files(), "roberta", 6, 2),
            (demo::decoder_files(), "llama", 7, 2),
        ] {
            let config = ModelConfig::of(&files).unwrap();
            assert_eq!(config.name(), name);
            let sites = config.sites();
            let layers = 1 + sites.last().unwrap().layer().unwrap();
            let count = |text: &str| {
                let plan = config.targets(text).unwrap().select(&sites).unwrap();
                plan.sites().len() / layers
            };
            assert_eq!(
                (count("all"), count("all-linear"), count("qv")),
                (all, all, qv)
            );
            assert_eq!(config.clone().with_split_qkv(true).sites(), sites);
        }
    }

    #[test]
    fn what_describes_no_known_model_is_named() {
        let error = |text: &str| ModelConfig::parse(text.as_bytes(), "x.json").unwrap_err();
        let other = error(r#"{"model_type": "t5"}"#).to_string();
        for part in ["x.json", "\"t5\"", "roberta, bert, ", "gpt2, llama"] {
            assert!(other.contains(part), "{other}");
        }
        let lacking = error(r#"{"model_type": "gpt2", "vocab_size": 9, "n_embd": 8}"#).to_string();
        assert!(lacking.contains("\"n_head\""), "{lacking}");
    }
}

//! An adapter from the disk, and the model that it makes of a base.

use std::path::Path;

use vblora::{
    Site, StoredVbLora,
    storage::{HostAdapter, peft::PeftDirectory},
};

use super::{HEAD, HEAD_SITE, sites};
use crate::{DecoderConfig, Error, Result, SavedTensors};

/// An adapter, checked against a model, and the model's configuration with it.
#[derive(Debug)]
pub struct AdaptedConfig {
    /// The base's, with as many tokens as the adapter's tables have, and with the maps that the adapter is on.
    pub config: DecoderConfig,
    /// The update.
    pub adapter: HostAdapter,
    /// Tensors that replace those of the base.
    pub saved: SavedTensors,
}

impl AdaptedConfig {
    /// Opens a PEFT directory or a compact file for a model. It may be on the head as well, and may have saved any of the model's
    /// tensors. One on query, key and value apart, where the file has one map for them, makes the model have
    /// them apart.
    ///
    /// # Errors
    /// The adapter cannot be read or does not fit the model; its tables have different numbers of tokens.
    pub fn open(path: &Path, mut config: DecoderConfig) -> Result<Self> {
        if !path.is_dir() {
            let found = StoredVbLora::load(path)?;
            let on = found.settings().plan().sites();
            config.split_qkv = has_split(&config, on);
            let known = with_head(&config, on);
            let adapter = HostAdapter::TopK(found.bind(&known)?);
            return Ok(Self {
                config,
                adapter,
                saved: SavedTensors::default(),
            });
        }
        let place = path.display().to_string();
        let found = PeftDirectory::open(path)?;
        let known = with_head(&config, found.sites());
        let mut bound = found.bind(&known)?;
        let saved = SavedTensors::take(&mut bound, &*place)?;
        let layout = config.layout;
        let embedding = format!("{}{}", layout.prefix, layout.embedding_weight());
        let mut sizes = Vec::new();
        for name in [&*embedding, HEAD] {
            sizes.extend(saved.shape(name).map(|shape| (name, shape[0])));
        }
        let on = bound.adapter.plan().sites().iter();
        let on_head = on.filter(|site| site.name == HEAD_SITE);
        sizes.extend(on_head.map(|site| (HEAD_SITE, site.d_out)));
        if let Some(&(first, size)) = sizes.first() {
            if let Some((other, found)) = sizes.iter().find(|(_, found)| *found != size) {
                return Err(Error::Config {
                    file: place,
                    field: "vocab_size".into(),
                    problem: format!("{first} is for {size} tokens, {other} for {found}"),
                });
            }
            if size != config.vocab_size {
                tracing::info!(
                    "{place}: the adapter's vocabulary has {size} tokens, the base's {}",
                    config.vocab_size
                );
                config.vocab_size = size;
                config.check(&place)?;
            }
        }
        Ok(Self {
            config,
            adapter: bound.adapter,
            saved,
        })
    }
}

/// Returns true if the adapter is on query, key and value apart, which one map of the file holds together.
fn has_split(config: &DecoderConfig, on: &[Site]) -> bool {
    let Some(fused) = config.layout.fused_qkv() else {
        return false;
    };
    let part = format!(".{fused}.");
    on.iter().any(|site| site.name.contains(&part))
}

/// The model's maps, and its head if the adapter is on it.
fn with_head(config: &DecoderConfig, on: &[Site]) -> Vec<Site> {
    let is_head = |site: &&Site| site.name == HEAD_SITE || site.name.ends_with(".lm_head");
    let head = on.iter().find(is_head);
    let head = head.map(|site| Site::new(HEAD_SITE, config.hidden_size, site.d_out));
    sites(config).into_iter().chain(head).collect()
}

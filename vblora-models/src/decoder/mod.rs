//! Causal language models as frozen functions with adapter sites: GPT-2, and Llama, Mistral and Gemma from one block.

mod adapted;
mod batch;
mod cached;
mod export;
mod footprint;
mod gated;
mod gpt2;
mod input;
mod kv_cache;
mod layer;
mod recompute;
mod sites;

use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};
use vblora::{
    BaseWeights, Factors, FrozenLinear, Noise, Site,
    backend::{CausalSettings, VbLoraBackend},
    noise::dropout,
    ops,
};

pub use adapted::AdaptedConfig;
pub use batch::{CausalBatch, Side};
pub use cached::CachedLm;
pub use footprint::Footprint;
pub use gated::GatedLayer;
pub use gpt2::Gpt2Layer;
pub use input::CausalInput;
pub use layer::{DecoderLayer, FinalNorm};
pub use sites::{sites, targets};

use self::{
    input::Places,
    kv_cache::{KvCache, LayerCache},
};
use crate::{
    Checkpoint, DecoderConfig, DecoderFamily, LoadReport, Loader, ModelFiles, Result, SavedTensors,
    parts::{Builder, TokenEmbedding, rows},
    source::{RandomWeights, WeightSource},
    upload::{host_tensor, sync},
};

/// A causal language model. No parameter requires a gradient; what is trained comes in as [`Factors`].
#[derive(Module, Debug)]
pub struct CausalLm<B: Backend> {
    /// `[vocabulary, d]`
    pub embedding: TokenEmbedding<B>,
    /// `[positions, d]`, GPT-2's.
    pub positions: Option<Param<Tensor<B, 2>>>,
    /// The blocks.
    pub layers: Vec<DecoderLayer<B>>,
    /// The normalisation behind them.
    pub norm: FinalNorm<B>,
    /// The head, `[vocabulary, d]`; the token embedding where there is none.
    pub head: Option<TokenEmbedding<B>>,
    #[module(skip)]
    config: DecoderConfig,
}

impl<B: VbLoraBackend> CausalLm<B> {
    /// Loads `config.json` and the safetensors weights of a Hugging Face directory.
    ///
    /// # Errors
    /// A file that is missing, broken or of another architecture; tensors that are missing, unexpected or misshapen, all named; a tensor
    /// too large for the device; a device that failed.
    pub fn load(files: &ModelFiles, device: &B::Device) -> Result<(Self, LoadReport)> {
        Self::load_with(DecoderConfig::from_files(files)?, files, device)
    }

    /// [`load`](Self::load) with a configuration read, and perhaps changed, before.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(
        config: DecoderConfig,
        files: &ModelFiles,
        device: &B::Device,
    ) -> Result<(Self, LoadReport)> {
        Self::load_adapted(config, SavedTensors::default(), files, device)
    }

    /// [`load_with`](Self::load_with) with the tensors that an adapter saved in place of the base's; the configuration is
    /// [the adapter's](AdaptedConfig).
    ///
    /// # Errors
    /// As [`load`](Self::load), and a saved tensor that the model does not have, or has in another shape.
    pub fn load_adapted(
        mut config: DecoderConfig,
        saved: SavedTensors,
        files: &ModelFiles,
        device: &B::Device,
    ) -> Result<(Self, LoadReport)> {
        config.base_dtype.check::<B>(device)?;
        let (prefix, norm) = match config.family {
            DecoderFamily::Gpt2 => ("transformer.", "ln_f.weight"),
            _ => ("model.", "norm.weight"),
        };
        let checkpoint = Checkpoint::open(files)?;
        let words = embedding_name(config.family);
        // A file may hold the token embedding under the head's name alone; the last norm then tells the prefix.
        let probe = match checkpoint.names().any(|name| name.ends_with(words)) {
            true => words,
            false => norm,
        };
        let loader = Loader::new(checkpoint).with_prefix(&[prefix, ""], probe);
        let mut loader = loader.with_saved(saved);
        ignore_buffers(&mut loader, &config);
        config.tied = loader.find_tie(config.tied, words, HEAD)?;
        let model = Self::build(config, &mut loader, device);
        // What is wrong with the file is said before what was wrong with its use.
        let report = loader.finish()?;
        let model = model?;
        sync::<B>(device, "loading the weights")?;
        Ok((model, report))
    }

    /// A model with fresh weights.
    ///
    /// # Errors
    /// A tensor too large for the device.
    pub fn random(config: DecoderConfig, seed: u64, device: &B::Device) -> Result<Self> {
        let std = config.initializer_range;
        Self::build(config, &mut RandomWeights::new(seed, std), device)
    }

    /// The largest tensors come first: what a tensor takes while it is converted then never stands on top of all others.
    fn build<S: WeightSource>(
        config: DecoderConfig,
        source: &mut S,
        device: &B::Device,
    ) -> Result<Self> {
        config.base_dtype.check::<B>(device)?;
        let mut builder = Builder::<B, S>::new(source, config.base_dtype, device);
        let (shape, dtype) = ([config.vocab_size, config.hidden_size], config.base_dtype);
        let name = embedding_name(config.family);
        let values = builder.source.take(name, shape);
        let embedding = TokenEmbedding::build(&mut builder, name, values, dtype);
        let head = (!config.tied).then(|| {
            let values = builder.source.take_at_root(HEAD, shape);
            TokenEmbedding::build(&mut builder, HEAD, values, dtype)
        });
        let positions = (config.family == DecoderFamily::Gpt2)
            .then(|| builder.frozen("wpe.weight", [config.max_positions, config.hidden_size]));
        // Every tensor is asked for, even after a failure, so that the source can report all that is wrong with it.
        let layers: Vec<_> = (0..config.num_layers)
            .map(|index| DecoderLayer::build(&mut builder, &config, index))
            .collect();
        let norm = FinalNorm::build(&mut builder, &config);
        Ok(Self {
            embedding: embedding?,
            positions: positions.transpose()?,
            layers: layers.into_iter().collect::<Result<_>>()?,
            norm: norm?,
            head: head.transpose()?,
            config,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The linear maps an adapter may act on, by their Hugging Face names. The head is none of them.
    pub fn sites(&self) -> Vec<Site> {
        let linears = self.layers.iter().flat_map(DecoderLayer::linears);
        linears.map(FrozenLinear::site).collect()
    }

    /// The last hidden state, after the final normalisation.
    ///
    /// # Shapes
    /// - output: `[n, t, d]`
    pub fn forward(&self, input: &CausalInput<B>, factors: &Factors<B>) -> Tensor<B, 3> {
        self.run(input, None, factors, |_| ())
    }

    /// [`forward`](Self::forward) that shows every hidden state: what enters each block, and the last one after the final normalisation.
    pub fn trace(
        &self,
        input: &CausalInput<B>,
        factors: &Factors<B>,
        see: impl FnMut(&Tensor<B, 3>),
    ) -> Tensor<B, 3> {
        self.run(input, None, factors, see)
    }

    fn run(
        &self,
        input: &CausalInput<B>,
        mut cache: Option<&mut KvCache<B>>,
        factors: &Factors<B>,
        mut see: impl FnMut(&Tensor<B, 3>),
    ) -> Tensor<B, 3> {
        let mut x = self.embed(input, factors);
        for (index, layer) in self.layers.iter().enumerate() {
            see(&x);
            let cache = cache.as_mut().map(|cache| &mut cache.layers[index]);
            x = layer.forward(x, &input.places, cache, &of_layer(factors, index));
        }
        let x = self.norm.forward(x);
        see(&x);
        x
    }

    fn embed(&self, input: &CausalInput<B>, factors: &Factors<B>) -> Tensor<B, 3> {
        let words = self.embedding.look_up(&input.ids);
        let x = match (&self.positions, &input.places.positions) {
            (Some(table), Some(positions)) => words + rows(table.val(), positions.clone()),
            _ if self.config.family == DecoderFamily::Gemma => {
                words.mul_scalar((self.config.hidden_size as f64).sqrt())
            }
            _ => words,
        };
        dropout(
            x,
            self.config.embedding_dropout,
            factors.noise(),
            "embeddings",
        )
    }

    /// The logits of the next token.
    ///
    /// # Shapes
    /// - hidden: `[m, d]`, of [`forward`](Self::forward); output: `[m, vocabulary]`
    pub fn logits(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        self.head_table().logits(hidden)
    }

    /// [`logits`](Self::logits) of an adapter that may be on the head too. On a tied head it leaves the token embedding as it is.
    ///
    /// # Shapes
    /// - as in [`logits`](Self::logits), m being the rows of a multi-adapter batch
    pub fn adapted_logits(&self, hidden: Tensor<B, 2>, factors: &Factors<B>) -> Tensor<B, 2> {
        let update = factors.update(HEAD_SITE, hidden.clone());
        let logits = self.logits(hidden);
        match update {
            Some(update) => logits + update,
            None => logits,
        }
    }

    fn head_table(&self) -> &TokenEmbedding<B> {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// The model with every update added into its weight, which runs as fast as the base. This model stays as it is, to the bit, and what
    /// was not adapted is shared with it: to unmerge is to drop the merged one.
    ///
    /// # Panics
    /// The factors are those of a multi-adapter batch.
    #[must_use]
    pub fn merged(&self, factors: &Factors<B>) -> Self {
        let layers = self.layers.iter().map(|layer| layer.merged(factors));
        let mut merged = Self {
            layers: layers.collect(),
            ..self.clone()
        };
        if let Some(pair) = factors.get(HEAD_SITE) {
            assert!(
                !factors.is_multi_adapter(),
                "rows with adapters of their own"
            );
            merged.head = Some(self.head_table().merged(pair));
            merged.config.tied = false;
        }
        merged
    }
}

impl<B: VbLoraBackend> BaseWeights for CausalLm<B> {
    fn weight(&self, site: &str) -> Option<Vec<f32>> {
        let mut linears = self.layers.iter().flat_map(DecoderLayer::linears);
        let map = linears.find(|map| map.site().name == site)?;
        Some(host_tensor(map.weight.dense()).values)
    }
}

/// The head's name, which never has a prefix.
const HEAD: &str = "lm_head.weight";

/// The head as a site, which only an adapter that was made elsewhere is on.
const HEAD_SITE: &str = "lm_head";

fn embedding_name(family: DecoderFamily) -> &'static str {
    match family {
        DecoderFamily::Gpt2 => "wte.weight",
        _ => "embed_tokens.weight",
    }
}

/// What old files hold beside the weights.
fn ignore_buffers(loader: &mut Loader, config: &DecoderConfig) {
    for index in 0..config.num_layers {
        for buffer in [
            format!("h.{index}.attn.bias"),
            format!("h.{index}.attn.masked_bias"),
            format!("layers.{index}.self_attn.rotary_emb.inv_freq"),
        ] {
            loader.ignore(&buffer);
        }
    }
}

/// The factors with the noise of one layer: places inside a layer have the same names in each.
fn of_layer<B: Backend>(factors: &Factors<B>, index: usize) -> Factors<B> {
    match factors.noise() {
        Some(noise) => factors.with_noise(noise.index(index as u64)),
        None => factors.clone(),
    }
}

/// Attention over a cache, or over the tokens' own keys without one, with dropout where there is noise.
fn attend<B: VbLoraBackend>(
    [q, k, v]: [Tensor<B, 3>; 3],
    places: &Places<B>,
    cache: Option<&mut LayerCache<B>>,
    settings: CausalSettings,
    (p, noise): (f64, Option<Noise>),
) -> Tensor<B, 3> {
    let [k, v] = match cache {
        Some(cache) => cache.append([k, v], places.offset),
        None => [k, v],
    };
    let dropout = noise
        .filter(|_| p > 0.0)
        .map(|noise| (noise.key("attention"), p));
    let settings = CausalSettings {
        dropout,
        ..settings
    };
    ops::causal_attention([q, k, v], places.first.clone(), settings)
}

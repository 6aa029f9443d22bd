//! Causal language models as frozen functions with adapter sites: one block, whose features the configuration chooses.

mod adapted;
mod attention;
mod batch;
mod cached;
mod drawn;
mod export;
mod footprint;
mod input;
mod kv_cache;
mod layer;
mod maps;
mod recompute;
mod sites;

use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};
use vblora::{BaseWeights, Factors, FrozenLinear, Site, backend::VbLoraBackend, noise::dropout};

pub use adapted::AdaptedConfig;
pub use attention::Attention;
pub use batch::{CausalBatch, Side};
pub use cached::CachedLm;
pub use footprint::Footprint;
pub use input::CausalInput;
pub use layer::DecoderLayer;
pub use recompute::logits_at_once;
pub(crate) use sites::map_values;
pub use sites::{sites, targets};

use self::kv_cache::KvCache;
use crate::{
    Checkpoint, DecoderConfig, FrozenNorm, LoadReport, Loader, ModelFiles, Result, SavedTensors,
    config::EmbeddingScale,
    parts::{Builder, TokenEmbedding, rows},
    source::{RandomWeights, WeightSource},
    upload::{host_tensor, sync},
};

/// A causal language model. No parameter requires a gradient; what is trained comes in as [`Factors`].
#[derive(Module, Debug)]
pub struct CausalLm<B: Backend> {
    /// `[vocabulary, d]`
    pub embedding: TokenEmbedding<B>,
    /// `[positions, d]`, in models that learn them.
    pub positions: Option<Param<Tensor<B, 2>>>,
    /// The blocks.
    pub layers: Vec<DecoderLayer<B>>,
    /// The normalisation after them.
    pub norm: FrozenNorm<B>,
    /// The head, `[vocabulary, d]`; the token embedding where there is none.
    pub head: Option<TokenEmbedding<B>>,
    #[module(skip)]
    config: DecoderConfig,
}

impl<B: VbLoraBackend> CausalLm<B> {
    /// Loads `config.json` and the safetensors weights of a Hugging Face directory.
    ///
    /// # Errors
    /// A file is missing, broken or of another architecture. Tensors are missing, unexpected or misshapen; the error names them all. A
    /// tensor is too large for the device, or the device failed.
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
        let layout = config.layout;
        let checkpoint = Checkpoint::open(files)?;
        let embedding = layout.embedding_weight();
        // A file may hold the token embedding under the head's name alone; the last norm then tells the prefix.
        let probe = match checkpoint.names().any(|name| name.ends_with(&embedding)) {
            true => embedding.clone(),
            false => format!("{}.weight", layout.final_norm),
        };
        let loader = Loader::new(checkpoint).with_prefix(&[layout.prefix, ""], &probe);
        let mut loader = loader.with_saved(saved);
        ignore_buffers(&mut loader, &config);
        config.tied = loader.find_tie(config.tied, &embedding, HEAD)?;
        let model = Self::build(config, &mut loader, device);
        // Faults of the file are reported before faults of its use.
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
        let layout = config.layout;
        let name = layout.embedding_weight();
        let values = builder.source.take(&name, shape);
        let embedding = TokenEmbedding::build(&mut builder, &name, values, dtype);
        let head = (!config.tied).then(|| {
            let values = builder.source.take_at_root(HEAD, shape);
            TokenEmbedding::build(&mut builder, HEAD, values, dtype)
        });
        let d = config.hidden_size;
        let positions = layout
            .positions
            .map(|part| builder.frozen(&format!("{part}.weight"), [config.max_positions, d]));
        // Every tensor is asked for, even after a failure, so that the source can report all that is wrong with it.
        let layers: Vec<_> = (0..config.num_layers)
            .map(|index| DecoderLayer::build(&mut builder, &config, index))
            .collect();
        let (form, eps) = (config.norm, config.norm_eps);
        let norm = FrozenNorm::build(&mut builder, layout.final_norm, form, d, eps);
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
        let x = self.embedding.look_up(&input.ids);
        let x = match self.config.embedding_scale {
            EmbeddingScale::One => x,
            EmbeddingScale::RootOfWidth => x.mul_scalar((self.config.hidden_size as f64).sqrt()),
            EmbeddingScale::By(factor) => x.mul_scalar(factor),
        };
        let x = match (&self.positions, &input.places.positions) {
            (Some(table), Some(positions)) => x + rows(table.val(), positions.clone()),
            (_, _) => x,
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
        self.scaled(self.head_table().logits(hidden))
    }

    /// [`logits`](Self::logits) of an adapter that may be on the head too. On a tied head it leaves the token embedding as it is.
    ///
    /// # Shapes
    /// - as in [`logits`](Self::logits), m being the rows of a multi-adapter batch
    pub fn adapted_logits(&self, hidden: Tensor<B, 2>, factors: &Factors<B>) -> Tensor<B, 2> {
        let update = factors.update(HEAD_SITE, hidden.clone());
        let logits = self.head_table().logits(hidden);
        self.scaled(match update {
            Some(update) => logits + update,
            None => logits,
        })
    }

    fn scaled(&self, logits: Tensor<B, 2>) -> Tensor<B, 2> {
        let logits = match self.config.logits_divisor {
            1.0 => logits,
            divisor => logits.div_scalar(divisor),
        };
        match self.config.logit_cap {
            Some(cap) => logits.div_scalar(cap).tanh().mul_scalar(cap),
            None => logits,
        }
    }

    fn head_table(&self) -> &TokenEmbedding<B> {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// The model with every update added into its weight, which runs as fast as the base. This model stays as it is, to the bit. The two
    /// share all weights that were not adapted. To unmerge, drop the merged model.
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

/// Lets the tensors be that old files hold beside the weights.
fn ignore_buffers(loader: &mut Loader, config: &DecoderConfig) {
    let layout = config.layout;
    for index in 0..config.num_layers {
        for buffer in layout.buffers {
            loader.ignore(&layout.in_block(index, buffer));
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

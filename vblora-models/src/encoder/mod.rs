//! Encoders as frozen functions with adapter sites: RoBERTa, and the others by their settings.

mod attention;
mod embeddings;
mod export;
mod head;
mod input;
mod layer;
mod merge;
mod places;
mod relative;
mod sites;

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use vblora::{BaseWeights, Factors, FrozenLinear, Site, backend::VbLoraBackend};

pub use attention::Pass;
pub use embeddings::Embeddings;
pub use head::HeadMap;
pub use input::{EncoderInput, Padding};
pub use layer::EncoderLayer;
pub use relative::RelativePositions;
pub use sites::{sites, targets};

use crate::{
    Checkpoint, EncoderConfig, EncoderPositions, LoadReport, Loader, ModelFiles, Result,
    config::FINAL_NORM,
    parts::{Builder, FrozenLayerNorm},
    source::{RandomWeights, WeightSource},
    upload::{host_tensor, sync},
};

/// An encoder. No parameter requires a gradient; what is trained comes in as [`Factors`].
#[derive(Module, Debug)]
pub struct Encoder<B: Backend> {
    /// Token, position and type embeddings.
    pub embeddings: Embeddings<B>,
    /// The encoder's layers.
    pub layers: Vec<EncoderLayer<B>>,
    /// The table of relative positions (DeBERTa).
    pub relative: Option<RelativePositions<B>>,
    /// The normalisation after pre-norm layers (ModernBERT).
    pub final_norm: Option<FrozenLayerNorm<B>>,
    /// What the base holds of the classification head.
    pub head: Option<HeadMap<B>>,
    #[module(skip)]
    config: EncoderConfig,
}

impl<B: VbLoraBackend> Encoder<B> {
    /// Loads `config.json` and the safetensors weights of a Hugging Face directory.
    ///
    /// # Errors
    /// A file is missing, broken or of another architecture. Tensors are missing, unexpected or misshapen; the error names them all. A
    /// tensor is too large for the device, or the device failed.
    pub fn load(files: &ModelFiles, device: &B::Device) -> Result<(Self, LoadReport)> {
        Self::load_with(EncoderConfig::from_files(files)?, files, device)
    }

    /// [`load`](Self::load) with a configuration read, and perhaps changed, before.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(
        config: EncoderConfig,
        files: &ModelFiles,
        device: &B::Device,
    ) -> Result<(Self, LoadReport)> {
        config.base_dtype.check::<B>(device)?;
        let layout = config.layout();
        let loader = Loader::new(Checkpoint::open(files)?);
        let mut loader = loader.with_prefix(layout.prefixes, layout.word);
        let not_used = layout.not_used.iter();
        not_used.for_each(|pattern| loader.ignore(pattern));
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
    pub fn random(config: EncoderConfig, seed: u64, device: &B::Device) -> Result<Self> {
        let std = config.initializer_range;
        Self::build(config, &mut RandomWeights::new(seed, std), device)
    }

    fn build<S: WeightSource>(
        config: EncoderConfig,
        source: &mut S,
        device: &B::Device,
    ) -> Result<Self> {
        config.base_dtype.check::<B>(device)?;
        let mut builder = Builder::<B, S>::new(source, config.base_dtype, device);
        let embeddings = Embeddings::build(&mut builder, &config);
        let layers =
            (0..config.num_layers).map(|index| EncoderLayer::build(&mut builder, &config, index));
        // Every tensor is asked for, even after a failure, so that the source can report all that is wrong with it.
        let layers = layers
            .collect::<Vec<_>>()
            .into_iter()
            .collect::<Result<_>>();
        let relative = match config.positions {
            EncoderPositions::Relative(buckets) => {
                Some(RelativePositions::build(&mut builder, &config, buckets))
            }
            EncoderPositions::Learned | EncoderPositions::Rotary(_) => None,
        };
        let final_norm = config.layout().pre_norm.then(|| {
            let (d, eps) = (config.hidden_size, config.layer_norm_eps);
            FrozenLayerNorm::build_with(&mut builder, FINAL_NORM, d, eps, config.norm_bias)
        });
        let head = HeadMap::build(&mut builder, &config);
        Ok(Self {
            embeddings: embeddings?,
            layers: layers?,
            relative: relative.transpose()?,
            final_norm: final_norm.transpose()?,
            head: head?,
            config,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The linear maps an adapter may act on, by their Hugging Face names. Families whose head has a site name them with their prefix.
    pub fn sites(&self) -> Vec<Site> {
        self.linears().map(FrozenLinear::site).collect()
    }

    /// The linear maps, in the order of [`sites`].
    fn linears(&self) -> impl Iterator<Item = &FrozenLinear<B>> {
        let layers = self.layers.iter().flat_map(EncoderLayer::linears);
        let head = self.head.iter().map(|head| &head.dense);
        self.embeddings.project.iter().chain(layers).chain(head)
    }

    /// What a classification head reads, whose first token it takes: the hidden states, or what the family makes of them.
    ///
    /// # Shapes
    /// - output: `[n, t, d]` or `[n, 1, d]`
    pub fn for_head(&self, input: &EncoderInput<B>, factors: &Factors<B>) -> Tensor<B, 3> {
        self.pooled(self.forward(input, factors), input, factors)
    }

    /// The last hidden state; zeros at padding that the input leaves out.
    ///
    /// # Shapes
    /// - output: `[n, t, d]`
    pub fn forward(&self, input: &EncoderInput<B>, factors: &Factors<B>) -> Tensor<B, 3> {
        input.padding.padded(self.run(input, factors, |_| ()))
    }

    /// [`forward`](Self::forward) that shows every hidden state: the embeddings' output first, then each layer's.
    pub fn trace(
        &self,
        input: &EncoderInput<B>,
        factors: &Factors<B>,
        mut see: impl FnMut(&Tensor<B, 3>),
    ) -> Tensor<B, 3> {
        let padded = |x: &Tensor<B, 3>| input.padding.padded(x.clone());
        padded(&self.run(input, factors, |x| see(&padded(x))))
    }

    /// # Shapes
    /// - output and what is seen: as the input lies, `[n, t, d]` or `[N, 1, d]`
    fn run(
        &self,
        input: &EncoderInput<B>,
        factors: &Factors<B>,
        mut see: impl FnMut(&Tensor<B, 3>),
    ) -> Tensor<B, 3> {
        let tokens = input.padding.factors(factors);
        let mut x = self.embeddings.forward(input, &tokens);
        see(&x);
        let relative = self.relative.as_ref().zip(input.places.relative.as_ref());
        let relative = relative.map(|(table, rows)| (table, table.rows(rows)));
        for (index, layer) in self.layers.iter().enumerate() {
            let of_layer = |factors| of_layer(factors, index);
            let relative = relative
                .as_ref()
                .map(|(table, rows)| table.for_layer(rows, input.rows, &of_layer(factors)));
            let tokens = of_layer(&tokens);
            let pass = Pass {
                relative,
                ..Pass::new(input, &tokens)
            };
            x = layer.forward(x, &pass);
            if let (Some(norm), true) = (&self.final_norm, index + 1 == self.layers.len()) {
                x = norm.forward(x);
            }
            see(&x);
        }
        x
    }
}

/// The factors with a layer's own noise: places inside a layer have the same names in each.
fn of_layer<B: VbLoraBackend>(factors: &Factors<B>, index: usize) -> Factors<B> {
    match factors.noise() {
        Some(noise) => factors.with_noise(noise.index(index as u64)),
        None => factors.clone(),
    }
}

impl<B: VbLoraBackend> BaseWeights for Encoder<B> {
    fn weight(&self, site: &str) -> Option<Vec<f32>> {
        let map = self.linears().find(|map| map.site().name == site)?;
        Some(host_tensor(map.weight.dense()).values)
    }
}

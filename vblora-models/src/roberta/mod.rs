//! RoBERTa, and BERT by its settings, as a frozen function with adapter sites.

mod embeddings;
mod export;
mod input;
mod layer;
mod merge;

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use vblora::{BaseWeights, Factors, FrozenLinear, Site, Targets, backend::VbLoraBackend};

pub use embeddings::Embeddings;
pub use input::{EncoderInput, Padding};
pub use layer::EncoderLayer;

use crate::{
    Checkpoint, EncoderConfig, LoadReport, Loader, ModelFiles, Result,
    parts::Builder,
    source::{RandomWeights, WeightSource},
    upload::{host_tensor, sync},
};

/// The prefixes under which checkpoints keep the encoder.
pub(crate) const PREFIXES: [&str; 3] = ["roberta.", "bert.", ""];

/// A tensor that every encoder checkpoint has, by which the prefix is known.
const PROBE: &str = "embeddings.word_embeddings.weight";

/// Tensors of a checkpoint that the encoder does not use: buffers, the pooler, other heads.
const NOT_USED: [&str; 6] = [
    "embeddings.position_ids",
    "embeddings.token_type_ids",
    "pooler.*",
    "lm_head.*",
    "classifier.*",
    "cls.*",
];

/// The encoder of RoBERTa or BERT. No parameter requires a gradient; what is trained comes in as [`Factors`].
#[derive(Module, Debug)]
pub struct Roberta<B: Backend> {
    /// Token, position and type embeddings.
    pub embeddings: Embeddings<B>,
    /// The encoder's layers.
    pub layers: Vec<EncoderLayer<B>>,
    #[module(skip)]
    config: EncoderConfig,
}

impl<B: VbLoraBackend> Roberta<B> {
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
        let mut loader = Loader::new(Checkpoint::open(files)?).with_prefix(&PREFIXES, PROBE);
        NOT_USED.iter().for_each(|pattern| loader.ignore(pattern));
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
        Ok(Self {
            embeddings: embeddings?,
            layers: layers?,
            config,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The linear maps an adapter may act on: six per layer, by their Hugging Face names without prefix.
    pub fn sites(&self) -> Vec<Site> {
        self.layers
            .iter()
            .flat_map(|layer| layer.linears().map(FrozenLinear::site))
            .collect()
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
        let factors = input.padding.factors(factors);
        let mut x = self.embeddings.forward(input, &factors);
        see(&x);
        for (index, layer) in self.layers.iter().enumerate() {
            // Places inside a layer have the same names in each, so the layer's number goes into the noise.
            let factors = match factors.noise() {
                Some(noise) => factors.with_noise(noise.index(index as u64)),
                None => factors.clone(),
            };
            x = layer.forward(x, &input.padding, &factors);
            see(&x);
        }
        x
    }
}

impl<B: VbLoraBackend> BaseWeights for Roberta<B> {
    fn weight(&self, site: &str) -> Option<Vec<f32>> {
        let mut linears = self.layers.iter().flat_map(EncoderLayer::linears);
        let map = linears.find(|map| map.site().name == site)?;
        Some(host_tensor(map.weight.dense()).values)
    }
}

/// The sites of a configuration, without a model: what a dry run needs.
pub fn sites(config: &EncoderConfig) -> Vec<Site> {
    let (d, inner) = (config.hidden_size, config.intermediate_size);
    let roles = [
        ("attention.self.query", d, d),
        ("attention.self.key", d, d),
        ("attention.self.value", d, d),
        ("attention.output.dense", d, d),
        ("intermediate.dense", d, inner),
        ("output.dense", inner, d),
    ];
    let layer = |n| {
        roles.map(|(role, d_in, d_out)| Site::new(format!("encoder.layer.{n}.{role}"), d_in, d_out))
    };
    (0..config.num_layers).flat_map(layer).collect()
}

/// The paper's names for targets, `qv` (query and value) and `all` (every linear map of the encoder), or any other rule.
///
/// # Errors
/// The text is no rule.
pub fn targets(text: &str) -> Result<Targets> {
    Ok(match text {
        "qv" => Targets::suffixes(["query", "value"]),
        "all" => Targets::all_linear(),
        other => other.parse()?,
    })
}

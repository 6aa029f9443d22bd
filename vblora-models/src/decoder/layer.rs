//! A block of any family.

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use vblora::{Factors, FrozenLinear, backend::VbLoraBackend};

use super::{gated::GatedLayer, gpt2::Gpt2Layer, input::Places, kv_cache::LayerCache};
use crate::{
    DecoderConfig, DecoderFamily, Result,
    parts::{Builder, FrozenLayerNorm, FrozenRmsNorm},
    source::WeightSource,
};

/// One block.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "all blocks of a model are of one kind, so none is larger than it need be"
)]
pub enum DecoderLayer<B: Backend> {
    /// GPT-2's.
    Gpt2(Gpt2Layer<B>),
    /// Llama's, Mistral's and Gemma's.
    Gated(GatedLayer<B>),
}

impl<B: VbLoraBackend> DecoderLayer<B> {
    pub(super) fn build<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        config: &DecoderConfig,
        index: usize,
    ) -> Result<Self> {
        Ok(match config.family {
            DecoderFamily::Gpt2 => Self::Gpt2(Gpt2Layer::build(builder, config, index)?),
            _ => Self::Gated(GatedLayer::build(builder, config, index)?),
        })
    }

    pub(super) fn linears(&self) -> Vec<&FrozenLinear<B>> {
        match self {
            Self::Gpt2(layer) => layer.linears(),
            Self::Gated(layer) => layer.linears(),
        }
    }

    pub(super) fn merged(&self, factors: &Factors<B>) -> Self {
        match self {
            Self::Gpt2(layer) => Self::Gpt2(layer.merged(factors)),
            Self::Gated(layer) => Self::Gated(layer.merged(factors)),
        }
    }

    pub(super) fn forward(
        &self,
        x: Tensor<B, 3>,
        places: &Places<B>,
        cache: Option<&mut LayerCache<B>>,
        factors: &Factors<B>,
    ) -> Tensor<B, 3> {
        match self {
            Self::Gpt2(layer) => layer.forward(x, places, cache, factors),
            Self::Gated(layer) => layer.forward(x, places, cache, factors),
        }
    }
}

/// The normalisation behind the last block.
#[derive(Module, Debug)]
pub enum FinalNorm<B: Backend> {
    /// GPT-2's.
    Layer(FrozenLayerNorm<B>),
    /// Llama's, Mistral's and Gemma's.
    Rms(FrozenRmsNorm<B>),
}

impl<B: VbLoraBackend> FinalNorm<B> {
    pub(super) fn build<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        config: &DecoderConfig,
    ) -> Result<Self> {
        let (d, eps) = (config.hidden_size, config.norm_eps);
        let rms = |builder, offset| FrozenRmsNorm::build(builder, "norm", d, eps, offset);
        Ok(match config.family {
            DecoderFamily::Gpt2 => Self::Layer(FrozenLayerNorm::build(builder, "ln_f", d, eps)?),
            DecoderFamily::Gemma => Self::Rms(rms(builder, 1.0)?),
            _ => Self::Rms(rms(builder, 0.0)?),
        })
    }

    pub(super) fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        match self {
            Self::Layer(norm) => norm.forward(x),
            Self::Rms(norm) => norm.forward(x),
        }
    }
}

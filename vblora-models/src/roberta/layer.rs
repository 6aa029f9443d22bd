//! One encoder layer: self-attention and a two-layer MLP, each followed by dropout, the residual sum and a normalisation.

use burn::{
    module::Module,
    tensor::{Tensor, activation, backend::Backend},
};
use vblora::{
    Factors, FrozenLinear,
    backend::VbLoraBackend,
    ops::{self, GeluForm},
};

use super::input::Padding;
use crate::{
    Activation, EncoderConfig, Result,
    parts::{Builder, FrozenLayerNorm},
    source::WeightSource,
};

/// A post-norm encoder layer with six sites.
#[derive(Module, Debug)]
pub struct EncoderLayer<B: Backend> {
    /// `attention.self.query`
    pub query: FrozenLinear<B>,
    /// `attention.self.key`
    pub key: FrozenLinear<B>,
    /// `attention.self.value`
    pub value: FrozenLinear<B>,
    /// `attention.output.dense`
    pub attention_output: FrozenLinear<B>,
    /// `attention.output.LayerNorm`
    pub attention_norm: FrozenLayerNorm<B>,
    /// `intermediate.dense`
    pub intermediate: FrozenLinear<B>,
    /// `output.dense`
    pub output: FrozenLinear<B>,
    /// `output.LayerNorm`
    pub output_norm: FrozenLayerNorm<B>,
    #[module(skip)]
    settings: Settings,
}

/// The settings of a layer.
#[derive(Debug, Clone, Copy)]
struct Settings {
    heads: usize,
    hidden_dropout: f64,
    attention_dropout: f64,
    activation: Activation,
}

impl<B: VbLoraBackend> EncoderLayer<B> {
    pub(crate) fn build<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        config: &EncoderConfig,
        index: usize,
    ) -> Result<Self> {
        let (d, inner, eps) = (
            config.hidden_size,
            config.intermediate_size,
            config.layer_norm_eps,
        );
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        Ok(Self {
            query: builder.linear(&name("attention.self.query"), d, d)?,
            key: builder.linear(&name("attention.self.key"), d, d)?,
            value: builder.linear(&name("attention.self.value"), d, d)?,
            attention_output: builder.linear(&name("attention.output.dense"), d, d)?,
            attention_norm: FrozenLayerNorm::build(
                builder,
                &name("attention.output.LayerNorm"),
                d,
                eps,
            )?,
            intermediate: builder.linear(&name("intermediate.dense"), d, inner)?,
            output: builder.linear(&name("output.dense"), inner, d)?,
            output_norm: FrozenLayerNorm::build(builder, &name("output.LayerNorm"), d, eps)?,
            settings: Settings {
                heads: config.num_heads,
                hidden_dropout: config.hidden_dropout,
                attention_dropout: config.attention_dropout,
                activation: config.activation,
            },
        })
    }

    /// The layer's linear maps and normalisations under their Hugging Face names.
    pub(crate) fn linears(&self) -> [&FrozenLinear<B>; 6] {
        [
            &self.query,
            &self.key,
            &self.value,
            &self.attention_output,
            &self.intermediate,
            &self.output,
        ]
    }

    pub(crate) fn norms(&self) -> [(&'static str, &FrozenLayerNorm<B>); 2] {
        [
            ("attention.output.LayerNorm", &self.attention_norm),
            ("output.LayerNorm", &self.output_norm),
        ]
    }

    /// # Shapes
    /// - input and output: `[n, t, d]`, or `[N, 1, d]` where the padding is left out
    ///
    /// `factors` carry the layer's own noise.
    pub fn forward(
        &self,
        x: Tensor<B, 3>,
        padding: &Padding<B>,
        factors: &Factors<B>,
    ) -> Tensor<B, 3> {
        let p = self.settings.hidden_dropout;
        let attended = self
            .attention_output
            .forward(self.attend(x.clone(), padding, factors), factors);
        let x = self
            .attention_norm
            .forward(factors.drop(attended, p, "attention.output") + x);
        let inner = self.intermediate.forward(x.clone(), factors);
        let inner = match self.settings.activation {
            Activation::Gelu => self.output.forward_gelu(inner, GeluForm::Erf, factors),
            Activation::GeluTanh => self.output.forward_gelu(inner, GeluForm::Tanh, factors),
            Activation::Relu => self.output.forward(activation::relu(inner), factors),
        };
        self.output_norm
            .forward(factors.drop(inner, p, "output") + x)
    }

    /// Softmax attention of every head, without the output map.
    fn attend(&self, x: Tensor<B, 3>, padding: &Padding<B>, factors: &Factors<B>) -> Tensor<B, 3> {
        let qkv = [&self.query, &self.key, &self.value].map(|map| map.forward(x.clone(), factors));
        let Settings {
            heads,
            attention_dropout: p,
            ..
        } = self.settings;
        let (noise, place) = (factors.noise(), "attention.self");
        let mask = match padding {
            Padding::LeftOut(unpadded) => {
                let qkv = qkv.map(|x| x.squeeze_dim::<2>(1));
                let all = ops::unpadded_attention(qkv, unpadded, heads, p, noise, place);
                return all.unsqueeze_dim(1);
            }
            Padding::Masked(mask) => Some(mask.clone()),
            Padding::None => None,
        };
        ops::attention(qkv, mask, heads, p, noise, place)
    }
}

//! The block of GPT-2: attention and a MLP, each behind a layer normalisation and added to its input after dropout.

use burn::{
    module::Module,
    tensor::{Tensor, activation, backend::Backend},
};
use vblora::{
    Factors, FrozenLinear,
    backend::{CausalSettings, VbLoraBackend},
    noise::dropout,
    ops::GeluForm,
};

use super::{input::Places, kv_cache::LayerCache};
use crate::{
    Activation, DecoderConfig, HostTensor, Result,
    parts::{Builder, FrozenLayerNorm},
    source::WeightSource,
};

/// A pre-norm block with four sites, or six where query, key and value are sites of their own.
#[derive(Module, Debug)]
pub struct Gpt2Layer<B: Backend> {
    /// `ln_1`
    pub attention_norm: FrozenLayerNorm<B>,
    /// `attn.c_attn`: one map for query, key and value, or one for each.
    pub qkv: Vec<FrozenLinear<B>>,
    /// `attn.c_proj`
    pub attention_output: FrozenLinear<B>,
    /// `ln_2`
    pub mlp_norm: FrozenLayerNorm<B>,
    /// `mlp.c_fc`
    pub intermediate: FrozenLinear<B>,
    /// `mlp.c_proj`
    pub output: FrozenLinear<B>,
    #[module(skip)]
    settings: Settings,
}

/// What a layer takes from the configuration.
#[derive(Debug, Clone, Copy)]
struct Settings {
    heads: usize,
    residual_dropout: f64,
    attention_dropout: f64,
    activation: Activation,
}

impl<B: VbLoraBackend> Gpt2Layer<B> {
    pub(super) fn build<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        config: &DecoderConfig,
        index: usize,
    ) -> Result<Self> {
        let (d, inner, eps) = (
            config.hidden_size,
            config.intermediate_size,
            config.norm_eps,
        );
        let name = |part: &str| format!("h.{index}.{part}");
        let norm = |builder: &mut Builder<'_, B, S>, part: &str| {
            FrozenLayerNorm::build(builder, &name(part), d, eps)
        };
        let (attention_norm, mlp_norm) = (norm(builder, "ln_1")?, norm(builder, "ln_2")?);
        let qkv = fused(builder, &name("attn.c_attn"), d, config.split_qkv)?;
        let mut map = |part: &str, d_in, d_out| conv1d(builder, &name(part), d_in, d_out);
        let attention_output = map("attn.c_proj", d, d);
        let intermediate = map("mlp.c_fc", d, inner);
        let output = map("mlp.c_proj", inner, d);
        Ok(Self {
            attention_norm,
            qkv,
            attention_output: attention_output?,
            mlp_norm,
            intermediate: intermediate?,
            output: output?,
            settings: Settings {
                heads: config.num_heads,
                residual_dropout: config.residual_dropout,
                attention_dropout: config.attention_dropout,
                activation: config.activation,
            },
        })
    }

    pub(super) fn linears(&self) -> Vec<&FrozenLinear<B>> {
        let rest = [&self.attention_output, &self.intermediate, &self.output];
        self.qkv.iter().chain(rest).collect()
    }

    pub(super) fn merged(&self, factors: &Factors<B>) -> Self {
        let mut layer = self.clone();
        let rest = [
            &mut layer.attention_output,
            &mut layer.intermediate,
            &mut layer.output,
        ];
        for linear in layer.qkv.iter_mut().chain(rest) {
            *linear = linear.merged(factors);
        }
        layer
    }

    /// # Shapes
    /// - input and output: `[n, t, d]`
    pub(super) fn forward(
        &self,
        x: Tensor<B, 3>,
        places: &Places<B>,
        cache: Option<&mut LayerCache<B>>,
        factors: &Factors<B>,
    ) -> Tensor<B, 3> {
        let (noise, p) = (factors.noise(), self.settings.residual_dropout);
        let normal = self.attention_norm.forward(x.clone());
        let attended = self.attend(normal, places, cache, factors);
        let attended = self.attention_output.forward(attended, factors);
        let x = x + dropout(attended, p, noise, "attn.c_proj");
        let normal = self.mlp_norm.forward(x.clone());
        let inner = self.intermediate.forward(normal, factors);
        let inner = match self.settings.activation {
            Activation::Gelu => self.output.forward_gelu(inner, GeluForm::Erf, factors),
            Activation::GeluTanh => self.output.forward_gelu(inner, GeluForm::Tanh, factors),
            Activation::Relu => self.output.forward(activation::relu(inner), factors),
        };
        x + dropout(inner, p, noise, "mlp.c_proj")
    }

    fn attend(
        &self,
        x: Tensor<B, 3>,
        places: &Places<B>,
        cache: Option<&mut LayerCache<B>>,
        factors: &Factors<B>,
    ) -> Tensor<B, 3> {
        let [_, _, d] = x.dims();
        let qkv = match self.qkv.as_slice() {
            [fused] => {
                let fused = fused.forward(x, factors);
                [0, d, 2 * d].map(|start| fused.clone().narrow(2, start, d))
            }
            maps => std::array::from_fn(|i| maps[i].forward(x.clone(), factors)),
        };
        let settings = CausalSettings {
            heads: self.settings.heads,
            kv_heads: self.settings.heads,
            offset: places.offset,
            window: None,
            dropout: None,
        };
        let p = self.settings.attention_dropout;
        super::attend(qkv, places, cache, settings, (p, factors.noise()))
    }
}

/// A map stored `[d_in, d_out]`, as GPT-2's `Conv1D` has it; its site has the model's prefix in front.
fn conv1d<B: VbLoraBackend, S: WeightSource>(
    builder: &mut Builder<'_, B, S>,
    name: &str,
    d_in: usize,
    d_out: usize,
) -> Result<FrozenLinear<B>> {
    let weight = builder
        .source
        .take(&format!("{name}.weight"), [d_in, d_out]);
    let bias = builder.source.take(&format!("{name}.bias"), [d_out]);
    builder.map(&format!("transformer.{name}"), weight, Some(bias))
}

/// Query, key and value: the one map that the file has, or three out of its columns.
fn fused<B: VbLoraBackend, S: WeightSource>(
    builder: &mut Builder<'_, B, S>,
    name: &str,
    d: usize,
    split: bool,
) -> Result<Vec<FrozenLinear<B>>> {
    if !split {
        return Ok(vec![conv1d(builder, name, d, 3 * d)?]);
    }
    let weight = builder.source.take(&format!("{name}.weight"), [d, 3 * d]);
    let bias = builder.source.take(&format!("{name}.bias"), [3 * d]);
    let columns = |of: &HostTensor, part: usize| {
        // What a checkpoint lacks comes as one value, whatever was asked for.
        if of.values.len() < 3 * d {
            return of.clone();
        }
        let rows = of.values.chunks_exact(3 * d);
        let values = rows.flat_map(|row| &row[part * d..(part + 1) * d]);
        let values: Vec<f32> = values.copied().collect();
        let mut shape = of.shape.clone();
        shape.pop();
        shape.push(d);
        HostTensor { shape, values }
    };
    let parts = ["q", "k", "v"].into_iter().enumerate().map(|(i, part)| {
        let [weight, bias] = [&weight, &bias].map(|of| columns(of, i));
        builder.map(&format!("transformer.{name}.{part}"), weight, Some(bias))
    });
    parts.collect()
}

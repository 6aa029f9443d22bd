//! One encoder layer: self-attention and an MLP, each with a normalisation after its residual sum, or before itself.

use burn::{
    module::Module,
    tensor::{Tensor, activation, backend::Backend},
};
use vblora::{
    Factors, FrozenLinear,
    backend::VbLoraBackend,
    ops::{GeluForm, gated_halves},
};

use super::{
    attention::{Attention, Pass},
    sites::{self, BlockMaps},
};
use crate::{
    Activation, EncoderConfig, Result,
    parts::{Builder, FrozenLayerNorm},
    source::WeightSource,
};

/// An encoder layer with six sites, or four where one map gives query, key and value. The names are BERT's.
#[derive(Module, Debug)]
pub struct EncoderLayer<B: Backend> {
    /// `attention.self.query`, or the one map of query, key and value.
    pub query: FrozenLinear<B>,
    /// `attention.self.key`
    pub key: Option<FrozenLinear<B>>,
    /// `attention.self.value`
    pub value: Option<FrozenLinear<B>>,
    /// `attention.output.dense`
    pub attention_output: FrozenLinear<B>,
    /// `attention.output.LayerNorm`. The first layer of a pre-norm family has none.
    pub attention_norm: Option<FrozenLayerNorm<B>>,
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
#[derive(Debug, Clone)]
struct Settings {
    attention: Attention,
    hidden_dropout: f64,
    /// After the output map of the attention.
    attended_dropout: f64,
    activation: Activation,
    pre_norm: bool,
    gated: bool,
}

impl<B: VbLoraBackend> EncoderLayer<B> {
    pub(crate) fn build<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        config: &EncoderConfig,
        index: usize,
    ) -> Result<Self> {
        let (layout, maps) = (config.layout(), BlockMaps::new(config));
        let mut map = |map| sites::build(builder, config, index, map);
        // Every tensor is asked for, even after a failure, so that the source can report all that is wrong with it.
        let qkv: Vec<_> = maps.qkv.iter().map(&mut map).collect();
        let attention_output = map(&maps.attention_output);
        let (intermediate, output) = (map(&maps.mlp_input), map(&maps.mlp_output));
        let mut norm = |name| {
            let name = layout.in_block(index, name);
            let (d, eps) = (config.hidden_size, config.layer_norm_eps);
            FrozenLayerNorm::build_with(builder, &name, d, eps, config.norm_bias)
        };
        // The norm of the embeddings comes just before.
        let has_norm = !layout.pre_norm || index > 0;
        let attention_norm = has_norm.then(|| norm(layout.attention_norm));
        let output_norm = norm(layout.mlp_norm);
        let mut qkv = qkv.into_iter();
        Ok(Self {
            query: qkv.next().expect("a layout has a map of queries")?,
            key: qkv.next().transpose()?,
            value: qkv.next().transpose()?,
            attention_output: attention_output?,
            attention_norm: attention_norm.transpose()?,
            intermediate: intermediate?,
            output: output?,
            output_norm: output_norm?,
            settings: Settings {
                attention: Attention::new(config, index),
                hidden_dropout: config.hidden_dropout,
                attended_dropout: match (layout.drops_attention, layout.pre_norm) {
                    (false, _) => 0.0,
                    (true, false) => config.hidden_dropout,
                    (true, true) => config.attention_dropout,
                },
                activation: config.activation,
                pre_norm: layout.pre_norm,
                gated: layout.gated,
            },
        })
    }

    /// The layer's linear maps, in the order of a forward pass.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &FrozenLinear<B>> {
        let qkv = std::iter::once(&self.query).chain(&self.key);
        let rest = [&self.attention_output, &self.intermediate, &self.output];
        qkv.chain(&self.value).chain(rest)
    }

    pub(super) fn merged(&self, factors: &Factors<B>) -> Self {
        let mut layer = self.clone();
        let qkv = std::iter::once(&mut layer.query).chain(&mut layer.key);
        let rest = [
            &mut layer.attention_output,
            &mut layer.intermediate,
            &mut layer.output,
        ];
        for linear in qkv.chain(&mut layer.value).chain(rest) {
            *linear = linear.merged(factors);
        }
        layer
    }

    /// The normalisations: of the attention, where there is one, and of the MLP.
    pub(crate) fn norms(&self) -> [Option<&FrozenLayerNorm<B>>; 2] {
        [self.attention_norm.as_ref(), Some(&self.output_norm)]
    }

    /// # Shapes
    /// - input and output: `[n, t, d]`, or `[N, 1, d]` where the padding is left out
    ///
    /// The pass carries the layer's own noise.
    pub fn forward(&self, x: Tensor<B, 3>, pass: &Pass<'_, B>) -> Tensor<B, 3> {
        match self.settings.pre_norm {
            true => self.pre_norm(x, pass),
            false => self.post_norm(x, pass),
        }
    }

    fn post_norm(&self, x: Tensor<B, 3>, pass: &Pass<'_, B>) -> Tensor<B, 3> {
        let (p, factors) = (self.settings.hidden_dropout, pass.factors);
        let attended = self.attended(x.clone(), pass);
        let x = match &self.attention_norm {
            Some(norm) => norm.forward_sum(attended, x),
            None => attended + x,
        };
        let inner = self.mlp(x.clone(), factors);
        let inner = factors.drop(inner, p, "output");
        self.output_norm.forward_sum(inner, x)
    }

    fn pre_norm(&self, x: Tensor<B, 3>, pass: &Pass<'_, B>) -> Tensor<B, 3> {
        let normal = self.attention_normal(x.clone());
        let x = x + self.attended(normal, pass);
        let inner = self.mlp(self.output_norm.forward(x.clone()), pass.factors);
        x + inner
    }

    /// The attention with its output map and dropout, before the residual sum.
    fn attended(&self, x: Tensor<B, 3>, pass: &Pass<'_, B>) -> Tensor<B, 3> {
        let factors = pass.factors;
        let attended = self.attention_output.forward(self.attend(x, pass), factors);
        factors.drop(attended, self.settings.attended_dropout, "attention.output")
    }

    fn attention_normal(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        match &self.attention_norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    fn mlp(&self, x: Tensor<B, 3>, factors: &Factors<B>) -> Tensor<B, 3> {
        let inner = self.intermediate.forward(x, factors);
        if self.settings.gated {
            return self.output.forward(self.units(inner, factors), factors);
        }
        match self.settings.activation {
            Activation::Gelu => self.output.forward_gelu(inner, GeluForm::Erf, factors),
            Activation::GeluTanh => self.output.forward_gelu(inner, GeluForm::Tanh, factors),
            Activation::Relu => self.output.forward(activation::relu(inner), factors),
        }
    }

    /// The gated units of the values and the gate that lie side by side.
    fn units(&self, both: Tensor<B, 3>, factors: &Factors<B>) -> Tensor<B, 3> {
        let units = match self.settings.activation {
            Activation::Gelu => gated_halves(both, GeluForm::Erf),
            Activation::GeluTanh => gated_halves(both, GeluForm::Tanh),
            Activation::Relu => {
                let width = both.dims()[2] / 2;
                let [values, gate] = [0, width].map(|start| both.clone().narrow(2, start, width));
                activation::relu(values) * gate
            }
        };
        factors.drop(units, self.settings.hidden_dropout, "mlp")
    }

    /// Softmax attention of every head, without the output map.
    fn attend(&self, x: Tensor<B, 3>, pass: &Pass<'_, B>) -> Tensor<B, 3> {
        if let (Some(key), Some(value)) = (&self.key, &self.value) {
            let maps = [&self.query, key, value];
            if let Some(attended) = self.settings.attention.of_maps(&x, maps, pass) {
                return attended;
            }
        }
        let (Some(key), Some(value)) = (&self.key, &self.value) else {
            let all = self.query.forward(x, pass.factors);
            return self.settings.attention.joined(all, pass);
        };
        let qkv = [&self.query, key, value].map(|map| map.forward(x.clone(), pass.factors));
        let relative = pass.relative.as_ref().map(|table| {
            let rows = |map: &FrozenLinear<B>| map.forward(table.rows.clone(), &table.factors);
            [rows(&self.query), rows(key)]
        });
        self.settings.attention.forward(qkv, relative, pass)
    }
}

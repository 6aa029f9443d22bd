//! The block of every decoder: attention and an MLP, each with norms before or after it, added to its input.

use burn::{
    module::Module,
    tensor::{Tensor, activation, backend::Backend},
};
use vblora::{
    Factors, FrozenLinear, FrozenWeight, JoinedMaps, StepMaps, backend::VbLoraBackend,
    noise::dropout, ops,
};

use super::{
    attention::Attention, input::Places, kv_cache::LayerCache, maps::MapBuilder, sites::BlockMaps,
};
use crate::{
    Activation, DecoderConfig, Result,
    config::Mlp,
    parts::{Builder, FrozenNorm},
    source::WeightSource,
};

/// One block. Norms that a family does not have are `None`.
#[derive(Module, Debug)]
pub struct DecoderLayer<B: Backend> {
    /// The normalisation of what the attention reads.
    pub attention_norm: Option<FrozenNorm<B>>,
    /// Queries, keys, values and the map after them.
    pub attention: Attention<B>,
    /// The normalisation of what the attention adds.
    pub attention_post_norm: Option<FrozenNorm<B>>,
    /// The normalisation of what the MLP reads.
    pub mlp_norm: Option<FrozenNorm<B>>,
    /// Gate and up, one map for both, or the one map of a plain MLP.
    pub mlp_input: Vec<FrozenLinear<B>>,
    /// The last map of the MLP.
    pub mlp_output: FrozenLinear<B>,
    /// The normalisation of what the MLP adds.
    pub mlp_post_norm: Option<FrozenNorm<B>>,
    #[module(skip)]
    settings: Settings,
}

/// The settings of a layer.
#[derive(Debug, Clone, Copy)]
struct Settings {
    mlp: Mlp,
    residual_scale: f64,
    residual_dropout: f64,
    /// The keys of the dropouts: the names of the maps before them.
    places: [&'static str; 2],
}

impl<B: VbLoraBackend> DecoderLayer<B> {
    pub(super) fn build<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        config: &DecoderConfig,
        index: usize,
    ) -> Result<Self> {
        let layout = config.layout;
        let mut norm = |name: Option<&str>| {
            let built = name.map(|name| {
                let name = layout.in_block(index, name);
                FrozenNorm::build(
                    builder,
                    &name,
                    config.norm,
                    config.hidden_size,
                    config.norm_eps,
                )
            });
            built.transpose()
        };
        let norms = [
            norm(layout.attention_norm),
            norm(layout.attention_post_norm),
            norm(layout.mlp_norm),
            norm(layout.mlp_post_norm),
        ];
        let maps = BlockMaps::new(config);
        let attention = Attention::build(builder, config, &maps, index);
        let mut builder = MapBuilder::new(builder, config, index);
        // Every tensor is asked for, even after a failure, so that the source can report all that is wrong with it.
        let mlp_input: Vec<_> = maps.mlp_input.iter().map(|map| builder.map(map)).collect();
        let mlp_output = builder.map(&maps.mlp_output);
        let [attention_norm, attention_post_norm, mlp_norm, mlp_post_norm] = norms;
        Ok(Self {
            attention_norm: attention_norm?,
            attention: attention?,
            attention_post_norm: attention_post_norm?,
            mlp_norm: mlp_norm?,
            mlp_input: mlp_input.into_iter().collect::<Result<_>>()?,
            mlp_output: mlp_output?,
            mlp_post_norm: mlp_post_norm?,
            settings: Settings {
                mlp: config.mlp,
                residual_scale: config.residual_scale,
                residual_dropout: config.residual_dropout,
                places: [layout.attention_output, layout.mlp_output],
            },
        })
    }

    /// The linear maps, in the order of a forward pass.
    pub(super) fn linears(&self) -> Vec<&FrozenLinear<B>> {
        let attention = self.attention.qkv.iter().chain([&self.attention.output]);
        let mlp = self.mlp_input.iter().chain([&self.mlp_output]);
        attention.chain(mlp).collect()
    }

    /// [`linears`](Self::linears), to change.
    pub(super) fn linears_mut(&mut self) -> impl Iterator<Item = &mut FrozenLinear<B>> {
        let attention = self.attention.qkv.iter_mut();
        let attention = attention.chain([&mut self.attention.output]);
        let mlp = self.mlp_input.iter_mut().chain([&mut self.mlp_output]);
        attention.chain(mlp)
    }

    pub(super) fn merged(&self, factors: &Factors<B>) -> Self {
        let mut layer = self.clone();
        for linear in layer.linears_mut() {
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
        mut cache: Option<&mut LayerCache<B>>,
        factors: &Factors<B>,
    ) -> Tensor<B, 3> {
        if let Some(cache) = cache.as_deref_mut()
            && let Some(x) = self.step(&x, places, cache, factors)
        {
            return x;
        }
        self.fed(self.attended(x, places, cache, factors), factors)
    }

    /// The first half of the block: attention, added to its input.
    ///
    /// # Shapes
    /// - input and output: `[n, t, d]`
    pub(super) fn attended(
        &self,
        x: Tensor<B, 3>,
        places: &Places<B>,
        cache: Option<&mut LayerCache<B>>,
        factors: &Factors<B>,
    ) -> Tensor<B, 3> {
        let normal = normalised(&self.attention_norm, x.clone());
        let attended = self.attention.forward(normal, places, cache, factors);
        let attended = normalised(&self.attention_post_norm, attended);
        self.add(x, attended, self.settings.places[0], factors)
    }

    /// The second half of the block: the MLP, added to its input.
    ///
    /// # Shapes
    /// - input and output: `[n, t, d]`
    pub(super) fn fed(&self, x: Tensor<B, 3>, factors: &Factors<B>) -> Tensor<B, 3> {
        let normal = normalised(&self.mlp_norm, x.clone());
        let inner = normalised(&self.mlp_post_norm, self.mlp(normal, factors));
        self.add(x, inner, self.settings.places[1], factors)
    }

    /// The values between the maps of the MLP, for each token.
    pub(super) fn inner_width(&self) -> usize {
        self.mlp_output.weight.dims()[0]
    }

    /// True if the second half of the block is a function of each token alone. Dropout depends on a token's place in the batch.
    pub(super) fn feeds_each_token_alone(&self, factors: &Factors<B>) -> bool {
        let drops = factors.noise().is_some() && self.settings.residual_dropout > 0.0;
        !drops && !factors.drops() && !factors.is_multi_adapter()
    }

    /// [`forward`](Self::forward) of one token a row by coarse operations, which a GPU takes few launches for. `None`, and nothing is
    /// changed, where the backend or the layer has none.
    fn step(
        &self,
        x: &Tensor<B, 3>,
        places: &Places<B>,
        cache: &mut LayerCache<B>,
        factors: &Factors<B>,
    ) -> Option<Tensor<B, 3>> {
        let [n, t, d] = x.dims();
        let is_dense = |map: &&FrozenLinear<B>| matches!(map.weight, FrozenWeight::Dense(_));
        let takes_steps = t == 1
            && B::takes_steps(n)
            && factors.noise().is_none()
            && self.attention.takes_steps()
            && self.linears().iter().all(is_dense);
        if !takes_steps {
            return None;
        }
        let before = |norm: &Option<FrozenNorm<B>>| norm.as_ref().map(FrozenNorm::of_step);
        let x = x.clone().reshape([n, d]);
        let norm = before(&self.attention_norm);
        let attended = self.attention.step(x.clone(), norm, places, cache, factors);
        let x = self.step_sum(
            &self.attention.output,
            attended,
            x,
            &self.attention_post_norm,
            factors,
        );
        let norm = before(&self.mlp_norm);
        let inner = self.step_mlp(x.clone(), norm, factors);
        let x = self.step_sum(&self.mlp_output, inner, x, &self.mlp_post_norm, factors);
        Some(x.reshape([n, t, d]))
    }

    /// The map of `inner`, normalised if there is a norm for it, added to x.
    fn step_sum(
        &self,
        map: &FrozenLinear<B>,
        inner: Tensor<B, 2>,
        x: Tensor<B, 2>,
        post_norm: &Option<FrozenNorm<B>>,
        factors: &Factors<B>,
    ) -> Tensor<B, 2> {
        let scale = self.settings.residual_scale;
        let [n, _] = x.dims();
        let map = StepMaps::new([map], None, factors, n);
        match post_norm {
            None => map.added(inner, x, scale),
            Some(norm) => {
                let y = norm.forward(map.joined(inner));
                if scale == 1.0 {
                    x + y
                } else {
                    x + y.mul_scalar(scale)
                }
            }
        }
    }

    /// What the last map of the MLP reads.
    fn step_mlp(
        &self,
        x: Tensor<B, 2>,
        norm: Option<ops::StepNorm<Tensor<B, 1>>>,
        factors: &Factors<B>,
    ) -> Tensor<B, 2> {
        let [n, _] = x.dims();
        let maps = StepMaps::new(&self.mlp_input, norm, factors, n);
        match self.settings.mlp {
            Mlp::Plain(Activation::Gelu) => maps.gelu(x, ops::GeluForm::Erf),
            Mlp::Plain(Activation::GeluTanh) => maps.gelu(x, ops::GeluForm::Tanh),
            Mlp::Plain(Activation::Relu) => activation::relu(maps.joined(x)),
            Mlp::Gated(form) if self.mlp_input.len() == 2 => maps.gated(x, form),
            Mlp::Gated(form) => {
                let both = maps.joined(x);
                let width = both.dims()[1] / 2;
                let [gate, up] = [0, width].map(|start| both.clone().narrow(1, start, width));
                ops::gated(gate, up, form)
            }
        }
    }

    fn add(
        &self,
        x: Tensor<B, 3>,
        y: Tensor<B, 3>,
        place: &str,
        factors: &Factors<B>,
    ) -> Tensor<B, 3> {
        let y = dropout(y, self.settings.residual_dropout, factors.noise(), place);
        match self.settings.residual_scale {
            1.0 => x + y,
            scale => x + y.mul_scalar(scale),
        }
    }

    fn mlp(&self, x: Tensor<B, 3>, factors: &Factors<B>) -> Tensor<B, 3> {
        match self.settings.mlp {
            Mlp::Plain(activation) => {
                let inner = self.mlp_input[0].forward(x, factors);
                activated(&self.mlp_output, inner, activation, factors)
            }
            Mlp::Gated(form) => {
                if let [gate, up] = self.mlp_input.as_slice()
                    && let Some(maps) = JoinedMaps::new([gate, up], factors)
                {
                    return self.mlp_output.forward(maps.gated(x, form), factors);
                }
                let [gate, up] = self.gate_and_up(x, factors);
                self.mlp_output.forward(ops::gated(gate, up, form), factors)
            }
        }
    }

    fn gate_and_up(&self, x: Tensor<B, 3>, factors: &Factors<B>) -> [Tensor<B, 3>; 2] {
        match self.mlp_input.as_slice() {
            [fused] => {
                let both = fused.forward(x, factors);
                let width = both.dims()[2] / 2;
                [0, width].map(|start| both.clone().narrow(2, start, width))
            }
            maps => std::array::from_fn(|i| maps[i].forward(x.clone(), factors)),
        }
    }
}

/// The map of the function of `inner`.
fn activated<B: VbLoraBackend>(
    map: &FrozenLinear<B>,
    inner: Tensor<B, 3>,
    activation: Activation,
    factors: &Factors<B>,
) -> Tensor<B, 3> {
    match activation {
        Activation::Gelu => map.forward_gelu(inner, ops::GeluForm::Erf, factors),
        Activation::GeluTanh => map.forward_gelu(inner, ops::GeluForm::Tanh, factors),
        Activation::Relu => map.forward(activation::relu(inner), factors),
    }
}

fn normalised<B: VbLoraBackend>(norm: &Option<FrozenNorm<B>>, x: Tensor<B, 3>) -> Tensor<B, 3> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}

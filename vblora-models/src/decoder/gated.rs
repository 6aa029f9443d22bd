//! The block of Llama, Mistral and Gemma: attention with rotary positions and a gated MLP, each behind a normalisation and added to
//! its input.

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use vblora::{
    Factors, FrozenLinear,
    backend::{CausalSettings, VbLoraBackend},
    ops::{self, Gate},
};

use super::{input::Places, kv_cache::LayerCache, sites::layer_sites};
use crate::{
    DecoderConfig, DecoderFamily, Result,
    parts::{Builder, FrozenRmsNorm},
    source::WeightSource,
};

/// A pre-norm block with seven sites.
#[derive(Module, Debug)]
pub struct GatedLayer<B: Backend> {
    /// `input_layernorm`
    pub input_norm: FrozenRmsNorm<B>,
    /// `self_attn.q_proj`
    pub query: FrozenLinear<B>,
    /// `self_attn.k_proj`
    pub key: FrozenLinear<B>,
    /// `self_attn.v_proj`
    pub value: FrozenLinear<B>,
    /// `self_attn.o_proj`
    pub output: FrozenLinear<B>,
    /// `post_attention_layernorm`
    pub mlp_norm: FrozenRmsNorm<B>,
    /// `mlp.gate_proj`
    pub gate: FrozenLinear<B>,
    /// `mlp.up_proj`
    pub up: FrozenLinear<B>,
    /// `mlp.down_proj`
    pub down: FrozenLinear<B>,
    #[module(skip)]
    settings: Settings,
}

/// What a layer takes from the configuration.
#[derive(Debug, Clone, Copy)]
struct Settings {
    heads: usize,
    kv_heads: usize,
    window: Option<usize>,
    attention_dropout: f64,
    gate: Gate,
}

impl<B: VbLoraBackend> GatedLayer<B> {
    pub(super) fn build<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        config: &DecoderConfig,
        index: usize,
    ) -> Result<Self> {
        let (d, eps) = (config.hidden_size, config.norm_eps);
        let offset = match config.family {
            DecoderFamily::Gemma => 1.0,
            _ => 0.0,
        };
        let norm = |builder: &mut Builder<'_, B, S>, name: &str| {
            let name = format!("layers.{index}.{name}");
            FrozenRmsNorm::build(builder, &name, d, eps, offset)
        };
        let input_norm = norm(builder, "input_layernorm")?;
        let mlp_norm = norm(builder, "post_attention_layernorm")?;
        let sites = layer_sites(config, index);
        let mut maps = sites.iter().map(|site| {
            let stored = site.name.strip_prefix("model.").unwrap_or(&site.name);
            let has_bias = config.has_bias(site.role());
            builder.linear_named(&site.name, stored, [site.d_in, site.d_out], has_bias)
        });
        let mut next = || maps.next().expect("seven maps a layer");
        // Every tensor is asked for, even after a failure, so that the source can report all that is wrong with it.
        let [query, key, value, output, gate, up, down] = std::array::from_fn(|_| next());
        Ok(Self {
            input_norm,
            query: query?,
            key: key?,
            value: value?,
            output: output?,
            mlp_norm,
            gate: gate?,
            up: up?,
            down: down?,
            settings: Settings {
                heads: config.num_heads,
                kv_heads: config.num_kv_heads,
                window: config.window,
                attention_dropout: config.attention_dropout,
                gate: config.gate,
            },
        })
    }

    pub(super) fn linears(&self) -> Vec<&FrozenLinear<B>> {
        vec![
            &self.query,
            &self.key,
            &self.value,
            &self.output,
            &self.gate,
            &self.up,
            &self.down,
        ]
    }

    pub(super) fn merged(&self, factors: &Factors<B>) -> Self {
        let mut layer = self.clone();
        for linear in [
            &mut layer.query,
            &mut layer.key,
            &mut layer.value,
            &mut layer.output,
            &mut layer.gate,
            &mut layer.up,
            &mut layer.down,
        ] {
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
        let normal = self.input_norm.forward(x.clone());
        let attended = self.attend(normal, places, cache, factors);
        let x = x + self.output.forward(attended, factors);
        let normal = self.mlp_norm.forward(x.clone());
        let gate = self.gate.forward(normal.clone(), factors);
        let up = self.up.forward(normal, factors);
        let inner = ops::gated(gate, up, self.settings.gate);
        x + self.down.forward(inner, factors)
    }

    fn attend(
        &self,
        x: Tensor<B, 3>,
        places: &Places<B>,
        cache: Option<&mut LayerCache<B>>,
        factors: &Factors<B>,
    ) -> Tensor<B, 3> {
        let [q, k, v] =
            [&self.query, &self.key, &self.value].map(|map| map.forward(x.clone(), factors));
        let [q, k] = [q, k].map(|x| match places.angles.clone() {
            Some([cos, sin]) => ops::rotate(x, cos, sin),
            None => x,
        });
        let settings = CausalSettings {
            heads: self.settings.heads,
            kv_heads: self.settings.kv_heads,
            offset: places.offset,
            window: self.settings.window,
            dropout: None,
        };
        let p = self.settings.attention_dropout;
        super::attend([q, k, v], places, cache, settings, (p, factors.noise()))
    }
}

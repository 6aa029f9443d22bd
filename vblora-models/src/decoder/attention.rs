//! Causal attention with its maps: norms of queries and keys, rotary positions, windows.

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use vblora::{
    Factors, FrozenLinear, JoinedMaps, StepMaps,
    backend::{CausalSettings, VbLoraBackend},
    ops::{self, StepNorm},
};

use super::{
    input::Places,
    kv_cache::LayerCache,
    maps::MapBuilder,
    sites::{BlockMaps, qkv_widths},
};
use crate::{
    DecoderConfig, Result,
    config::QK_NORMS,
    parts::{Angles, Builder, FrozenRmsNorm},
    source::WeightSource,
};

/// The attention of one block.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    /// Query, key and value: three maps, or one for all.
    pub qkv: Vec<FrozenLinear<B>>,
    /// The norms of queries and keys, in families that have them. They are as wide as a head or as all heads.
    pub qk_norms: Option<[FrozenRmsNorm<B>; 2]>,
    /// The map after the attention.
    pub output: FrozenLinear<B>,
    #[module(skip)]
    settings: Settings,
}

/// The settings of a layer's attention.
#[derive(Debug, Clone, Copy)]
struct Settings {
    heads: usize,
    kv_heads: usize,
    /// The widths of query, key and value.
    widths: [usize; 3],
    window: Option<usize>,
    /// The place of the layer's angles in those of the input.
    rotary: Option<usize>,
    query_scale: Option<f64>,
    score_cap: Option<f64>,
    dropout: f64,
}

impl<B: VbLoraBackend> Attention<B> {
    pub(super) fn build<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        config: &DecoderConfig,
        maps: &BlockMaps,
        index: usize,
    ) -> Result<Self> {
        let qk_norms = qk_norms(builder, config, index);
        let mut builder = MapBuilder::new(builder, config, index);
        let qkv = builder.qkv(&maps.qkv);
        let output = builder.map(&maps.attention_output);
        Ok(Self {
            qkv: qkv?,
            qk_norms: qk_norms.transpose()?,
            output: output?,
            settings: Settings {
                heads: config.num_heads,
                kv_heads: config.num_kv_heads,
                widths: qkv_widths(config),
                window: config.window_of(index),
                rotary: config.rotary_of(index),
                query_scale: config.query_scale(),
                score_cap: config.score_cap,
                dropout: config.attention_dropout,
            },
        })
    }

    /// Attention over the cache, or without one over the tokens' own keys.
    ///
    /// # Shapes
    /// - input and output: `[n, t, d]`
    pub(super) fn forward(
        &self,
        x: Tensor<B, 3>,
        places: &Places<B>,
        cache: Option<&mut LayerCache<B>>,
        factors: &Factors<B>,
    ) -> Tensor<B, 3> {
        if cache.is_none()
            && let Some(attended) = self.of_maps(&x, places, factors)
        {
            return self.output.forward(attended, factors);
        }
        let [q, k, v] = self.queries_keys_values(x, factors);
        let [q, k] = self.normalised([q, k]);
        let [q, k] = match self.settings.rotary {
            Some(at) => [q, k].map(|x| rotated(x, &places.angles[at], &self.settings)),
            None => [q, k],
        };
        let q = match self.settings.query_scale {
            Some(scale) => q.mul_scalar(scale),
            None => q,
        };
        let [k, v] = match cache {
            Some(cache) => cache.append([k, v], places.offset),
            None => [k, v],
        };
        let settings = self.causal(places, factors);
        let attended = ops::causal_attention([q, k, v], places.first.clone(), settings);
        self.output.forward(attended, factors)
    }

    /// True if a step takes this attention: if nothing lies between its maps and the attention but a rotation and a factor.
    pub(super) fn takes_steps(&self) -> bool {
        self.qk_norms.is_none()
    }

    /// What the map after the attention reads, for one token a row of a cache. `norm` comes before the maps.
    ///
    /// # Shapes
    /// - x: `[n, d]`; output: `[n, heads size]`
    pub(super) fn step(
        &self,
        x: Tensor<B, 2>,
        norm: Option<StepNorm<Tensor<B, 1>>>,
        places: &Places<B>,
        cache: &mut LayerCache<B>,
        factors: &Factors<B>,
    ) -> Tensor<B, 2> {
        let [n, _] = x.dims();
        let qkv = StepMaps::new(&self.qkv, norm, factors, n).joined(x);
        let angles = self.settings.rotary.map(|at| places.angles[at].clone());
        let (first, settings) = (places.first.clone(), self.causal(places, factors));
        let scale = self.settings.query_scale.unwrap_or(1.0);
        cache.change(|cache| ops::step_attention(qkv, cache, angles, first, scale, settings))
    }

    /// Attention as one operation with its three maps. `None` where the backend has none, and where more than a rotation of whole heads lies
    /// between maps and attention.
    fn of_maps(
        &self,
        x: &Tensor<B, 3>,
        places: &Places<B>,
        factors: &Factors<B>,
    ) -> Option<Tensor<B, 3>> {
        let [query, key, value] = self.qkv.as_slice() else {
            return None;
        };
        let angles = self.settings.rotary.map(|at| places.angles[at].clone());
        let size = self.settings.widths[0] / self.settings.heads;
        let turns_heads = angles
            .as_ref()
            .is_none_or(|[cos, _]| 2 * cos.dims()[2] == size);
        let is_plain =
            self.qk_norms.is_none() && self.settings.query_scale.is_none() && places.offset == 0;
        if !is_plain || !turns_heads {
            return None;
        }
        let maps = JoinedMaps::new([query, key, value], factors)?;
        let settings = self.causal(places, factors);
        Some(maps.causal_attention(x.clone(), angles, places.first.clone(), settings))
    }

    fn queries_keys_values(&self, x: Tensor<B, 3>, factors: &Factors<B>) -> [Tensor<B, 3>; 3] {
        match self.qkv.as_slice() {
            [fused] => {
                let fused = fused.forward(x, factors);
                let [q, k, v] = self.settings.widths;
                [(0, q), (q, k), (q + k, v)]
                    .map(|(start, width)| fused.clone().narrow(2, start, width))
            }
            maps => std::array::from_fn(|i| maps[i].forward(x.clone(), factors)),
        }
    }

    fn normalised(&self, [q, k]: [Tensor<B, 3>; 2]) -> [Tensor<B, 3>; 2] {
        match &self.qk_norms {
            Some([of_q, of_k]) => [by_groups(of_q, q), by_groups(of_k, k)],
            None => [q, k],
        }
    }

    /// With dropout where there is noise.
    fn causal(&self, places: &Places<B>, factors: &Factors<B>) -> CausalSettings {
        let p = self.settings.dropout;
        let noise = factors.noise().filter(|_| p > 0.0);
        CausalSettings {
            heads: self.settings.heads,
            kv_heads: self.settings.kv_heads,
            offset: places.offset,
            window: self.settings.window,
            cap: self.settings.score_cap,
            dropout: noise.map(|noise| (noise.key("attention"), p)),
        }
    }
}

fn qk_norms<B: VbLoraBackend, S: WeightSource>(
    builder: &mut Builder<'_, B, S>,
    config: &DecoderConfig,
    index: usize,
) -> Option<Result<[FrozenRmsNorm<B>; 2]>> {
    let sizes = config.qk_norm_sizes()?;
    let mut built = QK_NORMS.iter().zip(sizes).map(|(name, size)| {
        let name = config.layout.in_block(index, name);
        FrozenRmsNorm::build(builder, &name, size, config.norm_eps, config.norm.offset())
    });
    let [of_q, of_k] = std::array::from_fn(|_| built.next().expect("one for each"));
    Some(of_q.and_then(|of_q| Ok([of_q, of_k?])))
}

/// The norm of each group of as many values as it has weights.
fn by_groups<B: VbLoraBackend>(norm: &FrozenRmsNorm<B>, x: Tensor<B, 3>) -> Tensor<B, 3> {
    let ([n, t, d], [size]) = (x.dims(), norm.gamma.dims());
    match d == size {
        true => norm.forward(x),
        false => norm
            .forward(x.reshape([n, t * (d / size), size]))
            .reshape([n, t, d]),
    }
}

/// Turns the first values of each head, as many as there are angles for.
fn rotated<B: VbLoraBackend>(
    x: Tensor<B, 3>,
    [cos, sin]: &Angles<B>,
    settings: &Settings,
) -> Tensor<B, 3> {
    let size = settings.widths[0] / settings.heads;
    let turning = 2 * cos.dims()[2];
    let rotate = |x| ops::rotate(x, cos.clone(), sin.clone());
    if turning == size {
        return rotate(x);
    }
    let [n, t, d] = x.dims();
    let heads = d / size;
    let x = x.reshape([n, t, heads, size]);
    let turned = x.clone().narrow(3, 0, turning);
    let turned = rotate(turned.reshape([n, t, heads * turning]));
    let rest = x.narrow(3, turning, size - turning);
    Tensor::cat(vec![turned.reshape([n, t, heads, turning]), rest], 3).reshape([n, t, d])
}

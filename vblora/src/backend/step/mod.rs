//! A step of decoding: one new token of each row, over a cache of keys and values.

mod autodiff;
mod default;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "gpu")]
mod gpu;
#[cfg(feature = "ndarray")]
mod ndarray;

use burn::tensor::{
    backend::Backend,
    ops::{FloatTensor, IntTensor},
};

use super::{BlockOps, CausalSettings, FrozenMap, Gate, GeluForm, NormOps, Update};

/// Operations of a block on one token a row. A GPU asks for one or two kernels for each of them, in place of some ten.
pub trait StepOps: BlockOps + NormOps {
    /// True if the backend is faster with these operations for this many rows. Their sums may be added in another order.
    fn takes_steps(_rows: usize) -> bool {
        false
    }

    /// The maps of one input, or of its normalisation, and what follows them.
    ///
    /// # Shapes
    /// - x: `[n, d_in]`; output: `[n, width]`, as the [`StepForm`] says
    ///
    /// # Panics
    /// There are fewer maps than the form needs.
    fn step_maps(
        x: FloatTensor<Self>,
        norm: Option<StepNorm<FloatTensor<Self>>>,
        maps: Vec<StepMap<Self>>,
        form: StepForm<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        default::step_maps::<Self>(x, norm, maps, form)
    }

    /// Causal attention of one token a row. Queries and keys are turned, and key and value are written to the cache at the settings' offset.
    /// The query sees the cache up to there. The cache comes back, changed in place if nothing else holds it.
    ///
    /// # Shapes
    /// - qkv: `[n, (heads + 2 kv_heads) size]`; cache: keys and values, `[n, capacity, kv_heads size]`; output: `[n, heads size]`
    fn step_attention(
        qkv: FloatTensor<Self>,
        cache: [FloatTensor<Self>; 2],
        places: StepPlaces<Self>,
        settings: CausalSettings,
    ) -> (FloatTensor<Self>, [FloatTensor<Self>; 2]) {
        default::step_attention::<Self>(qkv, cache, places, settings)
    }
}

/// A normalisation of rows with weights that get no gradient.
#[derive(Debug, Clone)]
pub struct StepNorm<T> {
    /// `[d]`
    pub gamma: T,
    /// `[d]`; of a layer normalisation alone.
    pub beta: Option<T>,
    /// True for a layer normalisation, which subtracts the mean.
    pub is_centred: bool,
    /// Added under the root.
    pub epsilon: f64,
}

/// A frozen map with the update of its site, if the site has one.
#[derive(Debug, Clone)]
pub struct StepMap<B: Backend> {
    /// The map.
    pub map: FrozenMap<B>,
    /// Its update; in a multi-adapter batch those of all adapters side by side.
    pub update: Option<Update<FloatTensor<B>>>,
    /// `[n, r]`: the scale of each narrow column in each row of a multi-adapter batch, which takes the place of the update's.
    pub scales: Option<FloatTensor<B>>,
}

/// What follows the maps of a step.
#[derive(Debug, Clone)]
pub enum StepForm<T> {
    /// Nothing: outputs lie side by side, `[n, sum of d_out]`.
    Joined,
    /// A gated unit of the first two maps, `[n, d_out]`.
    Gated(Gate),
    /// GELU of the first map, `[n, d_out]`.
    Gelu(GeluForm),
    /// The first map times a factor is added to a tensor, `[n, d_out]`.
    Added {
        /// `[n, d_out]`
        to: T,
        /// The factor.
        scale: f64,
    },
}

/// Where the tokens of a step stand.
#[derive(Debug, Clone)]
pub struct StepPlaces<B: Backend> {
    /// cos and sin, `[n, 1, turning / 2]`: the first `turning` values of each head turn.
    pub angles: Option<[FloatTensor<B>; 2]>,
    /// `[n, 1]`: the first key that each token sees; `None` if that is 0 for all.
    pub first: Option<IntTensor<B>>,
    /// The factor on scores beside `1 / sqrt(size)`.
    pub query_scale: f64,
}

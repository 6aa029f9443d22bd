//! Several maps of one input as one operation.

use burn::tensor::{Int, Tensor, TensorPrimitive, ops::FloatTensor};

use super::{FrozenLinear, update};
use crate::{
    Factors, Noise,
    backend::{
        AttentionSettings, CausalSettings, FrozenMap, Gate, SelfAttention, Updates, VbLoraBackend,
        primitive,
    },
};

/// Maps of one input with the updates of their sites, if they have any, on a backend that is faster with them as one operation.
#[derive(Debug)]
pub struct JoinedMaps<B: VbLoraBackend, const N: usize> {
    maps: [FrozenMap<B>; N],
    updates: Updates<FloatTensor<B>, N>,
}

impl<B: VbLoraBackend, const N: usize> JoinedMaps<B, N> {
    /// A map whose site has no pair is joined without an update. Returns `None` if the backend takes maps one by one, or if the pairs do more
    /// than add their update. They do more if they drop elements of their input, or belong to a multi-adapter batch.
    pub fn new(linears: [&FrozenLinear<B>; N], factors: &Factors<B>) -> Option<Self> {
        if !B::joins_maps() || factors.drops() || factors.is_multi_adapter() {
            return None;
        }
        Some(Self {
            maps: linears.map(FrozenLinear::map),
            updates: linears.map(|linear| factors.get(&linear.site).map(update)),
        })
    }
}

impl<B: VbLoraBackend> JoinedMaps<B, 3> {
    /// [`attention`](crate::ops::attention) of the maps' outputs.
    ///
    /// # Shapes
    /// - x and output: `[n, t, d]`; mask: `[n, t]`
    pub fn attention(
        self,
        x: Tensor<B, 3>,
        mask: Option<Tensor<B, 2>>,
        heads: usize,
        dropout: f64,
        noise: Option<Noise>,
        place: &str,
    ) -> Tensor<B, 3> {
        self.attend(
            x,
            SelfAttention::Whole {
                mask: mask.map(primitive),
                settings: AttentionSettings::new(heads, dropout, noise, place),
            },
        )
    }

    /// [`causal_attention`](crate::ops::causal_attention) of the maps' outputs, queries and keys turned by the angles, cos and sin. The
    /// offset is 0.
    ///
    /// # Shapes
    /// - x: `[n, t, d_in]`; angles: `[n, t, size / 2]`; first: `[n, t]`; output: `[n, t, heads size]`
    pub fn causal_attention(
        self,
        x: Tensor<B, 3>,
        angles: Option<[Tensor<B, 3>; 2]>,
        first: Option<Tensor<B, 2, Int>>,
        settings: CausalSettings,
    ) -> Tensor<B, 3> {
        self.attend(
            x,
            SelfAttention::Causal {
                angles: angles.map(|angles| angles.map(primitive)),
                first: first.map(Tensor::into_primitive),
                settings,
            },
        )
    }

    fn attend(self, x: Tensor<B, 3>, form: SelfAttention<B>) -> Tensor<B, 3> {
        let y = B::self_attention(primitive(x), self.maps, self.updates, form);
        Tensor::from_primitive(TensorPrimitive::Float(y))
    }
}

impl<B: VbLoraBackend> JoinedMaps<B, 2> {
    /// [`gated`](crate::ops::gated) of the maps' outputs, gate and up.
    ///
    /// # Shapes
    /// - x: `[.., d_in]`; output: `[.., d_out]`
    pub fn gated<const D: usize>(self, x: Tensor<B, D>, form: Gate) -> Tensor<B, D> {
        let y = B::gated_maps(primitive(x), self.maps, self.updates, form);
        Tensor::from_primitive(TensorPrimitive::Float(y))
    }
}

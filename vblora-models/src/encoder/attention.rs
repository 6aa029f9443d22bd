//! Self-attention of an encoder's layer: over whole texts, in windows with rotary positions, or with scores of relative positions.

use burn::tensor::{Int, Tensor, backend::Backend};
use vblora::{
    Factors, FrozenLinear, JoinedMaps,
    backend::{AttentionSettings, RelativeTables, RotarySettings, VbLoraBackend},
    ops,
};

use super::{
    input::{EncoderInput, Padding},
    places::RelativeRows,
};
use crate::{EncoderConfig, EncoderPositions};

/// What a layer needs beside its hidden states.
#[derive(Debug)]
pub struct Pass<'a, B: Backend> {
    pub(super) input: &'a EncoderInput<B>,
    /// The factors for hidden states as they lie, with the layer's noise.
    pub(super) factors: &'a Factors<B>,
    pub(super) relative: Option<RelativeTable<B>>,
}

/// The rows of relative positions that a batch needs, before they go through a layer's maps.
#[derive(Debug)]
pub(super) struct RelativeTable<B: Backend> {
    /// `[1, u, d]`, or `[n, u, d]` where rows have adapters of their own.
    pub(super) rows: Tensor<B, 3>,
    /// The factors for them, with a noise of their own.
    pub(super) factors: Factors<B>,
}

/// The settings of a layer's attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attention {
    heads: usize,
    dropout: f64,
    form: Form,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    /// All tokens see one another.
    Whole,
    /// The place of the layer's angles in those of the input, and how far its tokens see.
    Rotary { angles: usize, reach: Option<usize> },
    /// Scores of content and of relative positions.
    Relative,
}

/// The key of the dropout of attention weights.
const PLACE: &str = "attention.self";

impl<'a, B: Backend> Pass<'a, B> {
    /// A pass over a batch. `factors` lie as its hidden states do, and carry the layer's noise.
    pub fn new(input: &'a EncoderInput<B>, factors: &'a Factors<B>) -> Self {
        Self {
            input,
            factors,
            relative: None,
        }
    }
}

impl Attention {
    pub(super) fn new(config: &EncoderConfig, index: usize) -> Self {
        Self {
            heads: config.num_heads,
            dropout: config.attention_dropout,
            form: match &config.positions {
                EncoderPositions::Learned => Form::Whole,
                EncoderPositions::Rotary(rotary) => {
                    let is_local = rotary.local.has(index);
                    Form::Rotary {
                        angles: usize::from(is_local),
                        reach: is_local.then_some(rotary.reach),
                    }
                }
                EncoderPositions::Relative(_) => Form::Relative,
            },
        }
    }

    /// `relative` holds the rows of relative positions through the maps of query and key.
    ///
    /// # Shapes
    /// - q, k, v and output: as the input lies, `[n, t, d]` or `[N, 1, d]`; relative: as [`RelativeTable::rows`]
    pub(super) fn forward<B: VbLoraBackend>(
        self,
        qkv: [Tensor<B, 3>; 3],
        relative: Option<[Tensor<B, 3>; 2]>,
        pass: &Pass<'_, B>,
    ) -> Tensor<B, 3> {
        match (self.form, relative) {
            (Form::Relative, Some(relative)) => self.disentangled(qkv, relative, pass),
            (Form::Rotary { .. }, _) => self.joined(Tensor::cat(qkv.into(), 2), pass),
            (Form::Relative | Form::Whole, _) => self.whole(qkv, pass),
        }
    }

    /// [`forward`](Self::forward) of queries, keys and values that lie side by side.
    ///
    /// # Shapes
    /// - qkv: as the input lies, `[n, t, 3 d]` or `[N, 1, 3 d]`
    pub(super) fn joined<B: VbLoraBackend>(
        self,
        qkv: Tensor<B, 3>,
        pass: &Pass<'_, B>,
    ) -> Tensor<B, 3> {
        let Form::Rotary { angles, reach } = self.form else {
            let d = qkv.dims()[2] / 3;
            let parts = [0, 1, 2].map(|part| qkv.clone().narrow(2, part * d, d));
            return self.forward(parts, None, pass);
        };
        let settings = RotarySettings {
            attention: self.settings(pass),
            reach,
        };
        let angles = pass.input.places.angles[angles].clone();
        ops::rotary_attention(qkv, angles, &pass.input.padding.texts(), settings)
    }

    fn settings<B: Backend>(self, pass: &Pass<'_, B>) -> AttentionSettings {
        AttentionSettings::new(self.heads, self.dropout, pass.factors.noise(), PLACE)
    }

    /// Attention of query, key and value as one operation with their maps. `None` where the backend or the attention has none.
    ///
    /// # Shapes
    /// - x and output: `[n, t, d]`
    pub(super) fn of_maps<B: VbLoraBackend>(
        self,
        x: &Tensor<B, 3>,
        maps: [&FrozenLinear<B>; 3],
        pass: &Pass<'_, B>,
    ) -> Option<Tensor<B, 3>> {
        let mask = match (self.form, &pass.input.padding) {
            (Form::Whole, Padding::Masked(mask)) => Some(mask.clone()),
            (Form::Whole, Padding::None) => None,
            _ => return None,
        };
        let maps = JoinedMaps::new(maps, pass.factors)?;
        let noise = pass.factors.noise();
        Some(maps.attention(x.clone(), mask, self.heads, self.dropout, noise, PLACE))
    }

    fn whole<B: VbLoraBackend>(self, qkv: [Tensor<B, 3>; 3], pass: &Pass<'_, B>) -> Tensor<B, 3> {
        let Self {
            heads, dropout: p, ..
        } = self;
        let noise = pass.factors.noise();
        let mask = match &pass.input.padding {
            Padding::LeftOut(unpadded) => {
                let qkv = qkv.map(|x| x.squeeze_dim::<2>(1));
                let all = ops::unpadded_attention(qkv, unpadded, heads, p, noise, PLACE);
                return all.unsqueeze_dim(1);
            }
            Padding::Masked(mask) => Some(mask.clone()),
            Padding::None => None,
        };
        ops::attention(qkv, mask, heads, p, noise, PLACE)
    }

    /// Scores of content with content, of content with position and of position with content (arXiv 2006.03654).
    fn disentangled<B: VbLoraBackend>(
        self,
        qkv: [Tensor<B, 3>; 3],
        [of_query, of_key]: [Tensor<B, 3>; 2],
        pass: &Pass<'_, B>,
    ) -> Tensor<B, 3> {
        let rows = pass.input.places.relative.as_ref();
        let RelativeRows {
            ascending,
            descending,
            ..
        } = rows.expect("an input of the model's own configuration");
        let by_distance = |x: Tensor<B, 3>, order: &Tensor<B, 1, Int>| x.select(1, order.clone());
        let tables = RelativeTables {
            of_query: by_distance(of_query, ascending),
            of_key: by_distance(of_key, descending),
        };
        let texts = pass.input.padding.texts();
        ops::disentangled_attention(qkv, tables, &texts, self.settings(pass))
    }
}

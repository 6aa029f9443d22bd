//! Self-attention of an encoder's layer: over whole texts, in windows with rotary positions, or with scores of relative positions.

use std::ops::Range;

use burn::tensor::{Int, Tensor, backend::Backend};
use vblora::{
    Factors, FrozenLinear, JoinedMaps,
    backend::VbLoraBackend,
    noise::dropout,
    ops::{self, matmul, softmax},
};

use super::{
    input::{EncoderInput, Padding},
    places::RelativeRows,
    views::{in_order, is_eager},
};
use crate::{EncoderConfig, EncoderPositions, parts::Angles};

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
    /// The place of the layer's angles in those of the input, and whether it sees a window only.
    Rotary { angles: usize, is_local: bool },
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
                        is_local,
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
        [q, k, v]: [Tensor<B, 3>; 3],
        relative: Option<[Tensor<B, 3>; 2]>,
        pass: &Pass<'_, B>,
    ) -> Tensor<B, 3> {
        match (self.form, relative) {
            (Form::Rotary { angles, is_local }, _) => {
                let angles = &pass.input.places.angles[angles];
                let qkv = [turned(q, angles), turned(k, angles), v];
                match &pass.input.places.window {
                    Some(window) if is_local => self.in_windows(qkv, window.clone(), pass),
                    _ => self.whole(qkv, pass),
                }
            }
            (Form::Relative, Some(relative)) => self.disentangled([q, k, v], relative, pass),
            (Form::Relative | Form::Whole, _) => self.whole([q, k, v], pass),
        }
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

    /// # Shapes
    /// - hidden: `[n or 1, 1, t, t]`, added to the scores
    fn in_windows<B: VbLoraBackend>(
        self,
        qkv: [Tensor<B, 3>; 3],
        hidden: Tensor<B, 4>,
        pass: &Pass<'_, B>,
    ) -> Tensor<B, 3> {
        let padding = &pass.input.padding;
        let [q, k, v] = qkv;
        let scale = 1.0 / self.size_of(&q).sqrt();
        let [q, k, v] = [q.mul_scalar(scale), k, v].map(|x| split(padding.padded(x), self.heads));
        let scores = shared_sum(matmul(q, k.swap_dims(2, 3)), hidden);
        self.weighted(scores, v, pass)
    }

    /// Scores of content with content, of content with position and of position with content (arXiv 2006.03654), over the root of three times
    /// the head's size.
    fn disentangled<B: VbLoraBackend>(
        self,
        qkv: [Tensor<B, 3>; 3],
        [of_query, of_key]: [Tensor<B, 3>; 2],
        pass: &Pass<'_, B>,
    ) -> Tensor<B, 3> {
        let padding = &pass.input.padding;
        let [q, plain, v] = qkv;
        let scale = 1.0 / (3.0 * self.size_of(&q)).sqrt();
        let [q, k] = [&q, &plain].map(|x| x.clone().mul_scalar(scale));
        let [q, k, plain, v] = [q, k, plain, v].map(|x| split(padding.padded(x), self.heads));
        let rows = pass.input.places.relative.as_ref();
        let RelativeRows {
            ascending,
            descending,
            ..
        } = rows.expect("an input of the model's own configuration");
        let by_distance = |x: Tensor<B, 3>, order: &Tensor<B, 1, Int>| {
            split(x.select(1, order.clone()), self.heads)
        };
        let content_to_position = shifted(scores(&q, by_distance(of_key, descending)));
        let position_to_content = shifted(scores(&k, by_distance(of_query, ascending)));
        // The content's factor is scaled once.
        let content = matmul(q, plain.swap_dims(2, 3));
        let mut all = content + in_order(content_to_position);
        all = all + in_order(position_to_content.swap_dims(2, 3));
        if let Some(mask) = &pass.input.places.keys {
            all = all + mask.clone();
        }
        self.weighted(all, v, pass)
    }

    /// The size of a head of hidden states.
    fn size_of<B: Backend>(self, x: &Tensor<B, 3>) -> f64 {
        (x.dims()[2] / self.heads) as f64
    }

    /// # Shapes
    /// - scores: `[n, heads, t, t]`; v: `[n, heads, t, size]`; output: as the input lies
    fn weighted<B: VbLoraBackend>(
        self,
        scores: Tensor<B, 4>,
        v: Tensor<B, 4>,
        pass: &Pass<'_, B>,
    ) -> Tensor<B, 3> {
        let weights = dropout(softmax(scores), self.dropout, pass.factors.noise(), PLACE);
        let all = matmul(weights, v).swap_dims(1, 2);
        let [n, t, heads, size] = all.dims();
        pass.input
            .padding
            .left_out(all.reshape([n, t, heads * size]))
    }
}

fn turned<B: VbLoraBackend>(x: Tensor<B, 3>, [cos, sin]: &Angles<B>) -> Tensor<B, 3> {
    ops::rotate(x, cos.clone(), sin.clone())
}

/// `[n, t, heads size] -> [n, heads, t, size]`
fn split<B: Backend>(x: Tensor<B, 3>, heads: usize) -> Tensor<B, 4> {
    let [n, t, d] = x.dims();
    if heads == 1 {
        // CubeCL's tuned products misread the strides of a swapped dimension of one.
        return x.reshape([n, 1, t, d]);
    }
    x.reshape([n, t, heads, d / heads]).swap_dims(1, 2)
}

/// The products of tokens with the rows of relative positions, which all texts share or each has its own.
///
/// # Shapes
/// - x: `[n, heads, t, size]`; rows: `[1 or n, heads, w, size]`; output: `[n, heads, t, w]`
fn scores<B: VbLoraBackend>(x: &Tensor<B, 4>, rows: Tensor<B, 4>) -> Tensor<B, 4> {
    let ([n, heads, t, size], [of, _, w, _]) = (x.dims(), rows.dims());
    let rows = rows.swap_dims(2, 3);
    if of == n {
        return matmul(x.clone(), rows);
    }
    if is_eager::<B>() {
        // A product for each head and text reads its operands where they are, and its result lies in order.
        return matmul(x.clone(), rows.expand([n, heads, size, w]));
    }
    // One product for each head, of all texts together.
    let x = x.clone().swap_dims(0, 1).reshape([heads, n * t, size]);
    let all = matmul(x, rows.reshape([heads, size, w]));
    all.reshape([heads, n, t, w]).swap_dims(0, 1)
}

/// Adds to the scores what all heads share, and all texts if there is one for all.
///
/// # Shapes
/// - scores: `[n, heads, t, t]`; shared: `[n or 1, 1, t, t]`
fn shared_sum<B: Backend>(scores: Tensor<B, 4>, shared: Tensor<B, 4>) -> Tensor<B, 4> {
    let [n, heads, t, u] = scores.dims();
    match shared.dims()[0] {
        // As rows, which every backend adds fast.
        1 => {
            let rows = scores.reshape([n * heads, t * u]) + shared.reshape([1, t * u]);
            rows.reshape([n, heads, t, u])
        }
        _ => scores + shared,
    }
}

/// Picks for token i and token j the column `j - i + t - 1`, by moving each row one place further than the row before.
///
/// # Shapes
/// - x: `[n, heads, t, 2 t - 1]`; output: `[n, heads, t, t]`
fn shifted<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 4> {
    let [n, heads, t, w] = x.dims();
    if t == 1 {
        return x;
    }
    let kept: Range<usize> = t - 1..t - 1 + t * (w - 1);
    let rows = x.reshape([n * heads, t * w]).slice([0..n * heads, kept]);
    rows.reshape([n, heads, t, w - 1]).narrow(3, 0, t)
}

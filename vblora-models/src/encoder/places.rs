//! Where the tokens of a batch stand, for the families whose layers need it.

use std::ops::Range;

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};
use vblora::Unpadded;

use crate::{
    EncoderConfig, EncoderPositions, PaddedBatch, Pooling, RelativeBuckets, RotaryConfig,
    RotaryLayers,
    parts::{Angles, Rotary},
};

/// Facts about the tokens of a batch. Families with learned positions need none.
#[derive(Debug, Clone)]
pub(super) struct Places<B: Backend> {
    /// The angles of global and of local layers, as the batch lies; none without rotary positions.
    pub(super) angles: Vec<Angles<B>>,
    pub(super) relative: Option<RelativeRows<B>>,
    /// `[n, t, 1]`: the share of each token in the mean that a head reads.
    pub(super) mean: Option<Tensor<B, 3>>,
}

/// The rows of the table of relative positions that a batch needs, and the row of each distance.
#[derive(Debug, Clone)]
pub(super) struct RelativeRows<B: Backend> {
    /// Rows of the table.
    pub(super) rows: Range<usize>,
    /// `[2 t - 1]`: of these rows, those of the distances `1 - t` to `t - 1`.
    pub(super) ascending: Tensor<B, 1, Int>,
    /// The reverse.
    pub(super) descending: Tensor<B, 1, Int>,
}

impl<B: Backend> Places<B> {
    pub(super) fn new(
        batch: &PaddedBatch,
        config: &EncoderConfig,
        unpadded: Option<&Unpadded>,
        device: &B::Device,
    ) -> Self {
        let mean = (config.pooling == Pooling::Mean).then(|| shares(batch, device));
        let none = Self {
            angles: Vec::new(),
            relative: None,
            mean,
        };
        match &config.positions {
            EncoderPositions::Learned => none,
            EncoderPositions::Rotary(rotary) => Self {
                angles: angles(batch, config, rotary, unpadded, device),
                ..none
            },
            EncoderPositions::Relative(buckets) => Self {
                relative: Some(RelativeRows::new(*buckets, batch.columns, device)),
                ..none
            },
        }
    }
}

fn angles<B: Backend>(
    batch: &PaddedBatch,
    config: &EncoderConfig,
    rotary: &RotaryLayers,
    unpadded: Option<&Unpadded>,
    device: &B::Device,
) -> Vec<Angles<B>> {
    let columns = batch.columns.max(1);
    let (places, [rows, t]): (Vec<i64>, _) = match unpadded {
        Some(unpadded) => (
            unpadded
                .places()
                .map(|place| (place % columns) as i64)
                .collect(),
            [unpadded.tokens(), 1],
        ),
        None => (
            (0..batch.rows)
                .flat_map(|_| 0..batch.columns as i64)
                .collect(),
            [batch.rows, batch.columns],
        ),
    };
    let size = config.hidden_size / config.num_heads;
    let lengths = vec![columns; rows];
    let angles = |theta| {
        let rotary = Rotary::new(size, &RotaryConfig::plain(theta));
        rotary.angles(&places, &lengths, t, device)
    };
    rotary.thetas().map(angles).into()
}

fn shares<B: Backend>(batch: &PaddedBatch, device: &B::Device) -> Tensor<B, 3> {
    let rows = batch.mask.chunks(batch.columns.max(1));
    let shares = rows.flat_map(|row| {
        let tokens = row.iter().filter(|&&m| m != 0).count().max(1);
        row.iter().map(move |&m| match m {
            0 => 0.0,
            _ => 1.0 / tokens as f32,
        })
    });
    let shares: Vec<f32> = shares.collect();
    let dims = [batch.rows, batch.columns, 1];
    Tensor::from_data(TensorData::new(shares, dims), device)
}

impl<B: Backend> RelativeRows<B> {
    fn new(buckets: RelativeBuckets, t: usize, device: &B::Device) -> Self {
        let last = t as i64 - 1;
        // Rows do not fall as distances grow.
        let rows = buckets.row(-last)..buckets.row(last) + 1;
        let of = |distance| (buckets.row(distance) - rows.start) as i32;
        let ascending: Vec<i32> = (-last..=last).map(of).collect();
        let descending: Vec<i32> = ascending.iter().rev().copied().collect();
        let ints = |values: Vec<i32>| {
            let dims = [values.len()];
            Tensor::from_data(TensorData::new(values, dims), device)
        };
        Self {
            ascending: ints(ascending),
            descending: ints(descending),
            rows,
        }
    }
}

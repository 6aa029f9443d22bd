//! A batch of token ids as the encoder takes it.

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};
use vblora::{
    Factors, MASKED, Unpadded,
    backend::{Texts, VbLoraBackend},
};

use super::places::Places;
use crate::{EncoderConfig, PaddedBatch, Positions};

/// Token, type and position ids of `n` sequences of `t` tokens, and what is known of their padding.
#[derive(Debug, Clone)]
pub struct EncoderInput<B: Backend> {
    /// `[n, t]`, or `[N, 1]` where the padding is left out.
    pub ids: Tensor<B, 2, Int>,
    /// As `ids`.
    pub type_ids: Tensor<B, 2, Int>,
    /// As `ids`.
    pub positions: Tensor<B, 2, Int>,
    /// The padding of the batch.
    pub padding: Padding<B>,
    pub(super) places: Places<B>,
    /// n
    pub(super) rows: usize,
}

/// The padding of a batch.
#[derive(Debug, Clone)]
pub enum Padding<B: Backend> {
    /// Nothing.
    None,
    /// `[n, t]`, added to attention scores: 0 for tokens, very negative for padding.
    Masked(Tensor<B, 2>),
    /// It is left out: the tokens alone lie one after the other.
    LeftOut(Unpadded),
}

impl<B: Backend> Padding<B> {
    /// The factors for hidden states that lie as the batch does.
    pub(super) fn factors(&self, factors: &Factors<B>) -> Factors<B> {
        match self {
            Self::LeftOut(unpadded) => factors.unpadded(unpadded),
            _ => factors.clone(),
        }
    }

    /// How the texts lie, for operations on them.
    pub(super) fn texts(&self) -> Texts<B> {
        match self {
            Self::None => Texts::Padded(None),
            Self::Masked(mask) => Texts::Padded(Some(mask.clone().into_primitive().tensor())),
            Self::LeftOut(unpadded) => Texts::Unpadded(unpadded.clone()),
        }
    }

    /// Hidden states with every token at its place, and zeros where padding was left out.
    ///
    /// # Shapes
    /// - x: as the batch lies; output: `[n, t, d]`
    pub(super) fn padded(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let Self::LeftOut(unpadded) = self else {
            return x;
        };
        unpadded.padded(x.squeeze_dim(1))
    }
}

impl<B: VbLoraBackend> EncoderInput<B> {
    /// Puts a padded batch on the device, without its padding where the backend prefers that: tokens' results are the same, and padding's
    /// are zeros.
    pub fn new(batch: &PaddedBatch, config: &EncoderConfig, device: &B::Device) -> Self {
        let unpadded = B::skips_padding().then(|| Self::without_padding(batch, config, device));
        let padded = || Self::with_padding(batch, config, device);
        unpadded.flatten().unwrap_or_else(padded)
    }

    /// The tokens alone, if there is padding, and nowhere but after at least one token of each row.
    pub fn without_padding(
        batch: &PaddedBatch,
        config: &EncoderConfig,
        device: &B::Device,
    ) -> Option<Self> {
        let t = batch.columns;
        let rows = batch.mask.chunks(t.max(1)).map(|row| {
            let length = row.iter().take_while(|&&m| m != 0).count();
            let is_behind = row[length..].iter().all(|&m| m == 0);
            (length > 0 && is_behind).then_some(length)
        });
        let unpadded = Unpadded::new(rows.collect::<Option<Vec<_>>>()?, t);
        if unpadded.tokens() == batch.mask.len() {
            return None;
        }
        let ints = |values: Vec<i64>| {
            let values = unpadded.places().map(|place| values[place] as i32);
            let data = TensorData::new(values.collect::<Vec<_>>(), [unpadded.tokens(), 1]);
            Tensor::<B, 2, Int>::from_data(data, device)
        };
        Some(Self {
            ids: ints(batch.ids.clone()),
            type_ids: ints(type_ids(batch, config)),
            positions: ints(positions(batch, config)),
            rows: batch.rows,
            places: Places::new(batch, config, Some(&unpadded), device),
            padding: Padding::LeftOut(unpadded),
        })
    }

    /// Puts a batch on the device as it is, padding and all.
    pub fn with_padding(batch: &PaddedBatch, config: &EncoderConfig, device: &B::Device) -> Self {
        let (n, t) = (batch.rows, batch.columns);
        let ints = |values: Vec<i64>| {
            // I32 is every backend's index type or converts to it.
            let values: Vec<i32> = values.into_iter().map(|v| v as i32).collect();
            Tensor::<B, 2, Int>::from_data(TensorData::new(values, [n, t]), device)
        };
        let mask = batch.mask.contains(&0).then(|| {
            let values: Vec<f32> = batch
                .mask
                .iter()
                .map(|&m| if m == 0 { MASKED } else { 0.0 })
                .collect();
            Tensor::from_data(TensorData::new(values, [n, t]), device)
        });
        Self {
            ids: ints(batch.ids.clone()),
            type_ids: ints(type_ids(batch, config)),
            positions: ints(positions(batch, config)),
            padding: mask.map_or(Padding::None, Padding::Masked),
            places: Places::new(batch, config, None, device),
            rows: batch.rows,
        }
    }
}

/// Models with one type take no second.
fn type_ids(batch: &PaddedBatch, config: &EncoderConfig) -> Vec<i64> {
    let last = (config.type_vocab_size as i64 - 1).max(0);
    batch.type_ids.iter().map(|&id| id.min(last)).collect()
}

/// BERT counts columns from 0. RoBERTa counts tokens that are not padding from pad id + 1 and leaves padding at pad id.
fn positions(batch: &PaddedBatch, config: &EncoderConfig) -> Vec<i64> {
    if config.family.positions() == Positions::Columns {
        return (0..batch.rows)
            .flat_map(|_| 0..batch.columns as i64)
            .collect();
    }
    // The id that positions are counted from; a model without padding counts from -1.
    let pad = match config.position_offset {
        0 => -1,
        _ => i64::from(config.pad_token_id),
    };
    let row = |ids: &[i64]| {
        let mut last = pad;
        let place = |&id: &i64| {
            if id == pad {
                return pad;
            }
            last += 1;
            last
        };
        ids.iter().map(place).collect::<Vec<_>>()
    };
    batch
        .ids
        .chunks(batch.columns.max(1))
        .flat_map(row)
        .collect()
}

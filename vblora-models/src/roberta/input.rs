//! A batch of token ids as the encoder takes it.

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};

use crate::{EncoderConfig, Family, PaddedBatch};

/// What is added to the attention scores of padding: far below every real score, and still finite in f16.
const MASKED: f32 = -1e4;

/// Token, type and position ids and the padding mask of `n` sequences of `t` tokens.
#[derive(Debug, Clone)]
pub struct EncoderInput<B: Backend> {
    /// `[n, t]`
    pub ids: Tensor<B, 2, Int>,
    /// `[n, t]`
    pub type_ids: Tensor<B, 2, Int>,
    /// `[n, t]`
    pub positions: Tensor<B, 2, Int>,
    /// `[n, t]`, added to attention scores: 0 for tokens, very negative for padding. `None` without padding.
    pub mask: Option<Tensor<B, 2>>,
}

impl<B: Backend> EncoderInput<B> {
    /// Puts a padded batch on the device.
    pub fn new(batch: &PaddedBatch, config: &EncoderConfig, device: &B::Device) -> Self {
        let (n, t) = (batch.rows, batch.columns);
        let ints = |values: Vec<i64>| {
            // I32 is every backend's index type or converts to it.
            let values: Vec<i32> = values.into_iter().map(|v| v as i32).collect();
            Tensor::<B, 2, Int>::from_data(TensorData::new(values, [n, t]), device)
        };
        let types = batch
            .type_ids
            .iter()
            .map(|&id| id.min(config.type_vocab_size as i64 - 1));
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
            type_ids: ints(types.collect()),
            positions: ints(positions(batch, config)),
            mask,
        }
    }
}

/// BERT counts columns from 0. RoBERTa counts tokens that are not padding from pad id + 1 and leaves padding at pad id.
fn positions(batch: &PaddedBatch, config: &EncoderConfig) -> Vec<i64> {
    if config.family == Family::Bert {
        return (0..batch.rows)
            .flat_map(|_| 0..batch.columns as i64)
            .collect();
    }
    let pad = i64::from(config.pad_token_id);
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

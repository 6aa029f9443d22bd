//! A batch of token ids as a decoder takes it.

use burn::tensor::{
    Int, Tensor, TensorData,
    backend::{AutodiffBackend, Backend},
};

use super::CausalBatch;
use crate::{
    DecoderConfig, Error, Result,
    parts::{Angles, Rotary},
};

/// Token ids and where they stand, of `n` sequences of `t` tokens.
#[derive(Debug, Clone)]
pub struct CausalInput<B: Backend> {
    /// `[n, t]`
    pub ids: Tensor<B, 2, Int>,
    pub(super) places: Places<B>,
}

/// Facts about the tokens that every layer needs.
#[derive(Debug, Clone)]
pub(super) struct Places<B: Backend> {
    /// `[n, t]`: position of each token in its text, where positions are looked up.
    pub(super) positions: Option<Tensor<B, 2, Int>>,
    /// The angles of each of the model's rotary settings.
    pub(super) angles: Vec<Angles<B>>,
    /// `[n, t]`: the first key that each token sees; `None` if that is 0 for all.
    pub(super) first: Option<Tensor<B, 2, Int>>,
    /// The key at which the first of these tokens stands.
    pub(super) offset: usize,
}

impl<B: Backend> CausalInput<B> {
    /// Puts a batch on the device.
    ///
    /// # Errors
    /// A token outside the vocabulary, a text with more tokens than the model has positions for.
    pub fn new(batch: &CausalBatch, config: &DecoderConfig, device: &B::Device) -> Result<Self> {
        let longest = lengths(batch).into_iter().max().unwrap_or(0);
        Self::placed(0, batch, &vec![longest; batch.rows], config, device)
    }

    /// [`new`](Self::new) for tokens that come after `offset` columns of remembered ones, which `first` counts too. Rows turn as they would
    /// alone. In `new` all turn as the longest text does, as in transformers.
    pub(super) fn after(
        offset: usize,
        batch: &CausalBatch,
        config: &DecoderConfig,
        device: &B::Device,
    ) -> Result<Self> {
        Self::placed(offset, batch, &lengths(batch), config, device)
    }

    /// A batch whose rows turn as in texts of these lengths.
    fn placed(
        offset: usize,
        batch: &CausalBatch,
        lengths: &[usize],
        config: &DecoderConfig,
        device: &B::Device,
    ) -> Result<Self> {
        check(batch, config)?;
        let dims = [batch.rows, batch.columns];
        let ints = |values: &[i64]| {
            // I32 is every backend's index type or converts to it.
            let values: Vec<i32> = values.iter().map(|&v| v as i32).collect();
            Tensor::<B, 2, Int>::from_data(TensorData::new(values, dims), device)
        };
        let learned = config.layout.positions.is_some();
        let rotaries = config.rotaries().into_iter();
        let angles = rotaries.map(|rotary| {
            let rotary = Rotary::new(config.head_size, &rotary);
            rotary.angles(&batch.positions, lengths, batch.columns, device)
        });
        Ok(Self {
            ids: ints(&batch.ids),
            places: Places {
                positions: learned.then(|| ints(&batch.positions)),
                angles: angles.collect(),
                first: batch
                    .first
                    .iter()
                    .any(|&first| first != 0)
                    .then(|| ints(&batch.first)),
                offset,
            },
        })
    }
}

/// The tokens of each row's longest text so far.
fn lengths(batch: &CausalBatch) -> Vec<usize> {
    let rows = batch.positions.chunks(batch.columns.max(1));
    let length = |row: &[i64]| row.iter().max().map_or(0, |&last| last as usize + 1);
    rows.map(length).collect()
}

fn check(batch: &CausalBatch, config: &DecoderConfig) -> Result<()> {
    let vocab_size = config.vocab_size;
    let known = |id: &i64| usize::try_from(*id).is_ok_and(|id| id < vocab_size);
    if let Some(&id) = batch.ids.iter().find(|id| !known(id)) {
        return Err(Error::NoSuchToken { id, vocab_size });
    }
    let length = lengths(batch).into_iter().max().unwrap_or(0);
    if length > config.max_positions {
        return Err(Error::TooLong {
            length,
            limit: config.max_positions,
        });
    }
    Ok(())
}

impl<B: AutodiffBackend> CausalInput<B> {
    /// The same on the inner backend.
    pub(super) fn inner(&self) -> CausalInput<B::InnerBackend> {
        let Places {
            positions,
            angles,
            first,
            offset,
        } = self.places.clone();
        CausalInput {
            ids: self.ids.clone().inner(),
            places: Places {
                positions: positions.map(Tensor::inner),
                angles: angles
                    .into_iter()
                    .map(|angles| angles.map(Tensor::inner))
                    .collect(),
                first: first.map(Tensor::inner),
                offset,
            },
        }
    }
}

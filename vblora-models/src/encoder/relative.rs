//! The table of relative positions that all layers share.

use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};
use vblora::{Factors, backend::VbLoraBackend};

use super::{attention::RelativeTable, places::RelativeRows};
use crate::{
    EncoderConfig, RelativeBuckets, Result,
    config::RELATIVE,
    parts::{Builder, FrozenLayerNorm},
    source::WeightSource,
};

/// One row for each bucket of distances, normalised. Each layer sends it through its maps of query and key, adapters included.
#[derive(Module, Debug)]
pub struct RelativePositions<B: Backend> {
    /// `[2 buckets, d]`
    pub table: Param<Tensor<B, 2>>,
    /// The normalisation of its rows.
    pub norm: FrozenLayerNorm<B>,
    #[module(skip)]
    dropout: f64,
}

impl<B: VbLoraBackend> RelativePositions<B> {
    pub(super) fn build<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        config: &EncoderConfig,
        buckets: RelativeBuckets,
    ) -> Result<Self> {
        let (d, eps) = (config.hidden_size, config.layer_norm_eps);
        let [table, norm] = RELATIVE;
        let table = builder.frozen(table, [buckets.rows(), d]);
        let norm = FrozenLayerNorm::build_with(builder, norm, d, eps, config.norm_bias);
        Ok(Self {
            table: table?,
            norm: norm?,
            dropout: config.hidden_dropout,
        })
    }

    /// The normalised rows of a batch, `[u, d]`.
    pub(super) fn rows(&self, rows: &RelativeRows<B>) -> Tensor<B, 2> {
        self.norm
            .forward(self.table.val().slice([rows.rows.clone()]))
    }

    /// The rows for one layer. `factors` are those of the padded batch of `n` rows, with the layer's noise.
    pub(super) fn for_layer(
        &self,
        rows: &Tensor<B, 2>,
        n: usize,
        factors: &Factors<B>,
    ) -> RelativeTable<B> {
        let factors = match factors.noise() {
            // The maps' own noise is that of the tokens.
            Some(noise) => factors.with_noise(noise.index(0)),
            None => factors.clone(),
        };
        let [u, d] = rows.dims();
        let rows = factors.drop(rows.clone(), self.dropout, "attention.self.relative");
        let rows = rows.reshape([1, u, d]);
        RelativeTable {
            rows: match factors.is_multi_adapter() {
                true => rows.expand([n, u, d]),
                false => rows,
            },
            factors,
        }
    }
}

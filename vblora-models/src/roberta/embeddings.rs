//! Token, position and type embeddings.

use burn::{
    module::{Module, Param},
    tensor::{ElementConversion, Int, Tensor, backend::Backend},
};
use vblora::{Factors, backend::VbLoraBackend, noise::dropout};

use super::{build::Builder, input::EncoderInput, norm::FrozenLayerNorm};
use crate::{EncoderConfig, Result, source::WeightSource, upload::upload_rows};

/// The sum of three embeddings, normalised.
#[derive(Module, Debug)]
pub struct Embeddings<B: Backend> {
    /// `[vocabulary, d]` in pieces of whole rows: one piece, but on devices that bound the size of a tensor.
    pub word: Vec<Param<Tensor<B, 2>>>,
    /// `[positions, d]`
    pub position: Param<Tensor<B, 2>>,
    /// `[types, d]`
    pub token_type: Param<Tensor<B, 2>>,
    /// The normalisation of the sum.
    pub norm: FrozenLayerNorm<B>,
    #[module(skip)]
    dropout: f64,
}

impl<B: VbLoraBackend> Embeddings<B> {
    pub(crate) fn build<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        config: &EncoderConfig,
    ) -> Result<Self> {
        let d = config.hidden_size;
        let name = "embeddings.word_embeddings.weight";
        let word = upload_rows(
            name,
            builder.source.take(name, [config.vocab_size, d]),
            builder.device,
        )?;
        Ok(Self {
            word: word
                .into_iter()
                .map(|piece| Param::from_tensor(piece).set_require_grad(false))
                .collect(),
            position: builder.frozen(
                "embeddings.position_embeddings.weight",
                [config.max_positions, d],
            )?,
            token_type: builder.frozen(
                "embeddings.token_type_embeddings.weight",
                [config.type_vocab_size, d],
            )?,
            norm: FrozenLayerNorm::build(
                builder,
                "embeddings.LayerNorm",
                d,
                config.layer_norm_eps,
            )?,
            dropout: config.hidden_dropout,
        })
    }

    /// # Shapes
    /// - output: `[n, t, d]`
    pub fn forward(&self, input: &EncoderInput<B>, factors: &Factors<B>) -> Tensor<B, 3> {
        let look_up =
            |table: &Param<Tensor<B, 2>>, ids: &Tensor<B, 2, Int>| rows(table.val(), ids.clone());
        let sum = self.words(&input.ids)
            + look_up(&self.token_type, &input.type_ids)
            + look_up(&self.position, &input.positions);
        dropout(
            self.norm.forward(sum),
            self.dropout,
            factors.noise(),
            "embeddings",
        )
    }

    fn words(&self, ids: &Tensor<B, 2, Int>) -> Tensor<B, 3> {
        let mut pieces = self.word.iter();
        let first = pieces.next().expect("a table has at least one piece").val();
        let [mut start, d] = first.dims();
        if self.word.len() == 1 {
            return rows(first, ids.clone());
        }
        // Ids outside a piece look up some row of it, which is then replaced.
        let inside = |piece: Tensor<B, 2>, ids: Tensor<B, 2, Int>| {
            let last = piece.dims()[0] as i64 - 1;
            rows(piece, ids.clamp(0.elem::<i64>(), last))
        };
        let mut found = inside(first, ids.clone());
        for piece in pieces {
            let piece = piece.val();
            let count = piece.dims()[0];
            let here = ids
                .clone()
                .greater_equal_elem(start as i64)
                .unsqueeze_dim::<3>(2);
            let [n, t] = ids.dims();
            found = found.mask_where(
                here.expand([n, t, d]),
                inside(piece, ids.clone().sub_scalar(start as i64)),
            );
            start += count;
        }
        found
    }

    /// The product with the transposed word table, piece by piece: a tied head's scores.
    ///
    /// # Shapes
    /// - x: `[m, d]`; output: `[m, vocabulary]`
    pub fn word_scores(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let of_piece = |piece: &Param<Tensor<B, 2>>| x.clone().matmul(piece.val().transpose());
        match self.word.as_slice() {
            [one] => of_piece(one),
            pieces => Tensor::cat(pieces.iter().map(of_piece).collect(), 1),
        }
    }
}

/// Rows of a table.
///
/// # Shapes
/// - table: `[rows, d]`, ids: `[n, t]`; output: `[n, t, d]`
fn rows<B: Backend>(table: Tensor<B, 2>, ids: Tensor<B, 2, Int>) -> Tensor<B, 3> {
    let ([n, t], [_, d]) = (ids.dims(), table.dims());
    table.select(0, ids.reshape([n * t])).reshape([n, t, d])
}

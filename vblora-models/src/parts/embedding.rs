//! A table of token embeddings, and the logits of a head that is such a table.

use burn::{
    module::{Module, Param},
    tensor::{ElementConversion, FloatDType, Int, Tensor, backend::Backend},
};
use vblora::{LowRank, backend::VbLoraBackend, ops};

use super::Builder;
use crate::{
    HostTensor, Result,
    source::WeightSource,
    upload::{host_tensor, upload_rows},
};

/// One row per token, `[vocabulary, d]`; what is looked up and scored is in f32, whatever the rows are held in.
#[derive(Module, Debug)]
pub struct TokenEmbedding<B: Backend> {
    /// In pieces of whole rows: one piece, but on devices that bound the size of a tensor.
    pub pieces: Vec<Param<Tensor<B, 2>>>,
}

impl<B: VbLoraBackend> TokenEmbedding<B> {
    pub(crate) fn build<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        name: &str,
        values: HostTensor,
        dtype: crate::BaseDtype,
    ) -> Result<Self> {
        let pieces = upload_rows(name, values, dtype, builder.device)?;
        let frozen = |piece| Param::from_tensor(piece).set_require_grad(false);
        Ok(Self {
            pieces: pieces.into_iter().map(frozen).collect(),
        })
    }

    /// The rows of tokens.
    ///
    /// # Shapes
    /// - ids: `[n, t]`; output: `[n, t, d]`
    pub fn look_up(&self, ids: &Tensor<B, 2, Int>) -> Tensor<B, 3> {
        let mut pieces = self.pieces.iter();
        let first = pieces.next().expect("a table has at least one piece").val();
        let [mut start, d] = first.dims();
        if self.pieces.len() == 1 {
            return rows(first, ids.clone()).cast(FloatDType::F32);
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
        found.cast(FloatDType::F32)
    }

    /// The product with the transposed table, piece by piece: the logits of every token.
    ///
    /// # Shapes
    /// - x: `[m, d]`; output: `[m, vocabulary]`
    pub fn logits(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let of_piece =
            |piece: &Param<Tensor<B, 2>>| ops::frozen_product(x.clone(), piece.val().transpose());
        match self.pieces.as_slice() {
            [one] => of_piece(one),
            pieces => Tensor::cat(pieces.iter().map(of_piece).collect(), 1),
        }
    }

    /// The table of a head with an adapter's update added in, each piece rounded once. This one stays as it is.
    ///
    /// # Shapes
    /// - pair: of a map from `d` to `vocabulary`
    pub(crate) fn merged(&self, pair: &LowRank<B>) -> Self {
        let mut start = 0;
        let pieces = self.pieces.iter().map(|piece| {
            let held = piece.val();
            let (dtype, rows) = (FloatDType::from(held.dtype()), held.dims()[0]);
            let part = LowRank {
                up: pair.up.clone().narrow(1, start, rows),
                ..pair.clone()
            };
            start += rows;
            let sum = held.cast(FloatDType::F32) + part.delta().transpose();
            Param::from_tensor(sum.cast(dtype)).set_require_grad(false)
        });
        Self {
            pieces: pieces.collect(),
        }
    }

    /// The whole table. Its pieces meet on the host: together they may be more than the device can hold in one tensor.
    pub(crate) fn host(&self) -> HostTensor {
        let mut table = HostTensor {
            shape: vec![0, 0],
            values: Vec::new(),
        };
        for piece in &self.pieces {
            let piece = host_tensor(piece.val());
            table.shape = vec![table.shape[0] + piece.shape[0], piece.shape[1]];
            table.values.extend(piece.values);
        }
        table
    }
}

/// Rows of a table.
///
/// # Shapes
/// - table: `[rows, d]`, ids: `[n, t]`; output: `[n, t, d]`
pub(crate) fn rows<B: Backend>(table: Tensor<B, 2>, ids: Tensor<B, 2, Int>) -> Tensor<B, 3> {
    let ([n, t], [_, d]) = (ids.dims(), table.dims());
    table.select(0, ids.reshape([n * t])).reshape([n, t, d])
}

//! The input of a forward pass from an adapter: one low-rank pair per adapted site and, in training, the step's noise.

use std::{collections::BTreeMap, sync::Arc};

use burn::tensor::{
    Int, Tensor, TensorData,
    backend::{AutodiffBackend, Backend},
};

use crate::{
    Unpadded,
    backend::{VbLoraBackend, matmul},
    noise::Noise,
};

/// A low-rank pair. The update of a site's weight `[d_in, d_out]` is `scale * down up`. Training never forms that product.
#[derive(Debug, Clone)]
pub struct LowRank<B: Backend> {
    /// `[d_in, r]`, multiplied with the input.
    pub down: Tensor<B, 2>,
    /// `[r, d_out]`, gives the output.
    pub up: Tensor<B, 2>,
    /// 1 for VB-LoRA, `alpha / r` for LoRA.
    pub scale: f64,
}

impl<B: Backend> LowRank<B> {
    /// The update as a matrix, for merging and for tests.
    ///
    /// # Shapes
    /// - output: `[d_in, d_out]`
    pub fn delta(&self) -> Tensor<B, 2> {
        matmul(self.down.clone(), self.up.clone()).mul_scalar(self.scale)
    }
}

/// The pairs of all adapted sites by name. A clone is cheap. A site without a pair runs as its frozen map.
#[derive(Debug, Clone)]
pub struct Factors<B: Backend> {
    pairs: Arc<BTreeMap<String, LowRank<B>>>,
    dropout: f64,
    noise: Option<Noise>,
    rows: Option<Arc<RowScales<B>>>,
    unpadded: Option<Unpadded>,
}

/// The scale of each of the R narrow columns in each row of a multi-adapter batch, `[n, R]`, by site. It is 0 in the columns of other rows'
/// adapters.
pub(crate) type RowScales<B> = BTreeMap<String, Tensor<B, 2>>;

impl<B: Backend> Factors<B> {
    /// The factors of no adapter.
    pub fn none() -> Self {
        Self::new(BTreeMap::new(), 0.0)
    }

    /// Factors from pairs by site name. `dropout` is the probability of dropping an element of the adapters' input in training.
    pub fn new(pairs: BTreeMap<String, LowRank<B>>, dropout: f64) -> Self {
        Self {
            pairs: Arc::new(pairs),
            dropout,
            noise: None,
            rows: None,
            unpadded: None,
        }
    }

    /// The pairs of several adapters side by side, with the scales of each row of a batch.
    pub(crate) fn multi_adapter(
        pairs: Arc<BTreeMap<String, LowRank<B>>>,
        rows: Arc<RowScales<B>>,
    ) -> Self {
        Self {
            pairs,
            dropout: 0.0,
            noise: None,
            rows: Some(rows),
            unpadded: None,
        }
    }

    /// True if these are for a batch whose rows have adapters of their own.
    pub fn is_multi_adapter(&self) -> bool {
        self.rows.is_some()
    }

    /// The scale of every narrow column of a site for every token, in a multi-adapter batch of `n` rows with `all / n` tokens each.
    ///
    /// # Shapes
    /// - output: `[all, R]`
    pub(crate) fn token_scales(&self, site: &str, n: usize, all: usize) -> Option<Tensor<B, 2>> {
        let scales = self.rows.as_ref()?.get(site)?;
        let [expected, columns] = scales.dims();
        assert_eq!(n, expected, "rows of a batch with adapters of their own");
        let scales = scales.clone().unsqueeze_dim::<3>(1);
        Some(scales.expand([n, all / n, columns]).reshape([all, columns]))
    }

    /// The factors for a batch whose row `i` uses the adapter of row `rows[i]` of this one. Nothing changes if all rows share an adapter.
    #[must_use]
    pub fn of_rows(&self, rows: &[usize]) -> Self {
        let Some(scales) = &self.rows else {
            return self.clone();
        };
        let chosen = scales.iter().map(|(site, scales)| {
            let indices: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
            let indices = TensorData::new(indices, [rows.len()]);
            let indices = Tensor::<B, 1, Int>::from_data(indices, &scales.device());
            (site.clone(), scales.clone().select(0, indices))
        });
        Self {
            rows: Some(Arc::new(chosen.collect())),
            ..self.clone()
        }
    }

    /// The same pairs for a training pass, with dropout by the masks of `noise`.
    #[must_use]
    pub fn with_noise(&self, noise: Noise) -> Self {
        Self {
            noise: Some(noise),
            ..self.clone()
        }
    }

    /// The same pairs for a batch without its padding: N rows of one token each.
    #[must_use]
    pub fn unpadded(&self, unpadded: &Unpadded) -> Self {
        let rows: Vec<usize> = unpadded.rows().collect();
        Self {
            unpadded: Some(unpadded.clone()),
            ..self.of_rows(&rows)
        }
    }

    /// The pair of a site. In a multi-adapter batch it holds the pairs of all adapters side by side.
    pub fn get(&self, site: &str) -> Option<&LowRank<B>> {
        self.pairs.get(site)
    }

    /// The names of the adapted sites, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pairs.keys().map(String::as_str)
    }

    /// The noise of this pass; `None` outside training.
    pub fn noise(&self) -> Option<Noise> {
        self.noise
    }

    /// All pairs by site.
    pub(crate) fn pairs(&self) -> &BTreeMap<String, LowRank<B>> {
        &self.pairs
    }

    /// True if this pass drops elements of the adapters' input.
    pub fn drops(&self) -> bool {
        self.noise.is_some() && self.dropout > 0.0
    }

    /// The probability of dropping an element of an adapter's input in training.
    pub fn dropout(&self) -> f64 {
        self.dropout
    }
}

impl<B: VbLoraBackend> Factors<B> {
    /// The update of a map that is no [`FrozenLinear`](crate::FrozenLinear), such as a head in pieces: its site's pair applied to `x`.
    /// `None` for a site without a pair.
    ///
    /// # Shapes
    /// - x: `[n, d_in]`, one row for each row of the batch; output: `[n, d_out]`
    ///
    /// # Panics
    /// The factors are those of a multi-adapter batch ([`Stack`](crate::Stack)) with another number of rows.
    pub fn update(&self, site: &str, x: Tensor<B, 2>) -> Option<Tensor<B, 2>> {
        let pair = self.get(site)?;
        let rows = x.dims()[0];
        let narrow = matmul(self.drop(x, self.dropout, site), pair.down.clone());
        let narrow = match self.token_scales(site, rows, rows) {
            Some(scales) => narrow * scales,
            None => narrow.mul_scalar(pair.scale),
        };
        Some(matmul(narrow, pair.up.clone()))
    }

    /// Inverted dropout by the mask of `place` if there is noise; otherwise the input. Tokens of an unpadded batch take the masks of their
    /// places in the padded one.
    ///
    /// # Shapes
    /// - input and output: the same, `[N, ..]` in an unpadded batch
    pub fn drop<const D: usize>(&self, x: Tensor<B, D>, p: f64, place: &str) -> Tensor<B, D> {
        match (self.noise, &self.unpadded) {
            (Some(noise), Some(unpadded)) => noise.unpadded_dropout(x, unpadded, p, place),
            (Some(noise), None) => noise.dropout(x, p, place),
            (None, _) => x,
        }
    }
}

impl<B: AutodiffBackend> Factors<B> {
    /// The same factors and noise without the graph.
    #[must_use]
    pub fn inner(&self) -> Factors<B::InnerBackend> {
        let pair = |pair: &LowRank<B>| LowRank {
            down: pair.down.clone().inner(),
            up: pair.up.clone().inner(),
            scale: pair.scale,
        };
        let pairs = self
            .pairs
            .iter()
            .map(|(site, found)| (site.clone(), pair(found)));
        let rows = self.rows.as_ref().map(|rows| {
            let rows = rows.iter();
            let inner = rows.map(|(site, scales)| (site.clone(), scales.clone().inner()));
            Arc::new(inner.collect())
        });
        Factors {
            pairs: Arc::new(pairs.collect()),
            dropout: self.dropout,
            noise: self.noise,
            rows,
            unpadded: self.unpadded.clone(),
        }
    }
}

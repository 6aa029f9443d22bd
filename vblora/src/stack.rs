//! Several adapters in one forward pass: each row of a batch uses its own, or none.

use std::{collections::BTreeMap, sync::Arc};

use burn::tensor::{Tensor, TensorData, backend::Backend};

use crate::{Error, Factors, LowRank, Result, factors::RowScales};

/// The factors of several adapters side by side, of any methods and ranks. [`assign`](Self::assign) makes the [`Factors`] of a
/// multi-adapter batch from them.
///
/// Per site the adapters' down factors form one `[d_in, R]` and their up factors one `[R, d_out]`, where R is the sum of their ranks. A
/// batch is multiplied by all of them. Each row keeps the narrow columns of its own adapter, times the scale; the others become zero. So
/// every batch takes two ordinary matrix products, with `R / r` times the work of a single adapter. That is little beside the frozen map as
/// long as R is small beside its width. (Gathering one pair per row needs no more work than a single adapter. But it moves `n r (d_in +
/// d_out)` numbers per site and batch and multiplies `n` small matrices, which backends do slowly.)
///
/// ```
/// # use burn::tensor::Tensor; use vblora::{Factors, LowRank, Stack};
#[cfg_attr(feature = "flex", doc = "# type B = burn::backend::Flex;")]
#[cfg_attr(not(feature = "flex"), doc = "# type B = burn::backend::NdArray;")]
/// # let device = Default::default();
/// # let ones = |shape| Tensor::<B, 2>::ones(shape, &device);
/// # let adapter = |rank, scale| Factors::new([("q".into(), LowRank { down: ones([8, rank]), up: ones([rank, 4]), scale })].into(), 0.0);
/// # let (first, second) = (adapter(1, 1.0), adapter(2, 0.5));
/// let stack = Stack::new(&[first, second]);
/// // A batch of three sequences: the second adapter, none, the first.
/// let factors = stack.assign(&[Some(1), None, Some(0)], &device)?;
/// # assert!(factors.is_multi_adapter());
/// # Ok::<(), vblora::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Stack<B: Backend> {
    pairs: Arc<BTreeMap<String, LowRank<B>>>,
    /// By site, the index of its columns' layout in `layouts`.
    layout_of: BTreeMap<String, usize>,
    layouts: Vec<Layout>,
    adapters: usize,
}

/// The owners of a site's columns in order: adapter, rank and scale.
type Layout = Vec<(usize, usize, f64)>;

impl<B: Backend> Stack<B> {
    /// Puts adapters side by side. Batches name an adapter by its index here. There is no dropout, which is for training.
    ///
    /// # Panics
    /// One of them belongs to a multi-adapter batch.
    pub fn new(adapters: &[Factors<B>]) -> Self {
        let mut sites: BTreeMap<&str, Vec<(usize, &LowRank<B>)>> = BTreeMap::new();
        for (adapter, factors) in adapters.iter().enumerate() {
            assert!(
                !factors.is_multi_adapter(),
                "a multi-adapter batch is no adapter"
            );
            for (site, pair) in factors.pairs() {
                sites.entry(site).or_default().push((adapter, pair));
            }
        }
        let (mut pairs, mut layout_of) = (BTreeMap::new(), BTreeMap::new());
        let mut layouts: Vec<Layout> = Vec::new();
        for (site, found) in sites {
            let layout = found.iter();
            let layout = layout.map(|(adapter, pair)| (*adapter, pair.up.dims()[0], pair.scale));
            let layout: Layout = layout.collect();
            let known = layouts.iter().position(|known| *known == layout);
            layout_of.insert(site.to_owned(), known.unwrap_or(layouts.len()));
            if known.is_none() {
                layouts.push(layout);
            }
            let beside = |factor: fn(&LowRank<B>) -> Tensor<B, 2>, dim| {
                Tensor::cat(found.iter().map(|(_, pair)| factor(pair)).collect(), dim)
            };
            let pair = LowRank {
                down: beside(|pair| pair.down.clone(), 1),
                up: beside(|pair| pair.up.clone(), 0),
                scale: 1.0,
            };
            pairs.insert(site.to_owned(), pair);
        }
        Self {
            pairs: Arc::new(pairs),
            layout_of,
            layouts,
            adapters: adapters.len(),
        }
    }

    /// The factors of a batch whose row i uses adapter `rows[i]`, or none. Rows are the first dimension of a layer's input.
    ///
    /// # Errors
    /// A row names an adapter that does not exist.
    pub fn assign(&self, rows: &[Option<usize>], device: &B::Device) -> Result<Factors<B>> {
        if let Some(&unknown) = rows.iter().flatten().find(|&&row| row >= self.adapters) {
            let expected = format!("below the number of adapters {}", self.adapters);
            return Err(Error::setting("rows", expected, unknown));
        }
        let scales = |layout: &Layout| {
            let columns = layout.iter().map(|(_, rank, _)| rank).sum();
            let of_row = |row: &Option<usize>| {
                let row = *row;
                let columns = layout.iter().flat_map(move |&(adapter, rank, scale)| {
                    let scale = if row == Some(adapter) { scale } else { 0.0 };
                    std::iter::repeat_n(scale as f32, rank)
                });
                columns.collect::<Vec<_>>()
            };
            let values: Vec<_> = rows.iter().flat_map(of_row).collect();
            Tensor::from_data(TensorData::new(values, [rows.len(), columns]), device)
        };
        let scales: Vec<Tensor<B, 2>> = self.layouts.iter().map(scales).collect();
        let sites = self.layout_of.iter();
        let by_site: RowScales<B> = sites
            .map(|(site, &layout)| (site.clone(), scales[layout].clone()))
            .collect();
        Ok(Factors::multi_adapter(
            self.pairs.clone(),
            Arc::new(by_site),
        ))
    }
}

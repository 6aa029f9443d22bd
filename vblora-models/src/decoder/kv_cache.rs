//! Keys and values of the tokens read so far.

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};
use vblora::limits;

use crate::Result;

/// Keys and values of one layer, `[n, capacity, kv_heads size]`, of which the first columns are filled.
#[derive(Debug)]
pub(super) struct LayerCache<B: Backend> {
    /// `None` only while they are written to: a tensor that nobody else holds is written in place.
    stored: Option<[Tensor<B, 3>; 2]>,
}

impl<B: Backend> LayerCache<B> {
    /// Writes the keys and values of new tokens at column `at`, and gives those of all.
    ///
    /// # Shapes
    /// - new: `[n, t, kv_heads size]`; output: `[n, capacity, kv_heads size]`
    pub(super) fn append(&mut self, new: [Tensor<B, 3>; 2], at: usize) -> [Tensor<B, 3>; 2] {
        let stored = self.stored.take().expect("put back below");
        let mut new = new.into_iter();
        let stored = stored.map(|cache| {
            let new = new.next().expect("keys and values");
            let [n, t, d] = new.dims();
            cache.slice_assign([0..n, at..at + t, 0..d], new)
        });
        self.stored.insert(stored).clone()
    }

    /// Lets a function write to the keys and values.
    pub(super) fn change<T>(
        &mut self,
        by: impl FnOnce([Tensor<B, 3>; 2]) -> (T, [Tensor<B, 3>; 2]),
    ) -> T {
        let (output, stored) = by(self.stored.take().expect("put back below"));
        self.stored = Some(stored);
        output
    }

    fn dims(&self) -> [usize; 3] {
        let [keys, _] = self.stored.as_ref().expect("put back after each use");
        keys.dims()
    }

    fn keep(&mut self, rows: &Tensor<B, 1, Int>) {
        let stored = self.stored.take().expect("put back below");
        self.stored = Some(stored.map(|cache| cache.select(0, rows.clone())));
    }
}

/// Keys and values of every layer, allocated once for `capacity` columns. Rows are padded in front, so all end in the same column.
#[derive(Debug)]
pub(super) struct KvCache<B: Backend> {
    pub(super) layers: Vec<LayerCache<B>>,
    /// The column in which each row's text starts.
    pub(super) starts: Vec<usize>,
    /// Columns filled.
    pub(super) filled: usize,
}

impl<B: Backend> KvCache<B> {
    /// An empty cache of rows whose texts start in these columns.
    ///
    /// # Errors
    /// More than can be allocated.
    pub(super) fn new(
        layers: usize,
        starts: Vec<usize>,
        [capacity, width]: [usize; 2],
        device: &B::Device,
    ) -> Result<Self> {
        check_room(layers, starts.len(), [capacity, width])?;
        let empty = || Tensor::zeros([starts.len(), capacity, width], device);
        let layer = |_| LayerCache {
            stored: Some([empty(), empty()]),
        };
        Ok(Self {
            layers: (0..layers).map(layer).collect(),
            starts,
            filled: 0,
        })
    }

    /// Row `i` becomes what row `rows[i]` was.
    ///
    /// # Errors
    /// More than can be allocated.
    pub(super) fn keep(&mut self, rows: &[usize], device: &B::Device) -> Result<()> {
        if rows.len() > self.starts.len() {
            let [_, capacity, width] = self.layers.first().map_or([0; 3], LayerCache::dims);
            check_room(self.layers.len(), rows.len(), [capacity, width])?;
        }
        let indices: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let indices = Tensor::from_data(TensorData::new(indices, [rows.len()]), device);
        self.layers
            .iter_mut()
            .for_each(|layer| layer.keep(&indices));
        self.starts = rows.iter().map(|&row| self.starts[row]).collect();
        Ok(())
    }
}

/// Refuses a cache that cannot be allocated: a setting may ask for any number of tokens and beams.
fn check_room(layers: usize, rows: usize, [capacity, width]: [usize; 2]) -> Result<()> {
    let sides = [2, layers, rows, capacity, width];
    let values = sides
        .iter()
        .fold(1_u64, |product, &side| product.saturating_mul(side as u64));
    let what = format!("keys and values of {rows} rows of {capacity} tokens");
    Ok(limits::check_room(what, values)?)
}

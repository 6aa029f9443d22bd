//! Launches of the narrow products of low-rank updates, for several maps at a time.

use std::vec::IntoIter;

use burn::tensor::{DType, Shape};
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::{CubeCount, CubeDim};

use super::kernels;
use crate::backend::gpu::{
    MAX_CUBES, PLANES, array, elements::piece_of, empty, fixed_plane, rows::ahead,
};

/// The highest rank whose sums fit in a unit's registers. A higher one is no longer narrow and is left to matrix products.
pub(in crate::backend) const MAX_RANK: usize = 16;
/// Planes that keep a large GPU busy.
const BUSY_PLANES: usize = 4096;
/// Columns of a cube that sums over rows: 32 bytes, the size of one memory access.
const SUM_COLUMNS: usize = 8;
/// The most units of a cube that sums over rows.
const SUM_UNITS: usize = 512;
/// The most rows that a unit asks for before it waits for the first of them.
const MAX_ROWS_AHEAD: usize = 8;

/// The sizes that updates of one input have in common.
pub(in crate::backend) struct Narrow {
    /// Rows of the input.
    n: usize,
    rank: usize,
    plane: u32,
    /// A multiple of this many values is where a tensor may start in memory.
    aligned: usize,
}

impl Narrow {
    /// For updates of this rank with these factors, at most `maps` at a time. Returns `None` if the kernels do not take these tensors.
    pub(in crate::backend) fn of<'a, R: CubeRuntime>(
        x: &'a CubeTensor<R>,
        rank: usize,
        factors: impl Iterator<Item = &'a CubeTensor<R>>,
        maps: usize,
    ) -> Option<Self> {
        let n = x.meta.shape()[0];
        let mut all = factors.chain([x]);
        let is_taken = |t: &CubeTensor<R>| t.dtype == DType::F32 && t.meta.num_elements() > 0;
        let properties = x.client.properties();
        // Both operands of each map, the output, and the lengths.
        let is_bound = 2 * maps + 2 <= properties.hardware.max_bindings as usize;
        let fits = is_bound && rank <= MAX_RANK && n <= MAX_CUBES * PLANES as usize;
        (fits && all.all(is_taken)).then_some(())?;
        Some(Self {
            n,
            rank,
            plane: fixed_plane(&x.client)?,
            aligned: (properties.memory.alignment as usize / size_of::<f32>()).max(1),
        })
    }

    /// For updates of a lower rank in place of the given one.
    pub(in crate::backend) fn with_rank(&self, rank: usize) -> Self {
        Self { rank, ..*self }
    }

    /// `scale * x_i factor_i^T` of each pair of an input and a factor.
    ///
    /// # Shapes
    /// - inputs: `[n, d_i]`, factors: `[r, d_i]`; outputs: `[n, r]`
    pub(in crate::backend) fn products<'a, R: CubeRuntime>(
        &self,
        pairs: impl Iterator<Item = (&'a CubeTensor<R>, &'a CubeTensor<R>)>,
        scale: f64,
    ) -> IntoIter<CubeTensor<R>> {
        let (x, factors): (Vec<_>, Vec<_>) = pairs.unzip();
        let size = [self.n, self.rank];
        let Some((out, outputs)) = self.outputs(&x, vec![size; x.len()]) else {
            return Vec::new().into_iter();
        };
        let piece = piece_of(x.iter().chain(&factors).copied());
        let widest = x.iter().map(|x| x.meta.shape()[1]).max().unwrap_or(0);
        let form = self.product_form(widest / piece);
        let cubes = self.n.div_ceil(form.planes / form.parts) as u32;
        kernels::narrow_of_each::launch(
            &out.client,
            CubeCount::new_2d(cubes, x.len() as u32),
            CubeDim::new_2d(self.plane, PLANES),
            x.into_iter().map(array).collect(),
            factors.into_iter().map(array).collect(),
            array(&out),
            self.n,
            self.padded(size),
            scale as f32,
            form,
            piece,
        );
        outputs.into_iter()
    }

    /// `narrow_i^T wide_i` of each pair of a wide and a narrow matrix.
    ///
    /// # Shapes
    /// - wides: `[n, p_i]`, narrows: `[n, r]`; outputs: `[r, p_i]`
    pub(in crate::backend) fn row_sums<'a, R: CubeRuntime>(
        &self,
        pairs: impl Iterator<Item = (&'a CubeTensor<R>, &'a CubeTensor<R>)>,
    ) -> IntoIter<CubeTensor<R>> {
        let (wides, narrows): (Vec<_>, Vec<_>) = pairs.unzip();
        let widths = wides.iter().map(|wide| wide.meta.shape()[1]);
        let widest = widths.clone().max().unwrap_or(0);
        let sizes = widths.map(|p| [self.rank, p]).collect();
        let Some((out, outputs)) = self.outputs(&wides, sizes) else {
            return Vec::new().into_iter();
        };
        let piece = piece_of(wides.iter().copied());
        let narrow_piece = piece_of(narrows.iter().copied());
        let form = self.sum_form(&out, piece);
        let across = widest.div_ceil(SUM_COLUMNS) as u32;
        kernels::sums_of_each::launch(
            &out.client,
            CubeCount::new_2d(across, wides.len() as u32),
            CubeDim::new_1d(form.units as u32),
            wides.into_iter().map(array).collect(),
            narrows.into_iter().map(array).collect(),
            array(&out),
            self.n,
            self.aligned,
            form,
            piece,
            narrow_piece,
        );
        outputs.into_iter()
    }

    /// The cubes of [`products`](Self::products) over rows of at most `pieces` pieces. Few rows are shared by planes, to keep a large GPU busy.
    fn product_form(&self, pieces: usize) -> kernels::ProductForm {
        let planes = PLANES as usize;
        let shares = (BUSY_PLANES / self.n).clamp(1, pieces.div_ceil(self.plane as usize));
        let parts = (shares.min(planes) + 1).next_power_of_two() / 2;
        kernels::ProductForm {
            rank: self.rank,
            planes,
            parts,
            ahead: ahead(pieces.div_ceil(parts), self.plane),
        }
    }

    /// The cubes of [`row_sums`](Self::row_sums), as large as their sums fit in shared memory.
    fn sum_form<R: CubeRuntime>(&self, on: &CubeTensor<R>, piece: usize) -> kernels::SumForm {
        let hardware = &on.client.properties().hardware;
        let lanes = SUM_COLUMNS / piece;
        let segment = lanes.max(self.plane as usize);
        let bytes = size_of::<f32>() * self.rank * SUM_COLUMNS;
        let segments = hardware.max_shared_memory_size / bytes;
        let most = SUM_UNITS.min(hardware.max_units_per_cube as usize) / segment;
        let units = segments.min(most).max(1) * segment;
        let rows = self.n.div_ceil(units / lanes).next_power_of_two();
        kernels::SumForm {
            rank: self.rank,
            lanes,
            units,
            plane: self.plane as usize,
            ahead: rows.min(MAX_ROWS_AHEAD),
        }
    }

    /// The values of a matrix with the unused ones after it.
    fn padded(&self, [rows, columns]: [usize; 2]) -> usize {
        (rows * columns).next_multiple_of(self.aligned)
    }

    /// One piece of memory on the device of the inputs, and the matrices of these sizes in it, one after the other. `None` if there are none.
    fn outputs<R: CubeRuntime>(
        &self,
        inputs: &[&CubeTensor<R>],
        sizes: Vec<[usize; 2]>,
    ) -> Option<(CubeTensor<R>, Vec<CubeTensor<R>>)> {
        let like = inputs.first()?;
        let total: usize = sizes.iter().map(|&size| self.padded(size)).sum();
        let all = empty(like, Shape::new([total]));
        let bytes = |values: usize| (values * size_of::<f32>()) as u64;
        let mut start = 0;
        let outputs = sizes.into_iter().map(|size| {
            let after = total - start - size[0] * size[1];
            let handle = all.handle.clone();
            let handle = handle.offset_start(bytes(start)).offset_end(bytes(after));
            start += self.padded(size);
            let (client, device) = (all.client.clone(), all.device.clone());
            CubeTensor::new_contiguous(client, device, Shape::new(size), handle, all.dtype)
        });
        let outputs = outputs.collect();
        Some((all, outputs))
    }
}

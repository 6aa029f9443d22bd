//! Several maps of one input on GPUs: one launch for their narrow products, and one for the sums over rows. The products that make the
//! gradients to the input also add them up.

mod kernels;

use std::vec::IntoIter;

use burn::tensor::{
    DType, Shape,
    ops::{FloatTensor, FloatTensorOps},
};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, tensor::CubeTensor,
};
use cubecl::{CubeCount, CubeDim};

use super::{BlockOps, JoinedGradients, Updates, default};
use crate::backend::{
    FrozenMap, HeldWeight,
    gpu::{MAX_CUBES, PLANES, array, cast::cast, empty, fixed_plane, product::RankUpdate},
    linear::gpu::{MAX_RANK, SUM_COLUMNS, sum_groups, updated_product},
};

impl<R, F, I, T> BlockOps for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    fn joins_maps() -> bool {
        true
    }

    fn adapted_linears<const N: usize>(
        x: FloatTensor<Self>,
        maps: [FrozenMap<Self>; N],
        updates: Updates<FloatTensor<Self>, N>,
    ) -> [(FloatTensor<Self>, Option<FloatTensor<Self>>); N] {
        let Some(joined) = Joined::of(&x, &updates) else {
            return default::adapted_linears::<Self, N>(x, maps, updates);
        };
        let adapted = updates.iter().flatten();
        let downs: Vec<_> = adapted.map(|update| turned(&update.down)).collect();
        let mut narrows = joined.narrow_products(downs.iter().map(|down| (&x, down)));
        let mut updates = updates.into_iter();
        // Maps of one dtype share the cast input.
        let mut last: Option<CubeTensor<R>> = None;
        maps.map(|map| {
            let update = updates.next().expect("a place for each map");
            let term = update.map(|update| RankUpdate {
                narrow: narrows.next().expect("one for each update"),
                factor: update.up,
            });
            let narrow = term.as_ref().map(|term| term.narrow.clone());
            let held = map.weight.dtype();
            let found = last.take().filter(|last| last.dtype == held);
            let input = found.unwrap_or_else(|| cast(x.clone(), held));
            last = Some(input.clone());
            (updated_product::<Self, R>(input, map, term, None), narrow)
        })
    }

    fn adapted_linears_backward<const N: usize>(
        x: FloatTensor<Self>,
        weights: [HeldWeight<Self>; N],
        updates: Updates<FloatTensor<Self>, N>,
        narrows: [Option<FloatTensor<Self>>; N],
        grads: [FloatTensor<Self>; N],
        needs_x: bool,
    ) -> JoinedGradients<FloatTensor<Self>, N> {
        let Some(joined) = Joined::of(&x, &updates) else {
            return default::adapted_linears_backward::<Self, N>(
                x, weights, updates, narrows, grads, needs_x,
            );
        };
        // The updates with the gradients of their maps' outputs.
        let adapted = || {
            let all = updates.iter().zip(&grads);
            all.filter_map(|(update, grad)| Some((update.as_ref()?, grad)))
        };
        let pairs = adapted().zip(narrows.iter().flatten());
        let mut ups = joined.row_sums(pairs.map(|((_, grad), narrow)| (grad, narrow)));
        let narrows = joined.narrow_products(adapted().map(|(update, grad)| (grad, &update.up)));
        let narrows: Vec<_> = narrows.collect();
        let mut downs = joined.row_sums(narrows.iter().map(|narrow| (&x, narrow)));
        let factors = updates.each_ref().map(|update| {
            let mut next = || Some([turned(&downs.next()?), ups.next()?]);
            update.as_ref().and_then(|_| next())
        });
        let dx = needs_x.then(|| {
            let mut sum: Option<CubeTensor<R>> = None;
            let mut narrows = narrows.into_iter();
            for ((weight, update), grad) in weights.into_iter().zip(updates).zip(grads) {
                let grad = cast(grad, weight.dtype());
                let weight = Self::float_swap_dims(weight.into_dense(), 0, 1);
                let term = update.map(|update| RankUpdate {
                    narrow: narrows.next().expect("one for each update"),
                    factor: turned(&update.down),
                });
                let map = FrozenMap::dense(weight, None);
                sum = Some(updated_product::<Self, R>(grad, map, term, sum));
            }
            sum.expect("there is a map")
        });
        JoinedGradients { x: dx, factors }
    }
}

/// A matrix with its dimensions swapped, not moved.
fn turned<R: CubeRuntime>(matrix: &CubeTensor<R>) -> CubeTensor<R> {
    let mut matrix = matrix.clone();
    matrix.meta.swap(0, 1);
    matrix
}

/// The sizes that the updates of N maps of one input have in common.
struct Joined {
    /// Rows of the input.
    n: usize,
    rank: usize,
    scale: f64,
    plane: u32,
    /// A multiple of this many values is where a tensor may start in memory.
    aligned: usize,
}

impl Joined {
    /// Returns `None` if the kernels do not take these tensors.
    fn of<R: CubeRuntime, const N: usize>(
        x: &CubeTensor<R>,
        updates: &Updates<CubeTensor<R>, N>,
    ) -> Option<Self> {
        let mut all = updates.iter().flatten();
        let first = all.clone().next();
        let n = x.meta.shape()[0];
        // Without an update there is nothing to launch.
        let (rank, scale) = first.map_or((1, 1.0), |first| (first.up.meta.shape()[0], first.scale));
        let is_alike = all.all(|update| {
            update.scale == scale
                && update.up.meta.shape()[0] == rank
                && [&update.down, &update.up]
                    .iter()
                    .all(|factor| factor.dtype == DType::F32 && factor.meta.num_elements() > 0)
        });
        let properties = x.client.properties();
        // Both operands of each map, the output, and the lengths.
        let is_bound = 2 * N + 2 <= properties.hardware.max_bindings as usize;
        let fits = is_alike
            && is_bound
            && x.dtype == DType::F32
            && x.meta.num_elements() > 0
            && rank <= MAX_RANK
            && n <= MAX_CUBES * PLANES as usize;
        let plane = fixed_plane(&x.client)?;
        fits.then(|| Self {
            n,
            rank,
            scale,
            plane,
            aligned: (properties.memory.alignment as usize / size_of::<f32>()).max(1),
        })
    }

    /// `scale * x_i factor_i^T` of each pair of an input and a factor.
    ///
    /// # Shapes
    /// - inputs: `[n, d_i]`, factors: `[r, d_i]`; outputs: `[n, r]`
    fn narrow_products<'a, R: CubeRuntime>(
        &self,
        pairs: impl Iterator<Item = (&'a CubeTensor<R>, &'a CubeTensor<R>)>,
    ) -> IntoIter<CubeTensor<R>> {
        let (x, factors): (Vec<_>, Vec<_>) = pairs.unzip();
        let size = [self.n, self.rank];
        let Some((out, outputs)) = self.outputs(&x, vec![size; x.len()]) else {
            return Vec::new().into_iter();
        };
        let cubes = self.n.div_ceil(PLANES as usize) as u32;
        kernels::narrow_of_each::launch(
            &out.client,
            CubeCount::new_2d(cubes, x.len() as u32),
            CubeDim::new_2d(self.plane, PLANES),
            x.into_iter().map(array).collect(),
            factors.into_iter().map(array).collect(),
            array(&out),
            self.n,
            self.padded(size),
            self.scale as f32,
            self.rank,
        );
        outputs.into_iter()
    }

    /// `narrow_i^T wide_i` of each pair of a wide and a narrow matrix.
    ///
    /// # Shapes
    /// - wides: `[n, p_i]`, narrows: `[n, r]`; outputs: `[r, p_i]`
    fn row_sums<'a, R: CubeRuntime>(
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
        let groups = sum_groups(&out, self.rank);
        let across = widest.div_ceil(SUM_COLUMNS) as u32;
        kernels::sums_of_each::launch(
            &out.client,
            CubeCount::new_2d(across, wides.len() as u32),
            CubeDim::new_2d(SUM_COLUMNS as u32, groups as u32),
            wides.into_iter().map(array).collect(),
            narrows.into_iter().map(array).collect(),
            array(&out),
            self.n,
            self.aligned,
            self.rank,
            SUM_COLUMNS,
            groups,
        );
        outputs.into_iter()
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

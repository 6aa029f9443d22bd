//! Several maps of one input on GPUs: one launch for their narrow products, one for the sums over rows, and their gradients to the input added
//! up by the products that make them.

mod kernels;

use burn::tensor::{
    DType, Shape,
    ops::{FloatTensor, FloatTensorOps},
};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, tensor::CubeTensor,
};
use cubecl::{CubeCount, CubeDim};

use super::{BlockOps, JoinedGradients, default};
use crate::backend::{
    FrozenMap, HeldWeight, Update,
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
        updates: [Update<FloatTensor<Self>>; N],
    ) -> [(FloatTensor<Self>, FloatTensor<Self>); N] {
        let Some(joined) = Joined::of(&x, &updates) else {
            return default::adapted_linears::<Self, N>(x, maps, updates);
        };
        let downs = updates.each_ref().map(|update| turned(&update.down));
        let narrows = joined.narrow_products([&x; N], downs.each_ref());
        let mut all = narrows.into_iter().zip(updates);
        // Maps of one dtype share the cast input.
        let mut last: Option<CubeTensor<R>> = None;
        maps.map(|map| {
            let (narrow, update) = all.next().expect("an update for each map");
            let held = map.weight.dtype();
            let found = last.take().filter(|last| last.dtype == held);
            let input = found.unwrap_or_else(|| cast(x.clone(), held));
            last = Some(input.clone());
            let term = RankUpdate {
                narrow: narrow.clone(),
                factor: update.up,
            };
            (updated_product::<Self, R>(input, map, term, None), narrow)
        })
    }

    fn adapted_linears_backward<const N: usize>(
        x: FloatTensor<Self>,
        weights: [HeldWeight<Self>; N],
        updates: [Update<FloatTensor<Self>>; N],
        narrows: [FloatTensor<Self>; N],
        grads: [FloatTensor<Self>; N],
        needs_x: bool,
    ) -> JoinedGradients<FloatTensor<Self>, N> {
        let Some(joined) = Joined::of(&x, &updates) else {
            return default::adapted_linears_backward::<Self, N>(
                x, weights, updates, narrows, grads, needs_x,
            );
        };
        let ups = joined.row_sums(grads.each_ref(), narrows.each_ref());
        let factors = updates.each_ref().map(|update| &update.up);
        let narrows = joined.narrow_products(grads.each_ref(), factors);
        let downs = joined.row_sums([&x; N], narrows.each_ref());
        let dx = needs_x.then(|| {
            let mut sum: Option<CubeTensor<R>> = None;
            let parts = weights.into_iter().zip(updates).zip(narrows).zip(grads);
            for (((weight, update), narrow), grad) in parts {
                let grad = cast(grad, weight.dtype());
                let weight = Self::float_swap_dims(weight.into_dense(), 0, 1);
                let term = RankUpdate {
                    narrow,
                    factor: turned(&update.down),
                };
                let map = FrozenMap::dense(weight, None);
                sum = Some(updated_product::<Self, R>(grad, map, term, sum));
            }
            sum.expect("there is a map")
        });
        let mut ups = ups.into_iter();
        JoinedGradients {
            x: dx,
            factors: downs.map(|down| [turned(&down), ups.next().expect("one for each map")]),
        }
    }
}

/// A matrix with its dimensions swapped, not moved.
fn turned<R: CubeRuntime>(matrix: &CubeTensor<R>) -> CubeTensor<R> {
    let mut matrix = matrix.clone();
    matrix.meta.swap(0, 1);
    matrix
}

/// The sizes that N maps of one input have in common.
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
        updates: &[Update<CubeTensor<R>>; N],
    ) -> Option<Self> {
        let first = updates.first()?;
        let (n, rank) = (x.meta.shape()[0], first.up.meta.shape()[0]);
        let is_alike = updates.iter().all(|update| {
            update.scale == first.scale
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
            scale: first.scale,
            plane,
            aligned: (properties.memory.alignment as usize / size_of::<f32>()).max(1),
        })
    }

    /// `scale * x_i factor_i^T`
    ///
    /// # Shapes
    /// - x: `[n, d_i]`, factors: `[r, d_i]`; outputs: `[n, r]`
    fn narrow_products<R: CubeRuntime, const N: usize>(
        &self,
        x: [&CubeTensor<R>; N],
        factors: [&CubeTensor<R>; N],
    ) -> [CubeTensor<R>; N] {
        let sizes = [[self.n, self.rank]; N];
        let (out, outputs) = self.outputs(x[0], sizes);
        let cubes = self.n.div_ceil(PLANES as usize) as u32;
        kernels::narrow_of_each::launch(
            &out.client,
            CubeCount::new_2d(cubes, N as u32),
            CubeDim::new_2d(self.plane, PLANES),
            x.into_iter().map(array).collect(),
            factors.into_iter().map(array).collect(),
            array(&out),
            self.n,
            self.padded(sizes[0]),
            self.scale as f32,
            self.rank,
        );
        outputs
    }

    /// `narrow_i^T wide_i`
    ///
    /// # Shapes
    /// - wides: `[n, p_i]`, narrows: `[n, r]`; outputs: `[r, p_i]`
    fn row_sums<R: CubeRuntime, const N: usize>(
        &self,
        wides: [&CubeTensor<R>; N],
        narrows: [&CubeTensor<R>; N],
    ) -> [CubeTensor<R>; N] {
        let widths = wides.map(|wide| wide.meta.shape()[1]);
        let (out, outputs) = self.outputs(wides[0], widths.map(|p| [self.rank, p]));
        let groups = sum_groups(&out, self.rank);
        let widest = widths.into_iter().max().expect("there is a map");
        let across = widest.div_ceil(SUM_COLUMNS) as u32;
        kernels::sums_of_each::launch(
            &out.client,
            CubeCount::new_2d(across, N as u32),
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
        outputs
    }

    /// The values of a matrix with the unused ones after it.
    fn padded(&self, [rows, columns]: [usize; 2]) -> usize {
        (rows * columns).next_multiple_of(self.aligned)
    }

    /// One piece of memory, and the matrices of these sizes in it, one after the other.
    fn outputs<R: CubeRuntime, const N: usize>(
        &self,
        like: &CubeTensor<R>,
        sizes: [[usize; 2]; N],
    ) -> (CubeTensor<R>, [CubeTensor<R>; N]) {
        let total: usize = sizes.iter().map(|&size| self.padded(size)).sum();
        let all = empty(like, Shape::new([total]));
        let bytes = |values: usize| (values * size_of::<f32>()) as u64;
        let mut start = 0;
        let outputs = sizes.map(|size| {
            let after = total - start - size[0] * size[1];
            let handle = all.handle.clone();
            let handle = handle.offset_start(bytes(start)).offset_end(bytes(after));
            start += self.padded(size);
            let (client, device) = (all.client.clone(), all.device.clone());
            CubeTensor::new_contiguous(client, device, Shape::new(size), handle, all.dtype)
        });
        (all, outputs)
    }
}

//! Several maps of one input on GPUs: one launch for their narrow products, and one for the sums over rows. The products that make the
//! gradients to the input also add them up.

use burn::tensor::ops::{FloatTensor, FloatTensorOps};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, tensor::CubeTensor,
};

use super::{BlockOps, JoinedGradients, Updates, default};
use crate::backend::{
    FrozenMap, HeldWeight,
    gpu::{cast::cast, product::RankUpdate},
    linear::gpu::{narrow::Narrow, turned, updated_product},
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
        let Some((narrow, scale)) = joined(&x, &updates) else {
            return default::adapted_linears::<Self, N>(x, maps, updates);
        };
        let adapted = updates.iter().flatten();
        let downs: Vec<_> = adapted.map(|update| turned(&update.down)).collect();
        let mut narrows = narrow.products(downs.iter().map(|down| (&x, down)), scale);
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
        let Some((narrow, scale)) = joined(&x, &updates) else {
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
        let mut ups = narrow.row_sums(pairs.map(|((_, grad), narrow)| (grad, narrow)));
        let narrows = narrow.products(adapted().map(|(update, grad)| (grad, &update.up)), scale);
        let narrows: Vec<_> = narrows.collect();
        let mut downs = narrow.row_sums(narrows.iter().map(|narrow| (&x, narrow)));
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

/// The narrow products of the updates of N maps of one input, and the scale of all. Returns `None` if the kernels do not take these tensors.
fn joined<R: CubeRuntime, const N: usize>(
    x: &CubeTensor<R>,
    updates: &Updates<CubeTensor<R>, N>,
) -> Option<(Narrow, f64)> {
    let all = updates.iter().flatten();
    // Without an update there is nothing to launch.
    let (rank, scale) = match all.clone().next() {
        Some(first) => (first.up.meta.shape()[0], first.scale),
        None => (1, 1.0),
    };
    let mut each = all.clone();
    let is_alike = each.all(|update| update.scale == scale && update.up.meta.shape()[0] == rank);
    let factors = all.flat_map(|update| [&update.down, &update.up]);
    let narrow = Narrow::of(x, rank, factors, N)?;
    is_alike.then_some((narrow, scale))
}

//! Linear maps on GPUs. Products run on tensor cores if the device has them, and a low-rank update has kernels of its own.

mod kernels;
pub(in crate::backend) mod narrow;

use burn::tensor::{
    DType, Shape, Slice,
    ops::{FloatTensor, FloatTensorOps},
};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, kernel::into_contiguous,
    tensor::CubeTensor,
};
use cubecl::{CubeDim, calculate_cube_count_elemwise, prelude::ArrayArg};

use self::narrow::{MAX_RANK, Narrow};
use super::{AdaptedGradients, FrozenMap, HeldWeight, LinearOps, Nf4Weight, Update, default, nf4};
use crate::backend::gpu::{
    array,
    cast::cast,
    empty,
    product::{RankUpdate, tensor_core_product, tensor_core_product_onto},
};

impl<R, F, I, T> LinearOps for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    fn decoded(weight: Nf4Weight<Self>) -> FloatTensor<Self> {
        nf4::decoded(&weight).unwrap_or_else(|| weight.dequantised())
    }

    fn frozen_product(x: FloatTensor<Self>, map: FrozenMap<Self>) -> FloatTensor<Self> {
        let FrozenMap { weight, bias } = map;
        let weight = weight.into_dense();
        tensor_core_product(&x, &weight, bias.as_ref(), None)
            .unwrap_or_else(|| default::frozen_product::<Self>(x, FrozenMap::dense(weight, bias)))
    }

    fn frozen_linear(x: FloatTensor<Self>, map: FrozenMap<Self>) -> FloatTensor<Self> {
        if x.dtype != DType::F32 {
            return default::frozen_linear::<Self>(x, map);
        }
        let input = cast(x, map.weight.dtype());
        Self::frozen_product(input, map)
    }

    fn adapted_linear(
        x: FloatTensor<Self>,
        map: FrozenMap<Self>,
        update: Update<FloatTensor<Self>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let Some(kernels) = narrow_of(&x, &update) else {
            return default::adapted_linear::<Self>(x, map, update);
        };
        let held = map.weight.dtype();
        let narrow = product(&kernels, &x, &turned(&update.down), update.scale);
        let update = RankUpdate {
            narrow: narrow.clone(),
            factor: update.up,
        };
        let x = cast(x, held);
        (
            updated_product::<Self, R>(x, map, Some(update), None),
            narrow,
        )
    }

    /// The kernels take columns in pieces of a fixed size. So a row's update is computed as if it were alone, in f32.
    fn stacked_linear(
        x: FloatTensor<Self>,
        map: FrozenMap<Self>,
        [down, up]: [FloatTensor<Self>; 2],
        scales: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let columns = scales.meta.shape()[1];
        let factors = [&down, &up].into_iter();
        let Some(kernels) = Narrow::of(&x, columns.min(MAX_RANK), factors, 1) else {
            return default::stacked_linear::<Self>(x, map, [down, up], scales);
        };
        let held = map.weight.dtype();
        let of_columns = |tensor: &FloatTensor<Self>, start: usize| {
            let piece = start..columns.min(start + MAX_RANK);
            let rows = tensor.meta.shape()[0];
            Self::float_slice(tensor.clone(), &[Slice::from(0..rows), Slice::from(piece)])
        };
        let up = Self::float_swap_dims(up, 0, 1);
        let piece = |start: usize| {
            let down = of_columns(&down, start);
            let kernels = kernels.with_rank(down.meta.shape()[1]);
            let narrow = product(&kernels, &x, &turned(&down), 1.0);
            let narrow = Self::float_mul(narrow, of_columns(&scales, start));
            let factor = Self::float_swap_dims(of_columns(&up, start), 0, 1);
            RankUpdate {
                narrow: into_contiguous(narrow),
                factor,
            }
        };
        let held_x = cast(x.clone(), held);
        let y = updated_product::<Self, R>(held_x, map, Some(piece(0)), None);
        let others = (MAX_RANK..columns).step_by(MAX_RANK);
        others.fold(y, |y, start| rank_update(y, None, piece(start)))
    }

    fn adapted_linear_backward(
        x: FloatTensor<Self>,
        weight: HeldWeight<Self>,
        update: Update<FloatTensor<Self>>,
        narrow: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        needs_x: bool,
    ) -> AdaptedGradients<FloatTensor<Self>> {
        let Some(kernels) = narrow_of(&x, &update) else {
            return default::adapted_linear_backward::<Self>(
                x, weight, update, narrow, grad, needs_x,
            );
        };
        let grad = into_contiguous(grad);
        let up = row_sums(&kernels, &grad, &narrow);
        let transposed = |tensor| Self::float_swap_dims(tensor, 0, 1);
        let d_narrow = product(&kernels, &grad, &update.up, update.scale);
        let down = row_sums(&kernels, &x, &d_narrow);
        let x = needs_x.then(|| {
            let grad = cast(grad, weight.dtype());
            let map = FrozenMap::dense(transposed(weight.into_dense()), None);
            let update = RankUpdate {
                narrow: d_narrow,
                factor: transposed(update.down),
            };
            updated_product::<Self, R>(grad, map, Some(update), None)
        });
        AdaptedGradients {
            x,
            down: transposed(down),
            up,
        }
    }
}

/// The narrow products of an update. Returns `None` if the kernels do not take these tensors.
fn narrow_of<R: CubeRuntime>(x: &CubeTensor<R>, update: &Update<CubeTensor<R>>) -> Option<Narrow> {
    let factors = [&update.down, &update.up];
    Narrow::of(x, update.up.meta.shape()[0], factors.into_iter(), 1)
}

/// `scale * x factor^T`
///
/// # Shapes
/// - x: `[n, d]`, factor: `[r, d]`; output: `[n, r]`
fn product<R: CubeRuntime>(
    kernels: &Narrow,
    x: &CubeTensor<R>,
    factor: &CubeTensor<R>,
    scale: f64,
) -> CubeTensor<R> {
    let mut found = kernels.products([(x, factor)].into_iter(), scale);
    found.next().expect("there is a pair")
}

/// `narrow^T wide`
///
/// # Shapes
/// - wide: `[n, p]`, narrow: `[n, r]`; output: `[r, p]`
fn row_sums<R: CubeRuntime>(
    kernels: &Narrow,
    wide: &CubeTensor<R>,
    narrow: &CubeTensor<R>,
) -> CubeTensor<R> {
    let mut found = kernels.row_sums([(wide, narrow)].into_iter());
    found.next().expect("there is a pair")
}

/// A matrix with its dimensions swapped, not moved.
pub(in crate::backend) fn turned<R: CubeRuntime>(matrix: &CubeTensor<R>) -> CubeTensor<R> {
    let mut matrix = matrix.clone();
    matrix.meta.swap(0, 1);
    matrix
}

/// A matrix as an argument and its strides. A transposed one is read in place.
fn strided<R: CubeRuntime>(matrix: CubeTensor<R>) -> (ArrayArg<R>, [usize; 2]) {
    let [rows, columns] = matrix.meta.shape().dims();
    if *matrix.meta.strides == [1, rows] {
        return (matrix.into_array_arg(), [1, rows]);
    }
    (array(&matrix), [columns, 1])
}

/// `x W + b` plus the update and `added`, if there are any, in one kernel if one supports these tensors.
///
/// # Shapes
/// - x: `[n, d_in]`; added, in f32, and output: `[n, d_out]`
pub(in crate::backend) fn updated_product<B, R>(
    x: CubeTensor<R>,
    map: FrozenMap<B>,
    update: Option<RankUpdate<R>>,
    added: Option<CubeTensor<R>>,
) -> CubeTensor<R>
where
    B: LinearOps<FloatTensorPrimitive = CubeTensor<R>>,
    R: CubeRuntime,
{
    let (weight, bias) = (map.weight.into_dense(), map.bias);
    let found =
        tensor_core_product_onto(&x, &weight, bias.as_ref(), update.as_ref(), added.as_ref());
    found.unwrap_or_else(|| {
        let y = match update {
            Some(update) => rank_update(B::float_matmul(x, weight), bias, update),
            None => default::frozen_product::<B>(x, FrozenMap::dense(weight, bias)),
        };
        match added {
            Some(added) => B::float_add(added, y),
            None => y,
        }
    })
}

/// `y + bias + narrow factor`
///
/// # Shapes
/// - y: `[n, m]`, of any float dtype; bias: `[m]`, narrow: `[n, r]`, factor: `[r, m]`; output: `[n, m]`
fn rank_update<R: CubeRuntime>(
    y: CubeTensor<R>,
    bias: Option<CubeTensor<R>>,
    update: RankUpdate<R>,
) -> CubeTensor<R> {
    let RankUpdate { narrow, factor } = update;
    let [n, m] = y.meta.shape().dims();
    let rank = factor.meta.shape()[0];
    let (factor, strides) = strided(factor);
    let out = empty(&y, Shape::new([n, m]));
    let dim = CubeDim::new(&out.client, n * m);
    let cubes = calculate_cube_count_elemwise(&out.client, n * m, dim);
    let (has_bias, dtype) = (bias.is_some(), y.dtype);
    // The launch needs an array in the bias's place. Without a bias the kernel does not read it.
    let bias = bias.unwrap_or_else(|| narrow.clone());
    kernels::rank_update::launch(
        &out.client,
        cubes,
        dim,
        array(&y),
        array(&bias),
        array(&narrow),
        factor,
        array(&out),
        m,
        strides[0],
        strides[1],
        rank,
        has_bias,
        dtype.into(),
    );
    out
}

//! Linear maps on GPUs. Products run on tensor cores if the device has them, and a low-rank update has kernels of its own.

pub(in crate::backend) mod kernels;

use burn::tensor::{
    DType, Shape, Slice,
    ops::{FloatTensor, FloatTensorOps},
};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, kernel::into_contiguous,
    tensor::CubeTensor,
};
use cubecl::{CubeCount, CubeDim, calculate_cube_count_elemwise, prelude::ArrayArg};

use super::{AdaptedGradients, FrozenMap, HeldWeight, LinearOps, Nf4Weight, Update, default, nf4};
use crate::backend::gpu::{
    MAX_CUBES, PLANES, array,
    cast::cast,
    empty, fixed_plane,
    product::{RankUpdate, tensor_core_product, tensor_core_product_onto},
};

/// The highest rank whose sums fit in a unit's registers. A higher one is no longer narrow and is left to matrix products.
pub(in crate::backend) const MAX_RANK: usize = 16;
/// Columns of a cube that sums over rows: 32 bytes, the size of one memory access.
pub(in crate::backend) const SUM_COLUMNS: usize = 8;
/// The most units of a cube that sums over rows.
const SUM_UNITS: usize = 512;

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
        let Some(plane) = narrow_plane(&x, &update) else {
            return default::adapted_linear::<Self>(x, map, update);
        };
        let held = map.weight.dtype();
        let narrow = narrow_product(x.clone(), update.down, update.scale, plane);
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
        let Some(plane) = plane_size(&x, [&down, &up]) else {
            return default::stacked_linear::<Self>(x, map, [down, up], scales);
        };
        let held = map.weight.dtype();
        let columns = scales.meta.shape()[1];
        let of_columns = |tensor: &FloatTensor<Self>, start: usize| {
            let piece = start..columns.min(start + MAX_RANK);
            let rows = tensor.meta.shape()[0];
            Self::float_slice(tensor.clone(), &[Slice::from(0..rows), Slice::from(piece)])
        };
        let up = Self::float_swap_dims(up, 0, 1);
        let piece = |start: usize| {
            let narrow = narrow_product(x.clone(), of_columns(&down, start), 1.0, plane);
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
        let Some(plane) = narrow_plane(&x, &update) else {
            return default::adapted_linear_backward::<Self>(
                x, weight, update, narrow, grad, needs_x,
            );
        };
        let grad = into_contiguous(grad);
        let up = row_sums(grad.clone(), narrow);
        let transposed = |tensor| Self::float_swap_dims(tensor, 0, 1);
        let d_narrow = narrow_product(grad.clone(), transposed(update.up), update.scale, plane);
        let down = row_sums(x, d_narrow.clone());
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

/// [`plane_size`], if the kernels support the rank.
fn narrow_plane<R: CubeRuntime>(x: &CubeTensor<R>, update: &Update<CubeTensor<R>>) -> Option<u32> {
    let size = plane_size(x, [&update.down, &update.up])?;
    (update.down.meta.shape()[1] <= MAX_RANK).then_some(size)
}

/// The device's plane size, if it has one size and the kernels take these tensors.
fn plane_size<R: CubeRuntime>(x: &CubeTensor<R>, factors: [&CubeTensor<R>; 2]) -> Option<u32> {
    let size = fixed_plane(&x.client)?;
    let is_f32 = factors.iter().chain([&x]).all(|t| t.dtype == DType::F32);
    let rows = x.meta.shape()[0];
    let is_filled = [x, factors[0]].iter().all(|t| t.meta.num_elements() > 0);
    (is_f32 && is_filled && rows <= MAX_CUBES * PLANES as usize).then_some(size)
}

/// A matrix as an argument and its strides. A transposed one is read in place.
fn strided<R: CubeRuntime>(matrix: CubeTensor<R>) -> (ArrayArg<R>, [usize; 2]) {
    let [rows, columns] = matrix.meta.shape().dims();
    if *matrix.meta.strides == [1, rows] {
        return (matrix.into_array_arg(), [1, rows]);
    }
    (array(&matrix), [columns, 1])
}

/// `scale * x factor`
///
/// # Shapes
/// - x: `[n, d]`, factor: `[d, r]`; output: `[n, r]`
fn narrow_product<R: CubeRuntime>(
    x: CubeTensor<R>,
    factor: CubeTensor<R>,
    scale: f64,
    plane: u32,
) -> CubeTensor<R> {
    let ([n, d], [_, rank]) = (x.meta.shape().dims(), factor.meta.shape().dims());
    let out = empty(&x, Shape::new([n, rank]));
    let (factor, strides) = strided(factor);
    let cubes = CubeCount::new_1d(n.div_ceil(PLANES as usize) as u32);
    kernels::narrow_product::launch(
        &out.client,
        cubes,
        CubeDim::new_2d(plane, PLANES),
        array(&x),
        factor,
        array(&out),
        n,
        d,
        strides[0],
        strides[1],
        scale as f32,
        rank,
    );
    out
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

/// `narrow^T wide`
///
/// # Shapes
/// - wide: `[n, p]`, narrow: `[n, r]`, r at most [`MAX_RANK`]; output: `[r, p]`
fn row_sums<R: CubeRuntime>(wide: CubeTensor<R>, narrow: CubeTensor<R>) -> CubeTensor<R> {
    let ([n, p], [_, rank]) = (wide.meta.shape().dims(), narrow.meta.shape().dims());
    let out = empty(&wide, Shape::new([rank, p]));
    let groups = sum_groups(&out, rank);
    kernels::row_sums::launch(
        &out.client,
        CubeCount::new_1d(p.div_ceil(SUM_COLUMNS) as u32),
        CubeDim::new_2d(SUM_COLUMNS as u32, groups as u32),
        array(&wide),
        array(&narrow),
        array(&out),
        n,
        p,
        rank,
        SUM_COLUMNS,
        groups,
    );
    out
}

/// The number of units that share a column's rows.
pub(in crate::backend) fn sum_groups<R: CubeRuntime>(on: &CubeTensor<R>, rank: usize) -> usize {
    let hardware = &on.client.properties().hardware;
    let sums = hardware.max_shared_memory_size / (size_of::<f32>() * rank);
    let units = SUM_UNITS
        .min(hardware.max_units_per_cube as usize)
        .min(sums);
    (units / SUM_COLUMNS).max(1)
}

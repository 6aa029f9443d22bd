//! Fast paths of the CubeCL backends: a low-rank update by kernels of its own.

mod fusion;
mod kernels;
mod product;
mod rows;

use burn::tensor::{
    DType, Shape, Slice,
    backend::Backend,
    ops::{Device, FloatTensor, FloatTensorOps},
};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, kernel::into_contiguous,
    ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor,
};
use cubecl::{CubeCount, CubeDim, calculate_cube_count_elemwise, prelude::ComputeClient};

use self::product::{RankUpdate, tensor_core_head_product, tensor_core_product};
use super::{
    AdaptedGradients, FrozenMap, HeadProduct, NormGradients, Update, VbLoraBackend, defaults,
};

/// Ranks whose sums fit in a unit's registers; a higher one is no longer narrow and is left to matrix products.
const MAX_RANK: usize = 16;
/// Columns of a cube that sums over rows: 32 bytes, which memory gives at once.
const SUM_COLUMNS: usize = 8;
/// Units of such a cube at most.
const SUM_UNITS: usize = 512;
/// Units of a cube that copies.
const JOIN_UNITS: usize = 256;
/// Pieces that one launch joins: a kernel's arguments have 4 KiB on CUDA.
const MAX_PIECES: usize = 64;
/// WebGPU's limit of cubes in one dimension, and CUDA's in the second and third.
const MAX_CUBES: usize = 65_535;
/// Planes of a cube, each with a row of its own.
const PLANES: u32 = 8;

/// Backends that know their devices' planes.
trait HasPlanes: Backend {
    /// Whether the device has planes of one size, as the kernels of a plane a row need.
    fn has_planes(device: &Device<Self>) -> bool;
}

impl<R, F, I, T> HasPlanes for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    fn has_planes(device: &Device<Self>) -> bool {
        fixed_plane(&R::client(device)).is_some()
    }
}

impl<R, F, I, T> VbLoraBackend for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    /// On wgpu, WebGPU's guaranteed limit of a storage binding. Many devices allow more, but Burn has no way to ask, software Vulkan allows
    /// no more, and an upload beyond the limit fails without an error.
    fn max_tensor_bytes(device: &Device<Self>) -> Option<usize> {
        R::name(&R::client(device))
            .contains("wgpu")
            .then_some(128 << 20)
    }

    fn frozen_product(
        x: FloatTensor<Self>,
        map: FrozenMap<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        tensor_core_product(&x, &map.weight, map.bias.as_ref(), None)
            .unwrap_or_else(|| defaults::frozen_product::<Self>(x, map))
    }

    fn head_product(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        mask: Option<FloatTensor<Self>>,
        product: HeadProduct,
    ) -> FloatTensor<Self> {
        tensor_core_head_product(&a, &b, mask.as_ref(), product)
            .unwrap_or_else(|| defaults::head_product::<Self>(a, b, mask, product))
    }

    fn row_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        rows::softmax(&x).unwrap_or_else(|| defaults::row_softmax::<Self>(x))
    }

    fn row_softmax_backward(
        output: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        rows::softmax_backward(&output, &grad)
            .unwrap_or_else(|| defaults::row_softmax_backward::<Self>(output, grad))
    }

    fn row_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        match rows::norm(&x, &gamma, Some(&beta), epsilon) {
            Some((y, _)) => y,
            None => defaults::row_norm::<Self>(x, gamma, beta, epsilon),
        }
    }

    fn row_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
        affine: bool,
    ) -> NormGradients<Self> {
        let found = (!affine).then(|| rows::norm_backward(&x, &gamma, epsilon, &grad, true));
        match found.flatten() {
            Some(dx) => (dx, None),
            None => defaults::row_norm_backward::<Self>(x, gamma, epsilon, grad, affine),
        }
    }

    fn norm_and_deviation(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        rows::norm(&x, &gamma, Some(&beta), epsilon)
            .unwrap_or_else(|| defaults::norm_and_deviation::<Self>(x, gamma, beta, epsilon))
    }

    fn invertible_norm_backward(
        y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        deviation: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        rows::invertible_norm_backward(&y, [&gamma, &beta], &deviation, &grad).unwrap_or_else(
            || defaults::invertible_norm_backward::<Self>(y, [gamma, beta], deviation, grad),
        )
    }

    fn join_rows(pieces: Vec<FloatTensor<Self>>) -> FloatTensor<Self> {
        join_rows(&pieces).unwrap_or_else(|| Self::float_cat(pieces, 0))
    }

    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        match rows::norm(&x, &gamma, None, epsilon) {
            Some((y, _)) => y,
            None => defaults::decoder::rms_norm::<Self>(x, gamma, epsilon),
        }
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
        affine: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let found = (!affine).then(|| rows::norm_backward(&x, &gamma, epsilon, &grad, false));
        match found.flatten() {
            Some(dx) => (dx, None),
            None => defaults::decoder::rms_norm_backward::<Self>(x, gamma, epsilon, grad, affine),
        }
    }

    fn adapted_linear(
        x: FloatTensor<Self>,
        map: FrozenMap<FloatTensor<Self>>,
        update: Update<FloatTensor<Self>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let Some(plane) = narrow_plane(&x, &update) else {
            return defaults::adapted_linear::<Self>(x, map, update);
        };
        let held = map.weight.dtype;
        let narrow = narrow_product(x.clone(), update.down, update.scale, plane);
        let update = RankUpdate {
            narrow: narrow.clone(),
            factor: update.up,
        };
        let x = Self::float_cast(x, held.into());
        (updated_product::<Self, R>(x, map, update), narrow)
    }

    /// Columns in pieces that the kernels are made for, so that a row's update is computed as if it were alone, in f32.
    fn mixed_linear(
        x: FloatTensor<Self>,
        map: FrozenMap<FloatTensor<Self>>,
        [down, up]: [FloatTensor<Self>; 2],
        scales: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let Some(plane) = plane_size(&x, [&down, &up]) else {
            return defaults::mixed_linear::<Self>(x, map, [down, up], scales);
        };
        let held = map.weight.dtype;
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
        let held_x = Self::float_cast(x.clone(), held.into());
        let y = updated_product::<Self, R>(held_x, map, piece(0));
        let others = (MAX_RANK..columns).step_by(MAX_RANK);
        others.fold(y, |y, start| rank_update(y, None, piece(start)))
    }

    fn adapted_linear_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        update: Update<FloatTensor<Self>>,
        narrow: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        needs_x: bool,
    ) -> AdaptedGradients<FloatTensor<Self>> {
        let Some(plane) = narrow_plane(&x, &update) else {
            return defaults::adapted_linear_backward::<Self>(
                x, weight, update, narrow, grad, needs_x,
            );
        };
        let grad = into_contiguous(grad);
        let up = row_sums(grad.clone(), narrow);
        let transposed = |tensor| Self::float_swap_dims(tensor, 0, 1);
        let d_narrow = narrow_product(grad.clone(), transposed(update.up), update.scale, plane);
        let down = row_sums(x, d_narrow.clone());
        let x = needs_x.then(|| {
            let grad = Self::float_cast(grad, weight.dtype.into());
            let map = FrozenMap {
                weight: transposed(weight),
                bias: None,
            };
            let update = RankUpdate {
                narrow: d_narrow,
                factor: transposed(update.down),
            };
            updated_product::<Self, R>(grad, map, update)
        });
        AdaptedGradients {
            x,
            down: transposed(down),
            up,
        }
    }
}

/// [`plane_size`], if the rank is one that the kernels are made for.
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

/// The device's plane size, if it has one size.
fn fixed_plane<R: CubeRuntime>(client: &ComputeClient<R>) -> Option<u32> {
    let hardware = &client.properties().hardware;
    let size = hardware.plane_size_max;
    (size == hardware.plane_size_min && size > 1).then_some(size)
}

fn empty<R: CubeRuntime>(like: &CubeTensor<R>, shape: Shape) -> CubeTensor<R> {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape, DType::F32)
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
    let x = into_contiguous(x);
    let (n, rank) = (x.meta.shape()[0], factor.meta.shape()[1]);
    let out = empty(&x, Shape::new([n, rank]));
    let cubes = CubeCount::new_1d(n.div_ceil(PLANES as usize) as u32);
    kernels::narrow_product::launch(
        &out.client,
        cubes,
        CubeDim::new_2d(plane, PLANES),
        x.into_tensor_arg(),
        factor.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        scale as f32,
        rank,
    );
    out
}

/// `x W + b`, and the update, in one kernel where there is one for them.
fn updated_product<B, R>(
    x: CubeTensor<R>,
    map: FrozenMap<CubeTensor<R>>,
    update: RankUpdate<R>,
) -> CubeTensor<R>
where
    B: Backend<FloatTensorPrimitive = CubeTensor<R>>,
    R: CubeRuntime,
{
    tensor_core_product(&x, &map.weight, map.bias.as_ref(), Some(&update))
        .unwrap_or_else(|| rank_update(B::float_matmul(x, map.weight), map.bias, update))
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
    let y = into_contiguous(y);
    let [n, m] = y.meta.shape().dims();
    let rank = factor.meta.shape()[0];
    let out = empty(&y, Shape::new([n, m]));
    let dim = CubeDim::new(&out.client, n * m);
    let cubes = calculate_cube_count_elemwise(&out.client, n * m, dim);
    let (has_bias, dtype) = (bias.is_some(), y.dtype);
    // Without a bias some tensor has to stand in its place; it is not read.
    let bias = bias.unwrap_or_else(|| narrow.clone());
    kernels::rank_update::launch(
        &out.client,
        cubes,
        dim,
        y.into_tensor_arg(),
        into_contiguous(bias).into_tensor_arg(),
        narrow.into_tensor_arg(),
        factor.into_tensor_arg(),
        out.clone().into_tensor_arg(),
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
    let (wide, narrow) = (into_contiguous(wide), into_contiguous(narrow));
    let ([_, p], [_, rank]) = (wide.meta.shape().dims(), narrow.meta.shape().dims());
    let out = empty(&wide, Shape::new([rank, p]));
    let hardware = &out.client.properties().hardware;
    let sums = hardware.max_shared_memory_size / (size_of::<f32>() * rank);
    let units = SUM_UNITS
        .min(hardware.max_units_per_cube as usize)
        .min(sums);
    let groups = (units / SUM_COLUMNS).max(1);
    kernels::row_sums::launch(
        &out.client,
        CubeCount::new_1d(p.div_ceil(SUM_COLUMNS) as u32),
        CubeDim::new_2d(SUM_COLUMNS as u32, groups as u32),
        wide.into_tensor_arg(),
        narrow.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        rank,
        SUM_COLUMNS,
        groups,
    );
    out
}

/// The pieces one below the other, by one launch for as many as may be bound at a time. `None` where they are not f32.
///
/// # Shapes
/// - pieces: `[n_i, m]`; output: `[sum of n_i, m]`
fn join_rows<R: CubeRuntime>(pieces: &[CubeTensor<R>]) -> Option<CubeTensor<R>> {
    let first = pieces.first()?;
    let is_f32 = pieces.iter().all(|piece| piece.dtype == DType::F32);
    let rows = pieces.iter().map(|piece| piece.meta.shape()[0]).sum();
    let out = empty(first, Shape::new([rows, first.meta.shape()[1]]));
    let bound = out.client.properties().hardware.max_bindings as usize;
    // The output is bound as well, and what is known of tensors.
    let at_once = bound.saturating_sub(2).min(MAX_PIECES);
    if !is_f32 || out.meta.num_elements() == 0 || at_once < 2 {
        return None;
    }
    let dim = CubeDim::new_1d(JOIN_UNITS as u32);
    let mut start = 0;
    for pieces in pieces.chunks(at_once) {
        let lengths = pieces.iter().map(|piece| piece.meta.num_elements());
        let across = lengths.clone().max()?.div_ceil(JOIN_UNITS);
        if across > MAX_CUBES {
            return None;
        }
        let bound = pieces
            .iter()
            .map(|piece| into_contiguous(piece.clone()).into_tensor_arg());
        kernels::join::launch(
            &out.client,
            CubeCount::new_2d(across as u32, pieces.len() as u32),
            dim,
            bound.collect(),
            out.clone().into_tensor_arg(),
            start,
        );
        start += lengths.sum::<usize>();
    }
    Some(out)
}

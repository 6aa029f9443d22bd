//! Fast paths of the CubeCL backends: a low-rank update by kernels of its own.

mod fusion;
mod kernels;
mod product;

use burn::tensor::{
    DType, Shape, Slice,
    backend::Backend,
    ops::{Device, FloatTensor, FloatTensorOps},
};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, kernel::into_contiguous,
    ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor,
};
use cubecl::{CubeCount, CubeDim, calculate_cube_count_elemwise};

use self::product::{RankUpdate, tensor_core_head_product, tensor_core_product};
use super::{AdaptedGradients, FrozenMap, HeadProduct, Update, VbLoraBackend, defaults};

/// Ranks whose sums fit in a unit's registers; a higher one is no longer narrow and is left to matrix products.
const MAX_RANK: usize = 16;
/// Rows that one unit adds up before the sums of chunks are added. Short enough to fill a GPU at a few thousand rows.
const CHUNK_ROWS: usize = 64;
/// Chunks at most: their sums are written and read once more.
const MAX_CHUNKS: usize = 512;
/// WebGPU's limit of cubes in one dimension, and CUDA's in the second and third.
const MAX_CUBES: usize = 65_535;
/// Planes of a cube, each with a row of its own.
const PLANES: u32 = 8;

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

    fn frozen_product(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        tensor_core_product(&x, &weight, None).unwrap_or_else(|| Self::float_matmul(x, weight))
    }

    fn head_product(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        heads: usize,
        form: HeadProduct,
    ) -> FloatTensor<Self> {
        tensor_core_head_product(&a, &b, heads, form)
            .unwrap_or_else(|| defaults::head_product::<Self>(a, b, heads, form))
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
            bias: map.bias,
            narrow: narrow.clone(),
            factor: update.up,
        };
        let x = Self::float_cast(x, held.into());
        (updated_product::<Self, R>(x, map.weight, update), narrow)
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
        let piece = |start: usize, bias: Option<FloatTensor<Self>>| {
            let narrow = narrow_product(x.clone(), of_columns(&down, start), 1.0, plane);
            let narrow = Self::float_mul(narrow, of_columns(&scales, start));
            let factor = Self::float_swap_dims(of_columns(&up, start), 0, 1);
            RankUpdate {
                bias,
                narrow: into_contiguous(narrow),
                factor,
            }
        };
        let first = piece(0, map.bias);
        let held_x = Self::float_cast(x.clone(), held.into());
        let y = updated_product::<Self, R>(held_x, map.weight, first);
        let others = (MAX_RANK..columns).step_by(MAX_RANK);
        others.fold(y, |y, start| rank_update(y, piece(start, None)))
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
            let update = RankUpdate {
                bias: None,
                narrow: d_narrow,
                factor: transposed(update.down),
            };
            updated_product::<Self, R>(grad, transposed(weight), update)
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
    let hardware = &x.client.properties().hardware;
    let size = hardware.plane_size_max;
    let is_fixed = size == hardware.plane_size_min && size > 1;
    let is_f32 = factors.iter().chain([&x]).all(|t| t.dtype == DType::F32);
    let rows = x.meta.shape()[0];
    let is_filled = [x, factors[0]].iter().all(|t| t.meta.num_elements() > 0);
    (is_fixed && is_f32 && is_filled && rows <= MAX_CUBES * PLANES as usize).then_some(size)
}

fn empty<R: CubeRuntime, const D: usize>(like: &CubeTensor<R>, shape: [usize; D]) -> CubeTensor<R> {
    empty_device_contiguous_dtype(
        like.client.clone(),
        like.device.clone(),
        Shape::new(shape),
        DType::F32,
    )
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
    let out = empty(&x, [n, rank]);
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

/// `x weight`, and the update, in one kernel where there is one for them.
fn updated_product<B, R>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    update: RankUpdate<R>,
) -> CubeTensor<R>
where
    B: Backend<FloatTensorPrimitive = CubeTensor<R>>,
    R: CubeRuntime,
{
    tensor_core_product(&x, &weight, Some(&update))
        .unwrap_or_else(|| rank_update(B::float_matmul(x, weight), update))
}

/// `y + bias + narrow factor`
///
/// # Shapes
/// - y: `[n, m]`, of any float dtype; bias: `[m]`, narrow: `[n, r]`, factor: `[r, m]`; output: `[n, m]`
fn rank_update<R: CubeRuntime>(y: CubeTensor<R>, update: RankUpdate<R>) -> CubeTensor<R> {
    let RankUpdate {
        bias,
        narrow,
        factor,
    } = update;
    let y = into_contiguous(y);
    let [n, m] = y.meta.shape().dims();
    let rank = factor.meta.shape()[0];
    let out = empty(&y, [n, m]);
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
/// - wide: `[n, p]`, narrow: `[n, r]`; output: `[r, p]`
fn row_sums<R: CubeRuntime>(wide: CubeTensor<R>, narrow: CubeTensor<R>) -> CubeTensor<R> {
    let (wide, narrow) = (into_contiguous(wide), into_contiguous(narrow));
    let [n, p] = wide.meta.shape().dims();
    let rank = narrow.meta.shape()[1];
    let chunk_rows = CHUNK_ROWS.max(n.div_ceil(MAX_CHUNKS));
    let chunks = n.div_ceil(chunk_rows);
    let (parts, out) = (empty(&wide, [chunks, rank, p]), empty(&wide, [rank, p]));
    let dim = CubeDim::new(&out.client, p);
    let cubes = CubeCount::new_2d((p as u32).div_ceil(dim.num_elems()), chunks as u32);
    let flat = CubeDim::new_1d(dim.num_elems());
    kernels::row_sums::launch(
        &out.client,
        cubes,
        flat,
        wide.into_tensor_arg(),
        narrow.into_tensor_arg(),
        parts.clone().into_tensor_arg(),
        chunk_rows as u32,
        rank,
    );
    let dim = CubeDim::new(&out.client, rank * p);
    kernels::add_chunks::launch(
        &out.client,
        calculate_cube_count_elemwise(&out.client, rank * p, dim),
        dim,
        parts.into_tensor_arg(),
        out.clone().into_tensor_arg(),
    );
    out
}

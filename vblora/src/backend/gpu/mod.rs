//! Fast paths of the CubeCL backends: a low-rank update by kernels of its own.

mod fusion;
mod kernels;

use burn::tensor::{
    DType, Shape, Slice,
    ops::{Device, FloatTensor, FloatTensorOps},
};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, kernel::into_contiguous,
    ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor,
};
use cubecl::{CubeCount, CubeDim, calculate_cube_count_elemwise, ir::StorageType};
use cubek::{
    matmul::{
        definition::{MatmulElems, MatmulGlobalElems},
        launch::{Strategy, launch_ref},
    },
    std::InputBinding,
};

use super::{AdaptedGradients, FrozenMap, Update, VbLoraBackend, defaults};

/// Ranks whose sums fit in a unit's registers; a higher one is no longer narrow and is left to matrix products.
const MAX_RANK: usize = 16;
/// Rows that one unit adds up before the sums of chunks are added. Short enough to fill a GPU at a few thousand rows.
const CHUNK_ROWS: usize = 64;
/// Chunks at most: their sums are written and read once more.
const MAX_CHUNKS: usize = 512;
/// The smallest dimension for which tiles of the tensor cores pay.
const MIN_TILE: usize = 64;
/// The bulk copy engine takes rows of whole 16-byte pieces, in either dtype.
const ALIGNED: usize = 8;
/// WebGPU's limit of cubes in one dimension.
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
        tensor_core_product(&x, &weight).unwrap_or_else(|| Self::float_matmul(x, weight))
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
        let y = Self::frozen_product(Self::float_cast(x.clone(), held.into()), map.weight);
        let narrow = narrow_product(x, update.down, update.scale, plane);
        let out = rank_update(y, map.bias, narrow.clone(), update.up);
        (out, narrow)
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
        let y = Self::frozen_product(Self::float_cast(x.clone(), held.into()), map.weight);
        let columns = scales.meta.shape()[1];
        let of_columns = |tensor: &FloatTensor<Self>, start: usize| {
            let piece = start..columns.min(start + MAX_RANK);
            let rows = tensor.meta.shape()[0];
            Self::float_slice(tensor.clone(), &[Slice::from(0..rows), Slice::from(piece)])
        };
        let up = Self::float_swap_dims(up, 0, 1);
        (0..columns).step_by(MAX_RANK).fold(y, |y, start| {
            let bias = map.bias.clone().filter(|_| start == 0);
            let narrow = narrow_product(x.clone(), of_columns(&down, start), 1.0, plane);
            let narrow = Self::float_mul(narrow, of_columns(&scales, start));
            let up = Self::float_swap_dims(of_columns(&up, start), 0, 1);
            rank_update(y, bias, into_contiguous(narrow), up)
        })
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
            let through_map = Self::frozen_product(grad, transposed(weight));
            rank_update(through_map, None, d_narrow, transposed(update.down))
        });
        AdaptedGradients {
            x,
            down: transposed(down),
            up,
        }
    }
}

/// A product by the kernel that was fastest on an H100 at transformer shapes, about twice as fast as the one that CubeCL takes where it
/// does not tune: double-buffered, loaded by the bulk copy engine. `None` where that kernel is not to be had, or where the operands are
/// small or oddly shaped.
///
/// # Shapes
/// - x: `[n, d_in]`, weight: `[d_in, d_out]`; output: `[n, d_out]`
fn tensor_core_product<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weight: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let ([n, k], [_, m]) = (x.meta.shape().dims(), weight.meta.shape().dims());
    let fits = n >= MIN_TILE && [k, m].iter().all(|d| *d >= MIN_TILE && d % ALIGNED == 0);
    let is_cuda = R::name(&x.client) == "cuda";
    if cfg!(feature = "autotune") || !is_cuda || !fits {
        return None;
    }
    let x = into_contiguous(x.clone());
    let out = empty_device_contiguous_dtype(
        x.client.clone(),
        x.device.clone(),
        Shape::new([n, m]),
        x.dtype,
    );
    let dtype: StorageType = x.dtype.into();
    let mut elements = MatmulElems::from_globals(&MatmulGlobalElems {
        lhs: dtype,
        rhs: dtype,
        out: dtype,
    });
    launch_ref(
        &Strategy::DoubleTmaMma(Default::default()),
        &out.client,
        InputBinding::new(x.binding(), dtype),
        InputBinding::new(weight.clone().binding(), dtype),
        out.clone().binding(),
        &mut elements,
    )
    .ok()
    .map(|()| out)
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

/// `y + bias + narrow factor`
///
/// # Shapes
/// - y: `[n, m]`, of any float dtype; bias: `[m]`, narrow: `[n, r]`, factor: `[r, m]`; output: `[n, m]`
fn rank_update<R: CubeRuntime>(
    y: CubeTensor<R>,
    bias: Option<CubeTensor<R>>,
    narrow: CubeTensor<R>,
    factor: CubeTensor<R>,
) -> CubeTensor<R> {
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

//! The narrow products of a low-rank update as CubeCL kernels. Tiled matrix products, made for square operands, spend longer on four
//! columns than on hundreds; these read the wide operand once and keep the rank's sums in registers.
#![allow(
    missing_docs,
    clippy::manual_div_ceil,
    reason = "the macros make launch functions of these"
)]

use cubecl::prelude::*;

/// `out[n, r] = scale * x[n, d] factor[d, r]`: one plane a row, each unit every `PLANE_DIM`-th column. Cubes are planes wide and
/// several planes high.
#[cube(launch)]
pub(super) fn narrow_product(
    x: &Tensor<f32>,
    factor: &Tensor<f32>,
    out: &mut Tensor<f32>,
    scale: f32,
    #[comptime] rank: usize,
) {
    let row = (CUBE_POS_X * CUBE_DIM_Y + UNIT_POS_Y) as usize;
    // The same for every unit of the plane.
    if row >= x.shape(0) {
        terminate!();
    }
    let d = x.shape(1);
    let mut sums = Array::<f32>::new(rank);
    #[unroll]
    for rho in 0..rank {
        sums[rho] = 0.0f32;
    }
    let mut j = UNIT_POS_X as usize;
    while j < d {
        let value = x[row * d + j];
        #[unroll]
        for rho in 0..rank {
            sums[rho] += value * factor[j * factor.stride(0) + rho * factor.stride(1)];
        }
        j += CUBE_DIM_X as usize;
    }
    #[unroll]
    for rho in 0..rank {
        let sum = plane_sum(sums[rho]);
        if UNIT_POS_X == 0 {
            out[row * rank + rho] = scale * sum;
        }
    }
}

/// `out[n, m] = y[n, m] + bias[m] + narrow[n, r] factor[r, m]`, one unit an element.
#[cube(launch)]
pub(super) fn rank_update<Y: Float>(
    y: &Tensor<Y>,
    bias: &Tensor<f32>,
    narrow: &Tensor<f32>,
    factor: &Tensor<f32>,
    out: &mut Tensor<f32>,
    #[comptime] rank: usize,
    #[comptime] has_bias: bool,
    #[define(Y)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS;
    if at >= out.len() {
        terminate!();
    }
    let m = out.shape(1);
    let row = at / m;
    let column = at % m;
    let mut sum = f32::cast_from(y[at]);
    if has_bias {
        sum += bias[column];
    }
    #[unroll]
    for rho in 0..rank {
        sum +=
            narrow[row * rank + rho] * factor[rho * factor.stride(0) + column * factor.stride(1)];
    }
    out[at] = sum;
}

/// `out[chunk, r, p] = narrow[rows, r]^T wide[rows, p]` over the rows of each chunk, one unit a column of a chunk.
#[cube(launch)]
pub(super) fn row_sums(
    wide: &Tensor<f32>,
    narrow: &Tensor<f32>,
    out: &mut Tensor<f32>,
    chunk_rows: u32,
    #[comptime] rank: usize,
) {
    let p = wide.shape(1);
    let column = (CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X) as usize;
    if column >= p {
        terminate!();
    }
    let chunk = CUBE_POS_Y as usize;
    let mut sums = Array::<f32>::new(rank);
    #[unroll]
    for rho in 0..rank {
        sums[rho] = 0.0f32;
    }
    let start = chunk * chunk_rows as usize;
    let mut end = start + chunk_rows as usize;
    if end > wide.shape(0) {
        end = wide.shape(0);
    }
    for row in start..end {
        let value = wide[row * p + column];
        #[unroll]
        for rho in 0..rank {
            sums[rho] += value * narrow[row * rank + rho];
        }
    }
    #[unroll]
    for rho in 0..rank {
        out[(chunk * rank + rho) * p + column] = sums[rho];
    }
}

/// `out[i] = sum over chunks of parts[chunk, i]`.
#[cube(launch)]
pub(super) fn add_chunks(parts: &Tensor<f32>, out: &mut Tensor<f32>) {
    let at = ABSOLUTE_POS;
    if at >= out.len() {
        terminate!();
    }
    let mut sum = 0.0f32;
    for chunk in 0..parts.shape(0) {
        sum += parts[chunk * out.len() + at];
    }
    out[at] = sum;
}

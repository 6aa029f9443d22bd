//! The narrow products of a low-rank update as CubeCL kernels.
//!
//! Tiled matrix products are made for square operands and spend longer on four columns than on hundreds. These kernels read the wide
//! operand once and keep the rank's sums in registers.
#![allow(
    missing_docs,
    clippy::manual_div_ceil,
    reason = "the macros make launch functions of these"
)]

use cubecl::prelude::*;

/// `out[n, r] = scale * x[n, d] factor[d, r]`. A plane takes a row, and each of its units every `PLANE_DIM`-th column. Cubes are
/// planes wide and several planes high.
#[cube(launch)]
pub(super) fn narrow_product(
    x: &Array<f32>,
    factor: &Array<f32>,
    out: &mut Array<f32>,
    n: usize,
    d: usize,
    factor_row: usize,
    factor_column: usize,
    scale: f32,
    #[comptime] rank: usize,
) {
    let row = (CUBE_POS_X * CUBE_DIM_Y + UNIT_POS_Y) as usize;
    // All units of a plane take the same branch.
    if row >= n {
        terminate!();
    }
    let strides = (factor_row, factor_column);
    products_of_row(x, factor, strides, out, row * rank, row, d, scale, rank);
}

/// `out[to + rho] = scale * wide[row, d] factor[d, rho]`, by a plane. Strides of the factor are those of d and of the rank.
#[cube]
pub(in crate::backend) fn products_of_row(
    wide: &Array<f32>,
    factor: &Array<f32>,
    strides: (usize, usize),
    out: &mut Array<f32>,
    to: usize,
    row: usize,
    d: usize,
    scale: f32,
    #[comptime] rank: usize,
) {
    let mut sums = Array::<f32>::new(rank);
    #[unroll]
    for rho in 0..rank {
        sums[rho] = 0.0f32;
    }
    let mut j = UNIT_POS_X as usize;
    while j < d {
        let value = wide[row * d + j];
        #[unroll]
        for rho in 0..rank {
            sums[rho] += value * factor[j * strides.0 + rho * strides.1];
        }
        j += CUBE_DIM_X as usize;
    }
    #[unroll]
    for rho in 0..rank {
        let sum = plane_sum(sums[rho]);
        if UNIT_POS_X == 0 {
            out[to + rho] = scale * sum;
        }
    }
}

/// `out[n, m] = y[n, m] + bias[m] + narrow[n, r] factor[r, m]`, one unit an element.
#[cube(launch)]
pub(super) fn rank_update<Y: Float>(
    y: &Array<Y>,
    bias: &Array<f32>,
    narrow: &Array<f32>,
    factor: &Array<f32>,
    out: &mut Array<f32>,
    m: usize,
    factor_row: usize,
    factor_column: usize,
    #[comptime] rank: usize,
    #[comptime] has_bias: bool,
    #[define(Y)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS;
    if at >= out.len() {
        terminate!();
    }
    let row = at / m;
    let column = at % m;
    let mut sum = f32::cast_from(y[at]);
    if has_bias {
        sum += bias[column];
    }
    #[unroll]
    for rho in 0..rank {
        sum += narrow[row * rank + rho] * factor[rho * factor_row + column * factor_column];
    }
    out[at] = sum;
}

/// `out[r, p] = narrow[n, r]^T wide[n, p]`. A cube has some columns. For each of them, `groups` units share its rows.
#[cube(launch)]
pub(super) fn row_sums(
    wide: &Array<f32>,
    narrow: &Array<f32>,
    out: &mut Array<f32>,
    n: usize,
    p: usize,
    #[comptime] rank: usize,
    #[comptime] columns: usize,
    #[comptime] groups: usize,
) {
    let first = CUBE_POS_X as usize * columns;
    let column = (first + UNIT_POS_X as usize).min(p - 1);
    let mut sums = Array::<f32>::new(rank);
    #[unroll]
    for rho in 0..rank {
        sums[rho] = 0.0f32;
    }
    add_rows(wide, narrow, &mut sums, n, p, column, rank, groups);
    write_sums(&sums, out, 0, p, first, rank, columns, groups);
}

/// The number of rows that a unit of [`add_rows`] reads at a time, so that one read does not wait for the other.
const ROWS_AT_ONCE: usize = 8;

/// Adds this unit's rows of a column, each times its narrow values.
#[cube]
pub(in crate::backend) fn add_rows(
    wide: &Array<f32>,
    narrow: &Array<f32>,
    sums: &mut Array<f32>,
    n: usize,
    p: usize,
    column: usize,
    #[comptime] rank: usize,
    #[comptime] groups: usize,
) {
    let mut values = Array::<f32>::new(ROWS_AT_ONCE);
    let mut row = UNIT_POS_Y as usize;
    while row < n {
        #[unroll]
        for i in 0..ROWS_AT_ONCE {
            let at = row + i * groups;
            let value = wide[at.min(n - 1) * p + column];
            values[i] = select(at < n, value, 0.0f32);
        }
        #[unroll]
        for i in 0..ROWS_AT_ONCE {
            let at = (row + i * groups).min(n - 1);
            #[unroll]
            for rho in 0..rank {
                sums[rho] += values[i] * narrow[at * rank + rho];
            }
        }
        row += ROWS_AT_ONCE * groups;
    }
}

/// Adds up the sums of the units of each column, and writes those of the columns below p: `out[to + rho * p + column]`.
#[cube]
pub(in crate::backend) fn write_sums(
    sums: &Array<f32>,
    out: &mut Array<f32>,
    to: usize,
    p: usize,
    first: usize,
    #[comptime] rank: usize,
    #[comptime] columns: usize,
    #[comptime] groups: usize,
) {
    let mut shared = SharedMemory::<f32>::new(comptime!(rank * columns * groups));
    #[unroll]
    for rho in 0..rank {
        let at = (rho * groups + UNIT_POS_Y as usize) * columns + UNIT_POS_X as usize;
        shared[at] = sums[rho];
    }
    sync_cube();
    let mut sum_of = UNIT_POS as usize;
    while sum_of < rank * columns {
        let (rho, column) = (sum_of / columns, sum_of % columns);
        let mut sum = 0.0f32;
        for group in 0..groups {
            sum += shared[(rho * groups + group) * columns + column];
        }
        if first + column < p {
            out[to + rho * p + first + column] = sum;
        }
        sum_of += columns * groups;
    }
}

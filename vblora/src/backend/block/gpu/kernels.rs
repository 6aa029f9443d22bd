//! The narrow products of several maps, as one kernel each. Cubes with the same second position work for one map.
#![allow(
    missing_docs,
    clippy::manual_div_ceil,
    reason = "the macros make launch functions of these"
)]

use cubecl::prelude::*;

/// `out_i[n, r] = scale * x_i[n, d_i] factor_i[r, d_i]^T`. A plane takes a row. The outputs lie `apart` values from one another.
#[cube(launch)]
pub(super) fn narrow_of_each(
    wides: &Sequence<Array<f32>>,
    factors: &Sequence<Array<f32>>,
    out: &mut Array<f32>,
    n: usize,
    apart: usize,
    scale: f32,
    #[comptime] rank: usize,
) {
    let row = (CUBE_POS_X * CUBE_DIM_Y + UNIT_POS_Y) as usize;
    // All units of a plane take the same branch.
    if row >= n {
        terminate!();
    }
    #[unroll]
    for i in 0..wides.len() {
        if CUBE_POS_Y as usize == i {
            let to = i * apart + row * rank;
            products_of_row(
                wides.index(i),
                factors.index(i),
                out,
                row,
                n,
                to,
                scale,
                rank,
            );
        }
    }
}

#[cube]
fn products_of_row(
    wide: &Array<f32>,
    factor: &Array<f32>,
    out: &mut Array<f32>,
    row: usize,
    n: usize,
    to: usize,
    scale: f32,
    #[comptime] rank: usize,
) {
    let d = wide.len() / n;
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
            sums[rho] += value * factor[rho * d + j];
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

/// The number of rows that a unit of [`sums_of_each`] reads at a time, so that one read does not wait for the other.
const ROWS_AT_ONCE: usize = 8;

/// `out_i[r, p_i] = narrow_i[n, r]^T wide_i[n, p_i]`. A cube has some columns. For each of them, `groups` units share its rows. Each output
/// starts at the next multiple of `aligned` values after the one before.
#[cube(launch)]
pub(super) fn sums_of_each(
    wides: &Sequence<Array<f32>>,
    narrows: &Sequence<Array<f32>>,
    out: &mut Array<f32>,
    n: usize,
    #[comptime] aligned: usize,
    #[comptime] rank: usize,
    #[comptime] columns: usize,
    #[comptime] groups: usize,
) {
    let first = CUBE_POS_X as usize * columns;
    let mut sums = Array::<f32>::new(rank);
    #[unroll]
    for rho in 0..rank {
        sums[rho] = 0.0f32;
    }
    let mut p = 0usize;
    let mut to = 0usize;
    let mut start = 0usize;
    #[unroll]
    for i in 0..wides.len() {
        let width = wides.index(i).len() / n;
        if CUBE_POS_Y as usize == i {
            p = width;
            to = start;
            if first < width {
                let column = (first + UNIT_POS_X as usize).min(width - 1);
                add_rows(
                    wides.index(i),
                    narrows.index(i),
                    &mut sums,
                    n,
                    width,
                    column,
                    rank,
                    groups,
                );
            }
        }
        start += (rank * width + comptime!(aligned - 1)) / aligned * aligned;
    }
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

/// Adds this unit's rows of a column, each times its narrow values.
#[cube]
fn add_rows(
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

//! The narrow products of several maps, as one kernel each. Cubes with the same second position work for one map.
#![allow(
    missing_docs,
    clippy::manual_div_ceil,
    reason = "the macros make launch functions of these"
)]

use cubecl::prelude::*;

use crate::backend::linear::gpu::kernels::{add_rows, products_of_row, write_sums};

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
            let wide = wides.index(i);
            let d = wide.len() / n;
            let to = i * apart + row * rank;
            products_of_row(wide, factors.index(i), (1, d), out, to, row, d, scale, rank);
        }
    }
}

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
    write_sums(&sums, out, to, p, first, rank, columns, groups);
}

//! The narrow products of low-rank updates as CubeCL kernels. Cubes with the same second position work for one map.
//!
//! Tiled matrix products are made for square operands and spend longer on four columns than on hundreds. These kernels read the wide
//! operand once and keep the rank's sums in registers. A unit asks for several pieces of memory before it uses the first of them. Each use
//! asks for the piece of the next round, or else a compiler may put each read just before its use, where it waits. Reads beyond the end
//! get the last piece, which counts for nothing.
#![allow(
    missing_docs,
    clippy::manual_div_ceil,
    reason = "the macros make launch functions of these"
)]

use cubecl::prelude::*;

use crate::backend::gpu::rows::zeros;

/// What is known of a launch of [`narrow_of_each`] when it is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ProductForm {
    pub(super) rank: usize,
    /// Planes of a cube.
    pub(super) planes: usize,
    /// Planes that share a row, a divisor of `planes`.
    pub(super) parts: usize,
    /// Pieces that a unit asks for at a time.
    pub(super) ahead: usize,
}

/// `out_i[n, r] = scale * wide_i[n, d_i] factor_i[r, d_i]^T`. The outputs lie `apart` values from one another. Cubes are planes wide and
/// several planes high.
#[cube(launch)]
pub(super) fn narrow_of_each<V: Size>(
    wides: &Sequence<Array<Vector<f32, V>>>,
    factors: &Sequence<Array<Vector<f32, V>>>,
    out: &mut Array<f32>,
    n: usize,
    apart: usize,
    scale: f32,
    #[comptime] form: ProductForm,
    #[define(V)] _piece: usize,
) {
    let rank = comptime!(form.rank);
    let rows = comptime!(form.planes / form.parts);
    let plane = UNIT_POS_Y as usize;
    let first = CUBE_POS_X as usize * rows;
    let row = (first + plane / form.parts).min(n - 1);
    let mut sums = Array::<f32>::new(rank);
    #[unroll]
    for rho in 0..rank {
        sums[rho] = 0.0f32;
    }
    #[unroll]
    for i in 0..wides.len() {
        if CUBE_POS_Y as usize == i {
            add_products_of_row(wides.index(i), factors.index(i), &mut sums, row, form);
        }
    }
    // The sums of each plane, added up in the order of the planes.
    let mut shared = SharedMemory::<f32>::new(comptime!(form.planes * rank));
    #[unroll]
    for rho in 0..rank {
        let sum = plane_sum(sums[rho]);
        if UNIT_POS_X == 0 {
            shared[plane * rank + rho] = sum;
        }
    }
    sync_cube();
    let mut sum_of = UNIT_POS as usize;
    while sum_of < rows * rank {
        let row = first + sum_of / rank;
        let mut sum = 0.0f32;
        #[unroll]
        for part in 0..form.parts {
            sum += shared[(sum_of / rank * form.parts + part) * rank + sum_of % rank];
        }
        if row < n {
            out[CUBE_POS_Y as usize * apart + row * rank + sum_of % rank] = scale * sum;
        }
        sum_of += (CUBE_DIM_X * CUBE_DIM_Y) as usize;
    }
}

/// Adds this unit's share of the products of a row with each row of the factor.
#[cube]
fn add_products_of_row<V: Size>(
    wide: &Array<Vector<f32, V>>,
    factor: &Array<Vector<f32, V>>,
    sums: &mut Array<f32>,
    row: usize,
    #[comptime] form: ProductForm,
) {
    let rank = comptime!(form.rank);
    let ahead = comptime!(form.ahead);
    let pieces = factor.len() / rank;
    let start = row * pieces;
    let apart = CUBE_DIM_X as usize * form.parts;
    let mut held = Array::<Vector<f32, V>>::new(ahead);
    let mut j = UNIT_POS_Y as usize % form.parts * CUBE_DIM_X as usize + UNIT_POS_X as usize;
    #[unroll]
    for i in 0..ahead {
        held[i] = wide[start + (j + i * apart).min(pieces - 1)];
    }
    while j < pieces {
        #[unroll]
        for i in 0..ahead {
            let at = j + i * apart;
            let piece = select(at < pieces, held[i], zeros::<V>());
            // The next use is a whole round away.
            held[i] = wide[start + (at + ahead * apart).min(pieces - 1)];
            #[unroll]
            for rho in 0..rank {
                let weights = factor[rho * pieces + at.min(pieces - 1)];
                #[unroll]
                for v in 0..V::value() {
                    sums[rho] += piece[v] * weights[v];
                }
            }
        }
        j += ahead * apart;
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

/// What is known of a launch of [`sums_of_each`] when it is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SumForm {
    pub(super) rank: usize,
    /// Units side by side, each with a piece of neighbouring columns. The others share these columns' rows.
    pub(super) lanes: usize,
    /// Units of a cube, a multiple of lanes and of a plane.
    pub(super) units: usize,
    pub(super) plane: usize,
    /// Rows that a unit asks for at a time.
    pub(super) ahead: usize,
}

impl SumForm {
    /// Neighbouring units whose sums are added up without shared memory.
    fn segment(self) -> usize {
        self.lanes.max(self.plane)
    }

    /// The distances, in units, between those with the same columns in a segment: doubled from one to the next.
    fn exchanges(self) -> usize {
        (self.segment() / self.lanes).ilog2() as usize
    }
}

/// `out_i[r, p_i] = narrow_i[n, r]^T wide_i[n, p_i]`. A cube has `lanes` pieces of V columns. Each output starts at the next multiple of
/// `aligned` values after the one before.
#[cube(launch)]
pub(super) fn sums_of_each<V: Size, N: Size>(
    wides: &Sequence<Array<Vector<f32, V>>>,
    narrows: &Sequence<Array<Vector<f32, N>>>,
    out: &mut Array<f32>,
    n: usize,
    #[comptime] aligned: usize,
    #[comptime] form: SumForm,
    #[define(V)] _piece: usize,
    #[define(N)] _narrow_piece: usize,
) {
    let vector = V::value();
    let rank = comptime!(form.rank);
    let lanes = comptime!(form.lanes);
    let values = comptime!(rank * vector);
    let unit = UNIT_POS as usize;
    let first = CUBE_POS_X as usize * lanes;
    let mut sums = Array::<f32>::new(values);
    #[unroll]
    for i in 0..values {
        sums[i] = 0.0f32;
    }
    // The pieces of a row of this cube's map, and the place of its output.
    let mut pieces = 0usize;
    let mut to = 0usize;
    let mut start = 0usize;
    #[unroll]
    for i in 0..wides.len() {
        let width = wides.index(i).len() / n;
        if CUBE_POS_Y as usize == i {
            pieces = width;
            to = start;
            if first < width {
                let piece = (first + unit % lanes).min(width - 1);
                add_rows(
                    wides.index(i),
                    narrows.index(i),
                    &mut sums,
                    n,
                    width,
                    piece,
                    form,
                );
            }
        }
        start += (values * width + comptime!(aligned - 1)) / aligned * aligned;
    }
    #[unroll]
    for step in 0..comptime!(form.exchanges()) {
        #[unroll]
        for i in 0..values {
            sums[i] += plane_shuffle_xor(sums[i], comptime!((lanes << step) as u32));
        }
    }
    let segment = comptime!(form.segment());
    let segments = comptime!(form.units / segment);
    let columns = comptime!(lanes * vector);
    let mut shared = SharedMemory::<f32>::new(comptime!(segments * rank * columns));
    if unit % segment < lanes {
        #[unroll]
        for i in 0..values {
            // In the order of the rank, the unit and its columns.
            let rho = comptime!(i / vector);
            let column = unit % lanes * vector + comptime!(i % vector);
            let at = (unit / segment * rank + rho) * columns + column;
            shared[at] = sums[i];
        }
    }
    sync_cube();
    let width = pieces * vector;
    let mut sum_of = unit;
    while sum_of < rank * columns {
        let (rho, column) = (sum_of / columns, first * vector + sum_of % columns);
        let mut sum = 0.0f32;
        for i in 0..segments {
            sum += shared[i * rank * columns + sum_of];
        }
        if column < width {
            out[to + rho * width + column] = sum;
        }
        sum_of += form.units;
    }
}

/// Adds this unit's rows of a piece of columns, each times its narrow values.
#[cube]
fn add_rows<V: Size, N: Size>(
    wide: &Array<Vector<f32, V>>,
    narrow: &Array<Vector<f32, N>>,
    sums: &mut Array<f32>,
    n: usize,
    pieces: usize,
    piece: usize,
    #[comptime] form: SumForm,
) {
    let vector = V::value();
    let narrow_vector = N::value();
    let groups = comptime!(form.units / form.lanes);
    let narrow_pieces = comptime!(form.rank / narrow_vector);
    let mut held = Array::<Vector<f32, V>>::new(form.ahead);
    let mut row = UNIT_POS as usize / form.lanes;
    #[unroll]
    for i in 0..form.ahead {
        held[i] = wide[(row + i * groups).min(n - 1) * pieces + piece];
    }
    while row < n {
        #[unroll]
        for i in 0..form.ahead {
            let at = row + i * groups;
            let value = select(at < n, held[i], zeros::<V>());
            // The next use is a whole round away.
            let next = at + comptime!(form.ahead * groups);
            held[i] = wide[next.min(n - 1) * pieces + piece];
            #[unroll]
            for q in 0..narrow_pieces {
                let weights = narrow[at.min(n - 1) * narrow_pieces + q];
                #[unroll]
                for u in 0..narrow_vector {
                    #[unroll]
                    for v in 0..vector {
                        let sum = comptime!((q * narrow_vector + u) * vector + v);
                        sums[sum] += value[v] * weights[u];
                    }
                }
            }
        }
        row += comptime!(form.ahead * groups);
    }
}

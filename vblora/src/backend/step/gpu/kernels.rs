//! Products of a few rows with whole matrices. Memory limits them: each weight is read once, in neighbouring pieces, by many cubes at a time.
#![allow(
    missing_docs,
    clippy::len_zero,
    clippy::manual_div_ceil,
    reason = "the macros make launch functions of these, and know fewer methods than Rust"
)]

use cubecl::prelude::*;

use super::tensor_cores::{self, PLANE, PLANES, TILE_ROWS, Tile};
use crate::backend::activation::gpu::kernels::gelu;

/// Units of a cube.
pub(super) const UNITS: usize = PLANES * PLANE;
/// The most maps of one launch.
pub(super) const MAX_MAPS: usize = 3;
/// Pieces of a weight that a unit asks for before it waits for the first of them, times its rows.
const AHEAD: usize = 16;
/// The most sums of a unit that are added up together. They lie in shared memory.
const SHARED_SUMS: usize = 16;

/// What is known of a launch when its kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Form {
    /// Rows that a unit has sums for, at least the batch's and at most 16.
    pub(super) rows: usize,
    /// Units side by side, each with a piece of neighbouring columns. The others share these columns' inner dimension.
    pub(super) lanes: usize,
    /// True if the mean is subtracted where there is a norm.
    pub(super) is_centred: bool,
    /// A bit for each map that has a bias.
    pub(super) biased: u32,
    /// The rank of each map's update; 0 without one.
    pub(super) ranks: [usize; MAX_MAPS],
    /// A bit for each map whose last factor lies with its dimensions swapped.
    pub(super) swapped: u32,
    /// True if tensor cores multiply.
    pub(super) on_tensor_cores: bool,
    pub(super) end: End,
}

/// What becomes of the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum End {
    /// They are the output, those of all maps side by side.
    Joined,
    /// The unit of two maps' sums, opened by `x sigmoid(x)`.
    Silu,
    /// The unit of two maps' sums, opened by GELU.
    GeluUnit,
    /// Their GELU by the error function.
    Gelu,
    /// Their GELU by tanh.
    GeluTanh,
    /// They are scaled and added to a tensor.
    Added,
}

impl Form {
    /// Maps whose sums each cube computes for the same columns.
    fn parts(self) -> usize {
        match self.end {
            End::Silu | End::GeluUnit => 2,
            End::Joined | End::Gelu | End::GeluTanh | End::Added => 1,
        }
    }

    fn has_bias(self, map: usize) -> bool {
        self.biased >> map & 1 == 1
    }

    /// The place of a map's bias among those of all maps.
    fn bias(self, map: usize) -> usize {
        (self.biased & ((1 << map) - 1)).count_ones() as usize
    }

    /// The place of a map's factor among those of all maps.
    fn factor(self, map: usize) -> usize {
        self.ranks
            .iter()
            .take(map)
            .filter(|&&rank| rank > 0)
            .count()
    }

    /// The narrow columns of the maps before this one.
    fn narrow_before(self, map: usize) -> usize {
        self.ranks.iter().take(map).sum()
    }

    fn is_swapped(self, map: usize) -> bool {
        self.swapped >> map & 1 == 1
    }
}

/// `end(norm(x) W_i + b_i + narrow_i up_i)`. Widths and strides of weights are counted in pieces of V values. Cubes follow one another along
/// the columns of the maps. A unit takes one piece of columns and every `UNITS / lanes`-th row of the weight. Where tensor cores multiply,
/// a plane takes all pieces of the cube.
#[cube(launch)]
pub(super) fn maps_of_rows<W: Float, V: Size>(
    x: &Array<f32>,
    norm: &Sequence<Array<f32>>,
    weights: &Sequence<Array<Vector<W, V>>>,
    widths: &Sequence<usize>,
    strides: &Sequence<usize>,
    biases: &Sequence<Array<f32>>,
    narrow: &Sequence<Array<f32>>,
    ups: &Sequence<Array<f32>>,
    added: &Sequence<Array<f32>>,
    out: &mut Array<f32>,
    n: usize,
    d: usize,
    epsilon: f32,
    scale: f32,
    #[comptime] form: Form,
    #[define(W)] _dtype: StorageType,
    #[define(V)] _vector: usize,
) {
    let vector = V::value();
    let rows = comptime!(form.rows);
    let lanes = comptime!(form.lanes);
    let parts = comptime!(form.parts());
    let columns = comptime!(lanes * vector);
    let on_tensor_cores = comptime!(form.on_tensor_cores);
    let together = comptime!(match on_tensor_cores {
        true => TILE_ROWS,
        false => rows.min((SHARED_SUMS / vector).max(1)).min(UNITS / columns),
    });
    let unit = UNIT_POS as usize;
    let mut shared = SharedMemory::<f32>::new(comptime!(match on_tensor_cores {
        true => PLANES * TILE_ROWS * columns,
        false => UNITS * rows.max(together * vector),
    }));

    // The map of this cube, its width and the number of its first column in the output.
    let mut map = 0usize;
    let mut width = 0usize;
    let mut to = 0usize;
    let mut total = 0usize;
    let mut block = CUBE_POS;
    let mut cubes = 0usize;
    #[unroll]
    for i in 0..weights.len() {
        let pieces = *widths.index(i);
        let is_part = comptime!(parts > 1);
        if is_part {
            width = pieces * vector;
            total = width;
        } else {
            let blocks = (pieces + comptime!(lanes - 1)) / lanes;
            if CUBE_POS >= cubes && CUBE_POS < cubes + blocks {
                map = i.runtime();
                width = pieces * vector;
                to = total;
                block = CUBE_POS - cubes;
            }
            cubes += blocks;
            total += pieces * vector;
        }
    }
    // Units beyond the last piece compute it again, for nothing.
    let pieces = width / vector;

    // Units have sums of rows, or tensor cores have tiles.
    let mut tiles = Sequence::<Tile>::new();
    let mut sums = Array::<f32>::new(comptime!(match on_tensor_cores {
        true => 1,
        false => parts * rows * vector,
    }));
    if on_tensor_cores {
        let piece = (block * lanes + tensor_cores::lane()).min(pieces - 1);
        tensor_cores::clear(&mut tiles, comptime!(parts * rows / TILE_ROWS * vector / 2));
        let mut means = Array::<f32>::new(comptime!(rows / TILE_ROWS));
        let mut inverses = Array::<f32>::new(comptime!(rows / TILE_ROWS));
        #[unroll]
        for i in 0..weights.len() {
            if i >= map && i < map + parts {
                tensor_cores::add_products::<W, V>(
                    weights.index(i),
                    x,
                    norm,
                    &mut means,
                    &mut inverses,
                    &mut shared,
                    &mut tiles,
                    piece,
                    *strides.index(i),
                    n,
                    d,
                    epsilon,
                    comptime!(if parts > 1 { i } else { 0 }),
                    rows,
                    comptime!(form.is_centred),
                );
            }
        }
    } else {
        let piece = (block * lanes + unit % lanes).min(pieces - 1);
        let mut means = Array::<f32>::new(rows);
        let mut inverses = Array::<f32>::new(rows);
        #[unroll]
        for row in 0..rows {
            means[row] = 0.0f32;
            inverses[row] = 1.0f32;
        }
        if comptime!(norm.len() > 0) {
            moments(
                x,
                &mut shared,
                &mut means,
                &mut inverses,
                0usize,
                n,
                d,
                epsilon,
                rows,
                comptime!(form.is_centred),
            );
        }
        #[unroll]
        for i in 0..comptime!(parts * rows * vector) {
            sums[i] = 0.0f32;
        }
        #[unroll]
        for i in 0..weights.len() {
            if i >= map && i < map + parts {
                add_products::<W, V>(
                    weights.index(i),
                    x,
                    norm,
                    &means,
                    &inverses,
                    &mut sums,
                    piece,
                    *strides.index(i),
                    n,
                    d,
                    comptime!(if parts > 1 { i * rows * vector } else { 0 }),
                    rows,
                    lanes,
                );
            }
        }
    }

    let values = comptime!(together * vector);
    // A unit for each output of the rows that are added up together.
    let column = block * columns + unit % columns;
    let sum_at = (unit / columns * vector + unit % vector) * UNITS + unit % columns / vector;
    #[unroll]
    for chunk in 0..comptime!(rows / together) {
        let row = unit / columns + comptime!(chunk * together);
        let is_output = unit < comptime!(together * columns) && row < n && column < width;
        let mut first = 0.0f32;
        let mut last = 0.0f32;
        #[unroll]
        for part in 0..parts {
            if on_tensor_cores {
                let start = comptime!((part * rows / TILE_ROWS + chunk) * vector / 2);
                tensor_cores::lay_out(&tiles, &mut shared, start, vector);
            } else {
                #[unroll]
                for i in 0..values {
                    shared[i * UNITS + unit] =
                        sums[comptime!((part * rows + chunk * together) * vector + i)];
                }
                add_up(&mut shared, values, lanes);
            }
            if is_output {
                let product = if on_tensor_cores {
                    tensor_cores::sum_of_planes(&shared, columns)
                } else {
                    shared[sum_at]
                };
                let of = map + part;
                let y = product + offset_of(biases, narrow, ups, of, row, column, width, n, form);
                if comptime!(part == 0) {
                    first = y;
                } else {
                    last = y;
                }
            }
            sync_cube();
        }
        if is_output {
            let at = row * total + to + column;
            out[at] = ended(first, last, added, at, scale, comptime!(form.end));
        }
    }
}

/// What becomes of the sums of both maps of a unit, or of the first one's alone.
#[cube]
fn ended(
    first: f32,
    last: f32,
    added: &Sequence<Array<f32>>,
    at: usize,
    scale: f32,
    #[comptime] end: End,
) -> f32 {
    if comptime!(end == End::Silu) {
        first / (1.0f32 + (-first).exp()) * last
    } else if comptime!(end == End::GeluUnit) {
        gelu(first, true) * last
    } else if comptime!(end == End::GeluTanh) {
        gelu(first, true)
    } else if comptime!(end == End::Gelu) {
        gelu(first, false)
    } else if comptime!(end == End::Added) {
        added.index(0usize)[at] + scale * first
    } else {
        first
    }
}

/// The bias and the update of an output of a map.
#[cube]
fn offset_of(
    biases: &Sequence<Array<f32>>,
    narrow: &Sequence<Array<f32>>,
    ups: &Sequence<Array<f32>>,
    map: usize,
    row: usize,
    column: usize,
    width: usize,
    n: usize,
    #[comptime] form: Form,
) -> f32 {
    let mut y = 0.0f32;
    #[unroll]
    for i in 0..MAX_MAPS {
        if map == i {
            if comptime!(form.has_bias(i)) {
                y += biases.index(comptime!(form.bias(i)))[column];
            }
            let rank = comptime!(form.ranks[i]);
            if comptime!(rank > 0) {
                let up = ups.index(comptime!(form.factor(i)));
                let start = n * comptime!(form.narrow_before(i)) + row * rank;
                #[unroll]
                for rho in 0..rank {
                    let at = if comptime!(form.is_swapped(i)) {
                        column * rank + rho
                    } else {
                        rho * width + column
                    };
                    y += narrow.index(0usize)[start + rho] * up[at];
                }
            }
        }
    }
    y
}

/// The weight and the bias of the norm of values `k`, or 1 and 0.
#[cube]
fn affine(norm: &Sequence<Array<f32>>, k: usize) -> (f32, f32) {
    let mut gamma = 1.0f32;
    let mut beta = 0.0f32;
    if comptime!(norm.len() > 0) {
        gamma = norm.index(0usize)[k];
    }
    if comptime!(norm.len() > 1) {
        beta = norm.index(1usize)[k];
    }
    (gamma, beta)
}

/// Adds a unit's share of the products with a piece of columns.
#[cube]
fn add_products<W: Float, V: Size>(
    weight: &Array<Vector<W, V>>,
    x: &Array<f32>,
    norm: &Sequence<Array<f32>>,
    means: &Array<f32>,
    inverses: &Array<f32>,
    sums: &mut Array<f32>,
    piece: usize,
    stride: usize,
    n: usize,
    d: usize,
    #[comptime] start: usize,
    #[comptime] rows: usize,
    #[comptime] lanes: usize,
) {
    let vector = V::value();
    let groups = comptime!(UNITS / lanes);
    let ahead_of_use = comptime!((AHEAD / rows).clamp(2, 8));
    let last_row = (n - 1) * d;
    let mut held = Array::<Vector<W, V>>::new(ahead_of_use);
    let mut k = UNIT_POS as usize / lanes;
    #[unroll]
    for ahead in 0..ahead_of_use {
        held[ahead] = weight[(k + ahead * groups).min(d - 1) * stride + piece];
    }
    while k < d {
        #[unroll]
        for ahead in 0..ahead_of_use {
            let at = k + ahead * groups;
            let from = at.min(d - 1);
            let values = held[ahead];
            // The next use is a whole round away, so that no read waits for another.
            let next = at + comptime!(ahead_of_use * groups);
            held[ahead] = weight[next.min(d - 1) * stride + piece];
            let (gamma, beta) = affine(norm, from);
            // What lies beyond the last value counts for nothing.
            let gamma = select(at < d, gamma, 0.0f32);
            let beta = select(at < d, beta, 0.0f32);
            #[unroll]
            for row in 0..rows {
                let value = x[(row * d).min(last_row) + from];
                let value = (value - means[row]) * inverses[row] * gamma + beta;
                #[unroll]
                for i in 0..vector {
                    sums[comptime!(start + row * vector + i)] += value * f32::cast_from(values[i]);
                }
            }
        }
        k += comptime!(ahead_of_use * groups);
    }
}

/// The means of rows, or 0 if they are not subtracted, and `1 / sqrt(var + epsilon)`. Row i of them is row `first + i` of x.
#[cube]
fn moments(
    x: &Array<f32>,
    shared: &mut SharedMemory<f32>,
    means: &mut Array<f32>,
    inverses: &mut Array<f32>,
    first: usize,
    n: usize,
    d: usize,
    epsilon: f32,
    #[comptime] rows: usize,
    #[comptime] is_centred: bool,
) {
    let unit = UNIT_POS as usize;
    let count = f32::cast_from(d);
    let last_row = (n - 1) * d;
    if is_centred {
        #[unroll]
        for row in 0..rows {
            let start = ((first + row) * d).min(last_row);
            let mut sum = 0.0f32;
            let mut k = unit;
            while k < d {
                sum += x[start + k];
                k += UNITS;
            }
            shared[row * UNITS + unit] = sum;
        }
        add_up(shared, rows, 1usize);
        #[unroll]
        for row in 0..rows {
            means[row] = shared[comptime!(row * UNITS)] / count;
        }
        sync_cube();
    }
    #[unroll]
    for row in 0..rows {
        let start = ((first + row) * d).min(last_row);
        let mut sum = 0.0f32;
        let mut k = unit;
        while k < d {
            let centred = x[start + k] - means[row];
            sum += centred * centred;
            k += UNITS;
        }
        shared[row * UNITS + unit] = sum;
    }
    add_up(shared, rows, 1usize);
    #[unroll]
    for row in 0..rows {
        inverses[row] = 1.0f32 / (shared[comptime!(row * UNITS)] / count + epsilon).sqrt();
    }
    sync_cube();
}

/// Adds up each of some values, one of every unit, until `keep` units have sums. A unit's i-th value lies at `i UNITS`.
#[cube]
pub(super) fn add_up(
    shared: &mut SharedMemory<f32>,
    #[comptime] values: usize,
    #[comptime] keep: usize,
) {
    sync_cube();
    let unit = UNIT_POS as usize;
    #[unroll]
    for step in 0..comptime!((UNITS / keep).ilog2() as usize) {
        let half = comptime!(UNITS >> (step + 1));
        if unit < half {
            #[unroll]
            for i in 0..values {
                let at = i * UNITS + unit;
                shared[at] = shared[at] + shared[at + half];
            }
        }
        sync_cube();
    }
}

/// `narrow_i[n, r_i] = scale_i norm(x)[n, d] down_i[d, r_i]`, one map's after the other. A cube takes one row, and with the second position
/// one map. In a multi-adapter batch each value has a scale of its own as well.
#[cube(launch)]
pub(super) fn narrow_of_rows(
    x: &Array<f32>,
    norm: &Sequence<Array<f32>>,
    downs: &Sequence<Array<f32>>,
    scales: &Sequence<f32>,
    row_scales: &Sequence<Array<f32>>,
    out: &mut Array<f32>,
    n: usize,
    d: usize,
    epsilon: f32,
    #[comptime] form: Form,
    #[comptime] downs_swapped: u32,
) {
    let row = CUBE_POS_X as usize;
    let unit = UNIT_POS as usize;
    let most = comptime!(form.ranks.into_iter().max().unwrap_or(1));
    let mut shared = SharedMemory::<f32>::new(comptime!(UNITS * most));
    let mut means = Array::<f32>::new(1usize);
    let mut inverses = Array::<f32>::new(1usize);
    means[0] = 0.0f32;
    inverses[0] = 1.0f32;
    if comptime!(norm.len() > 0) {
        moments(
            x,
            &mut shared,
            &mut means,
            &mut inverses,
            row,
            n,
            d,
            epsilon,
            1usize,
            comptime!(form.is_centred),
        );
    }
    #[unroll]
    for i in 0..most {
        shared[i * UNITS + unit] = 0.0f32;
    }
    #[unroll]
    for i in 0..MAX_MAPS {
        let rank = comptime!(form.ranks[i]);
        if comptime!(rank > 0) {
            let slot = comptime!(form.factor(i));
            if CUBE_POS_Y as usize == slot {
                let down = downs.index(slot);
                let mut sums = Array::<f32>::new(rank);
                #[unroll]
                for rho in 0..rank {
                    sums[rho] = 0.0f32;
                }
                let mut k = unit;
                while k < d {
                    let (gamma, beta) = affine(norm, k);
                    let value = (x[row * d + k] - means[0]) * inverses[0] * gamma + beta;
                    #[unroll]
                    for rho in 0..rank {
                        let at = if comptime!(downs_swapped >> i & 1 == 1) {
                            rho * d + k
                        } else {
                            k * rank + rho
                        };
                        sums[rho] += value * down[at];
                    }
                    k += UNITS;
                }
                #[unroll]
                for rho in 0..rank {
                    shared[rho * UNITS + unit] = sums[rho];
                }
            }
        }
    }
    add_up(&mut shared, most, 1usize);
    #[unroll]
    for i in 0..MAX_MAPS {
        let rank = comptime!(form.ranks[i]);
        if comptime!(rank > 0) {
            let slot = comptime!(form.factor(i));
            if CUBE_POS_Y as usize == slot && unit < rank {
                let mut value = shared[unit * UNITS] * *scales.index(slot);
                if comptime!(row_scales.len() > 0) {
                    value *= row_scales.index(slot)[row * rank + unit];
                }
                out[n * comptime!(form.narrow_before(i)) + row * rank + unit] = value;
            }
        }
    }
}

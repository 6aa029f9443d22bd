//! Products of several rows with a map on tensor cores.
//!
//! Tensor cores multiply factors of 11 bits (TF32), and cut off the bits below. Each f32 is split into two of them, and three of their four
//! products are added up. So results are about as close as those of f32. A weight of 16 bits is one factor.
#![allow(
    missing_docs,
    clippy::len_zero,
    clippy::manual_div_ceil,
    reason = "the macros make launch functions of these, and know fewer methods than Rust"
)]

use cubecl::{cmma::MmaDefinition, prelude::*, tf32 as Tf32};

/// Rows of a batch that one instruction multiplies.
pub(super) const TILE_ROWS: usize = 8;
/// Pieces of a weight's row that a plane reads side by side.
pub(super) const LANES: usize = 8;
/// Units of a plane.
pub(super) const PLANE: usize = 32;
/// Planes of a cube. They share the inner dimension.
pub(super) const PLANES: usize = 8;
/// Values of the inner dimension that all planes of a cube multiply at a time, 8 each.
const ROUND: usize = 8 * PLANES;
/// Bytes of a weight that a unit asks for before it waits for the first of them.
const BYTES_AHEAD: usize = 128;

/// What one unit holds of an instruction's operands. The instruction's m are the columns of a weight, its n the rows of the batch.
type Factors = Array<Vector<Tf32, Const<1>>>;
/// What one unit holds of an instruction's output: two neighbouring rows of one column, and of the next one.
pub(super) type Tile = Array<Vector<f32, Const<2>>>;

/// Instructions whose weights a unit asks for before it waits for the first of them.
fn ahead(bytes_of_piece: usize) -> usize {
    (BYTES_AHEAD / (2 * bytes_of_piece)).clamp(2, 8)
}

/// The piece of a unit among those that its plane reads side by side.
#[cube]
pub(super) fn lane() -> usize {
    UNIT_POS as usize % PLANE / 4
}

/// Adds tiles of zeros.
#[cube]
pub(super) fn clear(tiles: &mut Sequence<Tile>, #[comptime] count: usize) {
    #[unroll]
    for _ in 0..count {
        let mut zeros = Tile::new(2usize);
        zeros[0] = Vector::new(0.0f32);
        zeros[1] = Vector::new(0.0f32);
        tiles.push(zeros);
    }
}

/// Lays out the tiles of [`TILE_ROWS`] rows from `start`, each plane's row by row. A tile has two neighbouring columns of each lane.
#[cube]
pub(super) fn lay_out(
    tiles: &Sequence<Tile>,
    shared: &mut SharedMemory<f32>,
    #[comptime] start: usize,
    #[comptime] vector: usize,
) {
    let columns = comptime!(LANES * vector);
    let row = UNIT_POS as usize / PLANE * TILE_ROWS + 2 * (UNIT_POS as usize % 4);
    #[unroll]
    for pair in 0..comptime!(vector / 2) {
        let tile = tiles.index(comptime!(start + pair));
        let at = row * columns + lane() * vector + 2 * pair;
        #[unroll]
        for i in 0..2usize {
            let neighbours = tile[i];
            shared[at + i] = neighbours[0];
            shared[at + columns + i] = neighbours[1];
        }
    }
    sync_cube();
}

/// The sum over planes of the unit's place in what was laid out.
#[cube]
pub(super) fn sum_of_planes(shared: &SharedMemory<f32>, #[comptime] columns: usize) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for plane in 0..PLANES {
        sum += shared[comptime!(plane * TILE_ROWS * columns) + UNIT_POS as usize];
    }
    sum
}

/// Adds a unit's share of the products with a piece of columns to the tiles of a part. Before the first part it finds the means of rows and
/// what divides them.
#[cube]
pub(super) fn add_products<W: Float, V: Size>(
    weight: &Array<Vector<W, V>>,
    x: &Array<f32>,
    norm: &Sequence<Array<f32>>,
    means: &mut Array<f32>,
    inverses: &mut Array<f32>,
    shared: &mut SharedMemory<f32>,
    sums: &mut Sequence<Tile>,
    piece: usize,
    stride: usize,
    n: usize,
    d: usize,
    epsilon: f32,
    #[comptime] part: usize,
    #[comptime] rows: usize,
    #[comptime] is_centred: bool,
) {
    let vector = V::value();
    let bytes = W::type_size();
    let ahead = comptime!(ahead(vector * bytes));
    // A value of 16 bits is one factor.
    let is_exact = comptime!(bytes < 4);
    let tiles = comptime!(rows / TILE_ROWS);
    let pairs = comptime!(vector / 2);
    let last_row = (n - 1) * d;
    // The inner places that a unit reads follow one another. Instructions see them at distances of 4, in both operands.
    let mut start = UNIT_POS as usize / PLANE * 8;
    let of_unit = 2 * (UNIT_POS as usize % 4);
    let has_norm = comptime!(norm.len() > 0);
    let mut held = Array::<Vector<W, V>>::new(comptime!(2 * ahead));
    let mut held_x = Array::<f32>::new(comptime!(2 * ahead * tiles));
    let mut gammas = Array::<f32>::new(comptime!(if has_norm { 2 * ahead } else { 1 }));
    #[unroll]
    for i in 0..comptime!(2 * ahead) {
        let k = (start + of_unit + comptime!(i / 2 * ROUND + i % 2)).min(d - 1);
        held[i] = weight[k * stride + piece];
        #[unroll]
        for tile in 0..tiles {
            let row = comptime!(tile * TILE_ROWS) + lane();
            held_x[comptime!(i * tiles + tile)] = x[(row * d).min(last_row) + k];
        }
        if has_norm {
            gammas[i] = norm.index(0usize)[k];
        }
    }
    if comptime!(has_norm && part == 0) {
        moments(x, shared, n, d, epsilon, rows, is_centred);
        #[unroll]
        for tile in 0..tiles {
            let row = comptime!(tile * TILE_ROWS) + lane();
            means[tile] = shared[row];
            inverses[tile] = shared[rows + row];
        }
        sync_cube();
    }
    let tensor_cores = MmaDefinition::<Tf32, Tf32, f32>::new(16usize, 8usize, 8usize);
    let mut high = Factors::new(4usize);
    let mut low = Factors::new(4usize);
    let mut of_x_high = Factors::new(2usize);
    let mut of_x_low = Factors::new(2usize);
    let mut x_high = Array::<f32>::new(comptime!(2 * tiles));
    let mut x_low = Array::<f32>::new(comptime!(2 * tiles));
    while start < d {
        #[unroll]
        for i in 0..ahead {
            let from = start + of_unit + comptime!(i * ROUND);
            let first = held[comptime!(2 * i)];
            let second = held[comptime!(2 * i + 1)];
            #[unroll]
            for j in 0..2usize {
                let of_step = comptime!(2 * i + j);
                // What lies beyond the last value counts for nothing.
                let is_inside = from + j < d;
                let mut beta = 0.0f32;
                if comptime!(norm.len() > 1) {
                    beta = norm.index(1usize)[(from + j).min(d - 1)];
                }
                // The next use is a whole round away, so that no read waits for another.
                let next = (from + comptime!(ahead * ROUND + j)).min(d - 1);
                held[of_step] = weight[next * stride + piece];
                #[unroll]
                for tile in 0..tiles {
                    let row = comptime!(tile * TILE_ROWS) + lane();
                    let mut value = held_x[comptime!(of_step * tiles + tile)];
                    held_x[comptime!(of_step * tiles + tile)] = x[(row * d).min(last_row) + next];
                    if has_norm {
                        value = (value - means[tile]) * inverses[tile] * gammas[of_step] + beta;
                    }
                    let value = select(is_inside, value, 0.0f32);
                    let kept = cut(value);
                    x_high[comptime!(2 * tile + j)] = kept;
                    x_low[comptime!(2 * tile + j)] = value - kept;
                }
                if has_norm {
                    gammas[of_step] = norm.index(0usize)[next];
                }
            }
            #[unroll]
            for pair in 0..pairs {
                #[unroll]
                for j in 0..4usize {
                    let of_row = if comptime!(j < 2) { first } else { second };
                    let value = f32::cast_from(of_row[comptime!(2 * pair + j % 2)]);
                    let kept = if is_exact { value } else { cut(value) };
                    high[j] = factor(kept);
                    low[j] = factor(value - kept);
                }
                #[unroll]
                for tile in 0..tiles {
                    #[unroll]
                    for j in 0..2usize {
                        of_x_high[j] = factor(x_high[comptime!(2 * tile + j)]);
                        of_x_low[j] = factor(x_low[comptime!(2 * tile + j)]);
                    }
                    let at = comptime!((part * tiles + tile) * pairs + pair);
                    if !is_exact {
                        tensor_cores.execute_inplace(&low, &of_x_high, sums.index_mut(at));
                    }
                    tensor_cores.execute_inplace(&high, &of_x_low, sums.index_mut(at));
                    tensor_cores.execute_inplace(&high, &of_x_high, sums.index_mut(at));
                }
            }
        }
        start += comptime!(ahead * ROUND);
    }
}

/// The value without the bits that tensor cores cut off.
#[cube]
fn cut(value: f32) -> f32 {
    f32::reinterpret(u32::reinterpret(value) & 0xffff_e000u32)
}

/// A value as tensor cores take it.
#[cube]
fn factor(value: f32) -> Vector<Tf32, Const<1>> {
    Vector::new(Tf32::reinterpret(value))
}

/// Writes the means of rows, or 0 if they are not subtracted, and behind them `1 / sqrt(var + epsilon)`. Each plane takes every so many-th row.
#[cube]
fn moments(
    x: &Array<f32>,
    shared: &mut SharedMemory<f32>,
    n: usize,
    d: usize,
    epsilon: f32,
    #[comptime] rows: usize,
    #[comptime] is_centred: bool,
) {
    let plane = UNIT_POS as usize / PLANE;
    let lane = UNIT_POS as usize % PLANE;
    let last_row = (n - 1) * d;
    let count = f32::cast_from(d);
    #[unroll]
    for i in 0..comptime!(rows / PLANES) {
        let row = plane + comptime!(i * PLANES);
        let start = (row * d).min(last_row);
        let mut mean = 0.0f32;
        if is_centred {
            mean = powers(x, start, d, 0.0f32, false) / count;
        }
        let variance = powers(x, start, d, mean, true) / count;
        if lane == 0 {
            shared[row] = mean;
            shared[rows + row] = 1.0f32 / (variance + epsilon).sqrt();
        }
    }
    sync_cube();
}

/// The sum of the distances of a row's values from a mean, or of their squares.
#[cube]
fn powers(x: &Array<f32>, start: usize, d: usize, mean: f32, #[comptime] is_square: bool) -> f32 {
    let mut sum = 0.0f32;
    let mut k = UNIT_POS as usize % PLANE;
    while k < d {
        #[unroll]
        for i in 0..8usize {
            let at = k + comptime!(i * PLANE);
            let mut value = x[start + at.min(d - 1)] - mean;
            if is_square {
                value = value * value;
            }
            sum += select(at < d, value, 0.0f32);
        }
        k += comptime!(8 * PLANE);
    }
    plane_sum(sum)
}

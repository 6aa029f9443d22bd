//! Scores of relative positions (arXiv 2006.03654), for a block of queries of one head: of content with position, and of position with
//! content. A product gives a few rows their scores with all distances that they need. Each row then starts one distance after the other.

use pulp::Simd;

use super::{Attention, QUERIES, small};
use crate::{Aligned, LANES, over_rows, padded, tile::ROWS, zeros};

/// Queries or keys whose distances are multiplied at once, whole tiles. Few rows need few distances beyond their own.
const GROUP: usize = 2 * ROWS;

/// The sizes of one head's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// The number of distances, `2 t - 1`.
    pub rows: usize,
    /// The number of values of a head.
    pub size: usize,
}

impl Sizes {
    /// The number of values of both tables, their rows padded.
    pub fn room(self) -> usize {
        2 * self.rows * padded(self.size)
    }

    fn turned_width(self) -> usize {
        padded(self.rows + LANES)
    }
}

/// The tables of all heads as the kernels read them: of keys, from the largest distance to the smallest, and of queries in reverse. A
/// distance is the query's place less the key's.
#[derive(Debug)]
pub struct Tables {
    sizes: Sizes,
    /// `[heads, rows, padded size]` each.
    plain: [Aligned; 2],
    /// `[heads, size, padded rows]` each.
    turned: [Aligned; 2],
}

impl Tables {
    /// Lays out the tables of keys and of queries.
    ///
    /// # Shapes
    /// - of_key, of_query: `[rows, heads size]`
    pub fn new(both: [&[f32]; 2], heads: usize, sizes: Sizes) -> Self {
        let Sizes { rows, size } = sizes;
        let (width, turned_width) = (padded(size), sizes.turned_width());
        let plain = both.map(|from| {
            let mut all = Aligned::zeros(heads * rows * width);
            over_rows(&mut all, width, |start, run| {
                for (i, to) in run.chunks_exact_mut(width).enumerate() {
                    let (head, row) = ((start / width + i) / rows, (start / width + i) % rows);
                    to[..size].copy_from_slice(&from[(row * heads + head) * size..][..size]);
                }
            });
            all
        });
        let turned = both.map(|from| {
            let mut all = Aligned::zeros(heads * size * turned_width);
            over_rows(&mut all, turned_width, |start, run| {
                for (i, to) in run.chunks_exact_mut(turned_width).enumerate() {
                    let column = start / turned_width + i;
                    let values = from.iter().skip(column).step_by(heads * size);
                    for (to, value) in to.iter_mut().zip(values) {
                        *to = *value;
                    }
                }
            });
            all
        });
        Self {
            sizes,
            plain,
            turned,
        }
    }

    /// What lies as the tables of all heads do, `[heads]` of both tables, as `[rows, heads size]` each.
    pub fn joined(&self, values: &[f32]) -> [Vec<f32>; 2] {
        let Sizes { rows, size } = self.sizes;
        let (width, room) = (padded(size), self.sizes.room());
        let heads = values.len() / room;
        [0, 1].map(|table| {
            let mut all = zeros(rows * heads * size);
            over_rows(&mut all, heads * size, |start, run| {
                for (i, to) in run.chunks_exact_mut(heads * size).enumerate() {
                    let row = table * rows + start / (heads * size) + i;
                    for (head, to) in to.chunks_exact_mut(size).enumerate() {
                        to.copy_from_slice(&values[head * room + row * width..][..size]);
                    }
                }
            });
            all
        })
    }

    /// The tables without their memory.
    pub fn view(&self) -> Relative<'_> {
        Relative {
            sizes: self.sizes,
            plain: self.plain.each_ref().map(|values| &**values),
            turned: self.turned.each_ref().map(|values| &**values),
        }
    }
}

/// A view of [`Tables`].
#[derive(Debug, Clone, Copy)]
pub struct Relative<'a> {
    /// The sizes of one head's tables.
    pub sizes: Sizes,
    plain: [&'a [f32]; 2],
    turned: [&'a [f32]; 2],
}

impl<'a> Relative<'a> {
    fn plain(&self, head: usize) -> [&'a [f32]; 2] {
        let len = self.sizes.rows * padded(self.sizes.size);
        self.plain.map(|values| &values[head * len..][..len])
    }

    fn turned(&self, head: usize) -> [&'a [f32]; 2] {
        let len = self.sizes.size * self.sizes.turned_width();
        self.turned.map(|values| &values[head * len..][..len])
    }

    /// The first row of the keys' table that `count` queries from `first` on need.
    fn first_of_queries(&self, first: usize, count: usize) -> usize {
        self.sizes.rows / 2 + 1 - first - count
    }

    /// The first row of the queries' table that `count` keys from `first` on need, with queries from `query` on.
    fn first_of_keys(&self, query: usize, first: usize, count: usize) -> usize {
        self.sizes.rows / 2 + query + 1 - first - count
    }
}

impl Attention<'_> {
    /// Memory for the products of a group; none without relative positions.
    pub(super) fn scratch(&self) -> Aligned {
        let columns = self.keys.max(QUERIES) + GROUP - 1;
        Aligned::zeros(self.relative.map_or(0, |_| GROUP * padded(columns)))
    }
}

/// Adds the scores of positions to those of a block of queries.
#[inline(always)]
pub(super) fn add_scores<S: Simd>(
    simd: S,
    all: &Attention<'_>,
    relative: &Relative<'_>,
    [head, first, count]: [usize; 3],
    scores: &mut [f32],
    scratch: &mut [f32],
) {
    let (t_width, size, scale) = (padded(all.keys), all.size, all.scale);
    let [of_key, of_query] = relative.turned(head);
    let turned_width = relative.sizes.turned_width();
    for start in (0..count).step_by(GROUP) {
        let rows = GROUP.min(count - start);
        let columns = all.keys + rows - 1;
        let width = padded(columns);
        let from = relative.first_of_queries(first + start, rows);
        let q = &all.q[(first + start) * all.strides[0] + head * size..];
        small(
            simd,
            [rows, width, size],
            |r, i| q[r * all.strides[0] + i] * scale,
            (&of_key[from..], turned_width),
            (&mut *scratch, width),
            false,
        );
        for r in 0..rows {
            let to = &mut scores[(start + r) * t_width..][..all.keys];
            let from = &scratch[r * width + rows - 1 - r..][..all.keys];
            for (to, from) in to.iter_mut().zip(from) {
                *to += from;
            }
        }
    }
    let width = padded(count + GROUP - 1);
    for start in (0..all.keys).step_by(GROUP) {
        let rows = GROUP.min(all.keys - start);
        let from = relative.first_of_keys(first, start, rows);
        let k = &all.k[start * all.strides[1] + head * size..];
        small(
            simd,
            [rows, padded(count + rows - 1), size],
            |r, i| k[r * all.strides[1] + i] * scale,
            (&of_query[from..], turned_width),
            (&mut *scratch, width),
            false,
        );
        for i in 0..count {
            let to = &mut scores[i * t_width + start..][..rows];
            for (r, to) in to.iter_mut().enumerate() {
                *to += scratch[r * width + i + rows - 1 - r];
            }
        }
    }
}

/// Adds the gradients that go through the scores of positions.
///
/// # Shapes
/// - d_scores: `[queries, padded keys]`; q and dq: `[queries, padded size]`, of the block; k and dk: `[keys, padded size]`
/// - tables: both tables of the head, `[rows, padded size]` each
#[inline(always)]
pub(super) fn add_gradients<S: Simd>(
    simd: S,
    all: &Attention<'_>,
    relative: &Relative<'_>,
    [head, first, count]: [usize; 3],
    [d_scores, q, k]: [&[f32]; 3],
    [dq, dk, tables]: [&mut [f32]; 3],
    scratch: &mut [f32],
) {
    let (t_width, size_width, scale) = (padded(all.keys), padded(all.size), all.scale);
    let [of_key, of_query] = relative.plain(head);
    let (d_of_key, d_of_query) = tables.split_at_mut(tables.len() / 2);
    for start in (0..count).step_by(GROUP) {
        let rows = GROUP.min(count - start);
        let columns = all.keys + rows - 1;
        let width = padded(columns);
        let from = relative.first_of_queries(first + start, rows) * size_width;
        scratch[..rows * width].fill(0.0);
        for r in 0..rows {
            let to = &mut scratch[r * width + rows - 1 - r..][..all.keys];
            for (to, d_score) in to.iter_mut().zip(&d_scores[(start + r) * t_width..]) {
                *to = d_score * scale;
            }
        }
        small(
            simd,
            [rows, size_width, columns],
            |r, i| scratch[r * width + i],
            (&of_key[from..], size_width),
            (&mut dq[start * size_width..], size_width),
            true,
        );
        small(
            simd,
            [columns, size_width, rows],
            |r, i| scratch[i * width + r],
            (&q[start * size_width..], size_width),
            (&mut d_of_key[from..], size_width),
            true,
        );
    }
    let width = padded(count + GROUP - 1);
    for start in (0..all.keys).step_by(GROUP) {
        let rows = GROUP.min(all.keys - start);
        let columns = count + rows - 1;
        let from = relative.first_of_keys(first, start, rows) * size_width;
        scratch[..rows * width].fill(0.0);
        for i in 0..count {
            let d_scores = &d_scores[i * t_width + start..][..rows];
            for (r, d_score) in d_scores.iter().enumerate() {
                scratch[r * width + i + rows - 1 - r] = d_score * scale;
            }
        }
        small(
            simd,
            [rows, size_width, columns],
            |r, i| scratch[r * width + i],
            (&of_query[from..], size_width),
            (&mut dk[start * size_width..], size_width),
            true,
        );
        small(
            simd,
            [columns, size_width, rows],
            |r, i| scratch[i * width + r],
            (&k[start * size_width..], size_width),
            (&mut d_of_query[from..], size_width),
            true,
        );
    }
}

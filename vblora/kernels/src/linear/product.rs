//! Large products. All threads first lay the right-hand side out in panels of one tile's width. Then each thread takes some rows of the
//! result, and lays out the same rows of the left-hand side. While a tile is computed, the processor fetches what later tiles read and write.

use std::{cell::Cell, ops::Range};

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::right::{Matrix, RightHand};
use crate::{
    Aligned,
    prefetch::{Level, prefetch},
    tile::{ROWS, Sums, accumulate, load, load_part, store},
};

/// Elements of the inner dimension whose panel is multiplied at once: it fits in the second-level cache beside the rows.
const INNER: usize = 768;

/// Elements of the right-hand side that are laid out at once.
const PACKED: usize = 3 << 20;

/// Columns that are laid out at once: four cache lines of a row.
const AT_ONCE: usize = 64;

/// The most rows that one thread takes at once, 43 tiles. They reuse each panel from the second-level cache, so a panel comes from memory
/// once for all of them.
const CHUNK: usize = 258;

/// The least depth of a tile that fetches memory ahead.
const FETCHING_FROM: usize = 256;

/// The least number of tiles among which the next panel is divided.
const FETCHING_TILES: usize = 8;

/// Products with fewer multiplications are left to one thread.
const PARALLEL_FROM: usize = 1 << 18;

/// The terms that a product adds to `x w`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Added<'a> {
    /// A vector that is added to every row, `[columns]`.
    pub bias: Option<&'a [f32]>,
    /// Another product of few inner elements, `[rows, r] [r, columns]`.
    pub narrow: Option<(&'a [f32], Matrix<'a>)>,
}

/// `out = x w + added`.
///
/// # Shapes
/// - x: `[rows, inner]`, w: `[inner, columns]`, out: `[rows, columns]`
pub(super) fn product(x: &[f32], w: impl RightHand, added: Added<'_>, out: &mut [f32]) {
    let [inner, columns] = w.shape();
    if out.is_empty() {
        return;
    }
    if w.few_rows(x, added, out) {
        return;
    }
    let rows = out.len() / columns;
    let width = width();
    let depth = inner + added.narrow.map_or(0, |(_, up)| up.shape[0]);
    let parallel = rows * columns * depth >= PARALLEL_FROM;
    let step = (PACKED / depth.max(1) / width).max(1) * width;
    let mut scratch = SCRATCH.take();
    for start in (0..columns).step_by(step) {
        let range = start..(start + step).min(columns);
        let (first, second) = lay_out(&mut scratch, w, added, range.clone(), parallel);
        let block = Block {
            inner,
            columns,
            w: first,
            narrow: added.narrow.map(|(x, up)| (x, up.shape[0], second)),
            bias: added.bias,
            panels: range.len().div_ceil(width),
            range,
        };
        let rows_of = |(at, out): (usize, &mut [f32])| {
            let count = out.len() / columns;
            let mut packed = ROWS_SCRATCH.take();
            let len = count * inner.min(INNER);
            if packed.len() < len {
                packed = Aligned::zeros(len);
            }
            Arch::new().dispatch(Rows {
                block: &block,
                x: &x[at * inner..][..count * inner],
                packed: &mut packed,
                first: at,
                out,
            });
            ROWS_SCRATCH.set(packed);
        };
        if parallel {
            // One chunk at a time, so that a thread that was held up leaves the rest to the others.
            split(out, columns, chunk_rows(rows, CHUNK))
                .into_par_iter()
                .with_max_len(1)
                .for_each(rows_of);
        } else {
            rows_of((0, out));
        }
    }
    SCRATCH.set(scratch);
}

thread_local! {
    /// Memory for a laid out right-hand side. A product takes it away while in use, because a waiting thread may start another product.
    static SCRATCH: Cell<Aligned> = Cell::default();

    /// Memory for the rows that a thread has laid out.
    static ROWS_SCRATCH: Cell<Aligned> = Cell::default();
}

/// Lays out columns `range` of both right-hand sides in panels.
fn lay_out<'p>(
    scratch: &'p mut Aligned,
    w: impl RightHand,
    added: Added<'_>,
    range: Range<usize>,
    parallel: bool,
) -> (&'p [f32], &'p [f32]) {
    let room = range.len().next_multiple_of(width());
    let rank = added.narrow.map_or(0, |(_, up)| up.shape[0]);
    let len = room * (w.shape()[0] + rank);
    if scratch.len() < len {
        *scratch = Aligned::zeros(len);
    }
    let (first, second) = scratch[..len].split_at_mut(room * w.shape()[0]);
    if let Some((_, up)) = added.narrow {
        pack_panels(up, range.start, width(), parallel, second);
    }
    pack_panels(w, range.start, width(), parallel, first);
    (first, second)
}

/// Lays out a matrix's columns from `start` on as panels of one width, as many as `to` has room for.
fn pack_panels(matrix: impl RightHand, start: usize, width: usize, parallel: bool, to: &mut [f32]) {
    let [inner, _] = matrix.shape();
    let size = width * inner;
    if size == 0 {
        return;
    }
    let group = (AT_ONCE / width).max(1) * size;
    let rows = match parallel {
        true => matrix.rows_at_once(to.len().div_ceil(group)),
        false => inner,
    };
    let mut parts = Vec::new();
    for (i, to) in to.chunks_mut(group).enumerate() {
        let column = start + i * group / inner;
        let panels = to.chunks_exact_mut(size);
        let mut panels: Vec<_> = panels.map(|to| to.chunks_mut(rows * width)).collect();
        for row in (0..inner).step_by(rows) {
            let to: Vec<_> = panels.iter_mut().filter_map(Iterator::next).collect();
            parts.push(([row, column], to));
        }
    }
    let pack = |(from, mut to): ([usize; 2], Vec<&mut [f32]>)| {
        Arch::new().dispatch(|| matrix.pack(from, width, &mut to));
    };
    if parallel {
        parts.into_par_iter().for_each(pack);
    } else {
        parts.into_iter().for_each(pack);
    }
}

/// Rows of a chunk of at most `most` rows. Every thread gets the same number of chunks, and the chunks have nearly the same number of tiles.
pub(super) fn chunk_rows(rows: usize, most: usize) -> usize {
    let threads = rayon::current_num_threads();
    let chunks = rows.div_ceil(most * threads).max(2) * threads;
    rows.div_ceil(chunks).next_multiple_of(ROWS)
}

/// A slice's rows in chunks, each with the number of its first row.
pub(super) fn split(out: &mut [f32], columns: usize, rows: usize) -> Vec<(usize, &mut [f32])> {
    let chunks = out.chunks_mut(rows * columns).enumerate();
    chunks.map(|(i, out)| (i * rows, out)).collect()
}

/// The columns of one tile on the processor at hand.
fn width() -> usize {
    Arch::new().dispatch(Width)
}

struct Width;

impl WithSimd for Width {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        registers::<S>() * S::F32_LANES
    }
}

/// Registers of one row of a tile. Some registers are left for the operands.
#[inline(always)]
const fn registers<S: Simd>() -> usize {
    if S::F32_LANES >= 16 { 4 } else { 2 }
}

/// Some columns of the right-hand side, laid out.
struct Block<'a> {
    inner: usize,
    columns: usize,
    range: Range<usize>,
    w: &'a [f32],
    narrow: Option<(&'a [f32], usize, &'a [f32])>,
    bias: Option<&'a [f32]>,
    panels: usize,
}

/// Some rows of the result.
struct Rows<'a> {
    block: &'a Block<'a>,
    x: &'a [f32],
    /// Memory for these rows' elements of one depth, laid out tile by tile.
    packed: &'a mut [f32],
    /// The number of the first row.
    first: usize,
    out: &'a mut [f32],
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if registers::<S>() == 4 {
            self.panels::<S, 4>(simd);
        } else {
            self.panels::<S, 2>(simd);
        }
    }
}

impl Rows<'_> {
    #[inline(always)]
    fn panels<S: Simd, const C: usize>(mut self, simd: S) {
        let inner = self.block.inner;
        // Runs at least once, for the added terms.
        for start in (0..inner.max(1)).step_by(INNER) {
            let depth = start..(start + INNER).min(inner);
            self.pack(depth.clone());
            for panel in 0..self.block.panels {
                self.panel::<S, C>(simd, panel, depth.clone());
            }
        }
    }

    /// Lays out each tile's rows side by side, so that a tile reads consecutive elements. Rows whose distance is a multiple of 4 KiB would
    /// drive each other out of the first-level cache.
    #[inline(always)]
    fn pack(&mut self, depth: Range<usize>) {
        let inner = self.block.inner;
        let mut row = 0;
        for tile in self.x.chunks(ROWS * inner.max(1)) {
            let rows = tile.len() / inner;
            let to = &mut self.packed[row * depth.len()..][..rows * depth.len()];
            if rows == ROWS {
                let from: [&[f32]; ROWS] =
                    std::array::from_fn(|r| &tile[r * inner..][depth.clone()]);
                for (i, to) in to.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
                    *to = from.map(|from| from[i]);
                }
            } else {
                for (r, from) in tile.chunks_exact(inner).enumerate() {
                    let to = to[r..].iter_mut().step_by(rows);
                    to.zip(&from[depth.clone()]).for_each(|(to, &x)| *to = x);
                }
            }
            row += rows;
        }
    }

    #[inline(always)]
    fn panel<S: Simd, const C: usize>(&mut self, simd: S, panel: usize, depth: Range<usize>) {
        let rows = self.out.len() / self.block.columns;
        let mut row = 0;
        while row + ROWS <= rows {
            self.fetch_ahead(row, panel, C * S::F32_LANES, depth.clone());
            self.tile::<S, ROWS, C>(simd, row, panel, depth.clone());
            row += ROWS;
        }
        match rows - row {
            1 => self.tile::<S, 1, C>(simd, row, panel, depth),
            2 => self.tile::<S, 2, C>(simd, row, panel, depth),
            3 => self.tile::<S, 3, C>(simd, row, panel, depth),
            4 => self.tile::<S, 4, C>(simd, row, panel, depth),
            5 => self.tile::<S, 5, C>(simd, row, panel, depth),
            _ => {}
        }
    }

    /// Asks for the lines of the tile's result, and for this tile's share of the next panel. Short tiles have no time for it.
    #[inline(always)]
    fn fetch_ahead(&self, row: usize, panel: usize, width: usize, depth: Range<usize>) {
        let block = self.block;
        if depth.len() < FETCHING_FROM {
            return;
        }
        let at = block.range.start + panel * width;
        let len = width.min(block.range.end - at);
        for r in row..row + ROWS {
            prefetch(&self.out[r * block.columns + at..][..len], Level::ToWrite);
        }
        let tiles = self.out.len() / block.columns / ROWS;
        if panel + 1 == block.panels || tiles < FETCHING_TILES {
            return;
        }
        let share = (depth.len() * width).div_ceil(tiles);
        let first = (depth.start * width + row / ROWS * share).min(depth.end * width);
        let end = (first + share).min(depth.end * width);
        let next = &block.w[(panel + 1) * width * block.inner..];
        prefetch(&next[first..end], Level::Second);
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const C: usize>(
        &mut self,
        simd: S,
        row: usize,
        panel: usize,
        depth: Range<usize>,
    ) {
        let block = self.block;
        let width = C * S::F32_LANES;
        let (inner, columns) = (block.inner, block.columns);
        let at = block.range.start + panel * width;
        let len = width.min(block.range.end - at);
        let mut sums: Sums<S, R, C> = if depth.start > 0 {
            std::array::from_fn(|r| load_part(simd, &self.out[(row + r) * columns + at..][..len]))
        } else {
            self.begin::<S, R, C>(simd, row, panel, at..at + len)
        };
        let x = self.packed[row * depth.len()..].as_chunks::<R>().0;
        let x = &x[..depth.len()];
        let (w, _) = S::as_simd_f32s(&block.w[panel * width * inner..][..width * inner]);
        let w = &w.as_chunks::<C>().0[depth];
        accumulate(simd, w.len(), |r, i| x[i][r], |i| w[i], &mut sums);
        for (r, sums) in sums.into_iter().enumerate() {
            store(simd, sums, &mut self.out[(row + r) * columns + at..][..len]);
        }
    }

    /// The terms that are added to a tile.
    #[inline(always)]
    fn begin<S: Simd, const R: usize, const C: usize>(
        &self,
        simd: S,
        row: usize,
        panel: usize,
        range: Range<usize>,
    ) -> Sums<S, R, C> {
        let bias: [S::f32s; C] = match self.block.bias {
            Some(bias) => load_part(simd, &bias[range]),
            None => [simd.splat_f32s(0.0); C],
        };
        let mut sums = [bias; R];
        if let Some((x, rank, up)) = self.block.narrow {
            let x = &x[(self.first + row) * rank..][..R * rank];
            let width = C * S::F32_LANES;
            let up = &up[panel * width * rank..][..width * rank];
            let up = |i: usize| load::<S, C>(&up[i * width..]);
            accumulate(simd, rank, |r, i| x[r * rank + i], up, &mut sums);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Key;

    const ROWS_IN: usize = 19;
    const INNER_IN: usize = 900;
    const COLUMNS: usize = 70;

    fn inputs() -> [Vec<f32>; 2] {
        let draw = |name: &str, len| Key::new(1).name(name).normal(len, 1.0);
        [draw("x", ROWS_IN * INNER_IN), draw("w", INNER_IN * COLUMNS)]
    }

    fn whole() -> Vec<f32> {
        let [x, w] = inputs();
        let mut out = vec![f32::NAN; ROWS_IN * COLUMNS];
        let w = Matrix::rows(&w, [INNER_IN, COLUMNS]);
        product(&x, w, Added::default(), &mut out);
        out
    }

    /// Runs with the instructions of one processor, whatever the processor at hand has.
    fn with<S: Simd>(simd: S) -> Vec<f32> {
        let [x, w] = inputs();
        let mut out = vec![f32::NAN; ROWS_IN * COLUMNS];
        let width = simd.vectorize(Width);
        let w = Matrix::rows(&w, [INNER_IN, COLUMNS]);
        let mut packed = Aligned::zeros(COLUMNS.next_multiple_of(width) * INNER_IN);
        pack_panels(w, 0, width, false, &mut packed);
        let block = Block {
            inner: INNER_IN,
            columns: COLUMNS,
            range: 0..COLUMNS,
            w: &packed,
            narrow: None,
            bias: None,
            panels: COLUMNS.div_ceil(width),
        };
        simd.vectorize(Rows {
            block: &block,
            x: &x,
            packed: &mut vec![f32::NAN; x.len()],
            first: 0,
            out: &mut out,
        });
        out
    }

    #[test]
    fn every_processor_gives_the_product() {
        let [x, w] = inputs();
        let mut all = vec![whole(), with(pulp::Scalar::new())];
        #[cfg(target_arch = "x86_64")]
        if let Some(v3) = pulp::x86::V3::try_new() {
            let found = with(v3);
            if !matches!(Arch::new(), Arch::Scalar) {
                assert_eq!(found, all[0], "vector lengths agree to the bit");
            }
            all.push(found);
        }
        for found in all {
            for (at, found) in found.into_iter().enumerate() {
                let (row, column) = (at / COLUMNS, at % COLUMNS);
                let terms = (0..INNER_IN)
                    .map(|i| f64::from(x[row * INNER_IN + i]) * f64::from(w[i * COLUMNS + column]));
                let expected: f64 = terms.sum();
                assert!(
                    (f64::from(found) - expected).abs() < 1e-4,
                    "{at}: {found} {expected}"
                );
            }
        }
    }

    /// One row at a time, as in generation.
    #[test]
    fn few_rows_are_multiplied_as_many_are() {
        let ([x, w], all) = (inputs(), whole());
        let w = Matrix::rows(&w, [INNER_IN, COLUMNS]);
        let mut out = [f32::NAN; COLUMNS];
        for row in 0..ROWS_IN {
            let x = &x[row * INNER_IN..][..INNER_IN];
            product(x, w, Added::default(), &mut out);
            assert_eq!(out[..], all[row * COLUMNS..][..COLUMNS]);
        }
    }

    /// Enough rows that tiles fetch the next panel, at both depths and with rows beyond the last tile. One row alone fetches nothing.
    #[test]
    fn fetching_ahead_changes_no_bit() {
        let inner = INNER + FETCHING_FROM + 1;
        let w = Key::new(2).normal(inner * COLUMNS, 1.0);
        let w = Matrix::rows(&w, [inner, COLUMNS]);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let pool = pool.expect("a thread");
        // A thread takes two chunks.
        for rows in [2 * FETCHING_TILES * ROWS, 2 * FETCHING_TILES * ROWS + 7] {
            let x = Key::new(3).normal(rows * inner, 1.0);
            let mut out = vec![f32::NAN; rows * COLUMNS];
            pool.install(|| product(&x, w, Added::default(), &mut out));
            let mut alone = [f32::NAN; COLUMNS];
            for (x, out) in x.chunks(inner).zip(out.chunks(COLUMNS)) {
                product(x, w, Added::default(), &mut alone);
                assert_eq!(out, alone);
            }
        }
    }

    /// Guards against gross regressions. It uses one thread, because a busy machine may keep a second one from running.
    #[test]
    fn a_product_takes_a_fraction_of_a_plain_loop() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        pool.expect("a thread").install(compare_with_a_plain_loop);
    }

    fn compare_with_a_plain_loop() {
        let n = 192;
        let x = Key::new(1).normal(n * n, 1.0);
        let mut out = vec![0.0_f32; n * n];
        let mut least = |run: &dyn Fn(&mut [f32])| {
            let times = (0..20).map(|_| {
                let start = std::time::Instant::now();
                run(&mut out);
                start.elapsed()
            });
            times.min().expect("twenty")
        };
        let ours = least(&|out| {
            let w = Matrix::rows(&x, [n, n]);
            product(&x, w, Added::default(), out);
        });
        let plain = least(&|out| {
            for (row, out) in out.chunks_exact_mut(n).enumerate() {
                for (column, out) in out.iter_mut().enumerate() {
                    *out = (0..n).map(|i| x[row * n + i] * x[i * n + column]).sum();
                }
            }
        });
        assert!(2 * ours < plain, "{ours:?}, a plain loop {plain:?}");
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.expect("threads").install(whole)
        };
        assert_eq!(on(1), on(3));
    }
}

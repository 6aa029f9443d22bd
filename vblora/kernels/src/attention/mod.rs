//! Softmax attention over blocks of queries, one key head of one sequence at a time. Neither copies of all heads nor the weights of all
//! pairs are ever in memory. The backward pass computes the same weights again from each row's largest score and sum.

mod relative;
mod sequences;

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::{
    Aligned, PARALLEL_FROM,
    activation::softmax_row_backward,
    dropout::{Mask, drop_from},
    exp, largest, over_rows, padded, sum_of,
    tile::{ROWS, Sums, accumulate, load, store},
    zeros,
};

pub use relative::{Relative, Sizes, Tables};
use relative::{add_gradients, add_scores};
pub use sequences::Sequences;

/// The number of queries in a block, a multiple of a tile's rows.
const QUERIES: usize = 8 * ROWS;

/// The inputs of an attention.
///
/// # Shapes
/// - q: `[n, queries, heads size]`; k, v: `[n, room, kv_heads size]`, of which attention reads the first `keys` columns
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Queries.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// The number of values from one token to the next, in q, and in k and v.
    pub strides: [usize; 2],
    /// The number of sequences.
    pub sequences: usize,
    /// The number of queries of a sequence.
    pub queries: usize,
    /// The number of keys of a sequence that attention reads.
    pub keys: usize,
    /// The number of keys of a sequence in memory.
    pub room: usize,
    /// The number of query heads.
    pub heads: usize,
    /// The number of key heads, which divides that of query heads.
    pub kv_heads: usize,
    /// The number of values of a head.
    pub size: usize,
    /// The factor on the scores.
    pub scale: f32,
    /// The keys that a query sees, and the mask.
    pub visible: Visible<'a>,
    /// Scores of relative positions. Every head then has keys of its own, and there is one sequence.
    pub relative: Option<Relative<'a>>,
    /// The soft cap of scores.
    pub cap: Option<f32>,
    /// The dropout of the weights.
    pub dropout: Option<&'a Mask>,
    /// The place in the dropout mask `[.., heads, queries, keys]`: the index of the first sequence here, and the numbers of queries and
    /// keys.
    pub place: [usize; 3],
}

/// The keys that a query sees.
#[derive(Debug, Clone, Copy)]
pub enum Visible<'a> {
    /// All keys. The mask, `[n, keys]`, is added to their scores.
    Masked(Option<&'a [f32]>),
    /// The keys at most `reach` places away, with a mask as above. There are as many queries as keys.
    Near {
        /// `[n, keys]`
        mask: Option<&'a [f32]>,
        /// The largest distance between a query and a key that it sees.
        reach: usize,
    },
    /// The last `window` keys up to the query's own place, but none before `first`, `[n, queries]`.
    Causal {
        /// The first key that each query may see.
        first: Option<&'a [i32]>,
        /// The most keys that a query sees.
        window: usize,
    },
}

impl<'a> Attention<'a> {
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The least number of key heads for one thread.
    fn least(&self) -> usize {
        let weights = self.sequences * self.heads * self.queries * self.keys;
        if weights < PARALLEL_FROM {
            usize::MAX
        } else {
            1
        }
    }

    /// The keys that a query of a sequence sees.
    #[inline(always)]
    fn seen(&self, sequence: usize, query: usize) -> Range<usize> {
        match self.visible {
            Visible::Masked(_) => 0..self.keys,
            Visible::Near { reach, .. } => {
                let end = query.saturating_add(reach).saturating_add(1);
                query.saturating_sub(reach)..end.min(self.keys)
            }
            Visible::Causal { first, window } => {
                let end = self.keys - self.queries + query + 1;
                let first = first.map_or(0, |first| first[sequence * self.queries + query]);
                (first.max(0) as usize).max(end.saturating_sub(window))..end
            }
        }
    }

    /// The range of keys that at least one of these queries sees.
    #[inline(always)]
    fn seen_by(&self, sequence: usize, queries: Range<usize>) -> Range<usize> {
        let each = queries.map(|query| self.seen(sequence, query));
        each.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))
            .unwrap_or(0..0)
    }

    /// The index of the first weight of a query in the dropout mask.
    fn place(&self, sequence: usize, head: usize, query: usize) -> usize {
        let [first, queries, keys] = self.place;
        (((first + sequence) * self.heads + head) * queries + query) * keys
    }

    fn mask(&self, sequence: usize) -> Option<&'a [f32]> {
        match self.visible {
            Visible::Masked(mask) | Visible::Near { mask, .. } => {
                mask.map(|mask| &mask[sequence * self.keys..][..self.keys])
            }
            Visible::Causal { .. } => None,
        }
    }

    /// Element `i` of a head's query.
    #[inline(always)]
    fn query(&self, sequence: usize, head: usize, query: usize) -> &'a [f32] {
        let row = sequence * self.queries + query;
        &self.q[row * self.strides[0] + head * self.size..][..self.size]
    }

    /// One key head, of keys or values, of one key.
    #[inline(always)]
    fn key(&self, from: &'a [f32], sequence: usize, head: usize, key: usize) -> &'a [f32] {
        let row = sequence * self.room + key;
        &from[row * self.strides[1] + head * self.size..][..self.size]
    }

    /// A head of keys or values as `[keys, padded size]`.
    #[inline(always)]
    fn gather(&self, from: &'a [f32], sequence: usize, head: usize) -> Aligned {
        let width = padded(self.size);
        let mut to = Aligned::zeros(self.keys * width);
        for (key, to) in to.chunks_exact_mut(width).enumerate() {
            to[..self.size].copy_from_slice(self.key(from, sequence, head, key));
        }
        to
    }

    /// A head of keys or values as `[size, padded keys]`.
    #[inline(always)]
    fn gather_turned(&self, from: &'a [f32], sequence: usize, head: usize) -> Aligned {
        let width = padded(self.keys);
        let mut turned = Aligned::zeros(self.size * width);
        let to = &mut *turned;
        for key in 0..self.keys {
            let values = self.key(from, sequence, head, key);
            for (&value, to) in values.iter().zip(to.chunks_exact_mut(width)) {
                to[key] = value;
            }
        }
        turned
    }
}

/// Writes the output, and for each row its largest score and the inverse of its sum of exponentials.
///
/// # Shapes
/// - output: like q; sums: `[n, heads, queries, 2]`
pub fn attend(all: Attention<'_>, output: &mut [f32], sums: &mut [f32]) {
    let group = all.group() * all.queries;
    let mut heads = zeros(output.len());
    if output.is_empty() {
        return;
    }
    heads
        .par_chunks_mut(group * all.size)
        .zip(sums.par_chunks_mut(2 * group))
        .enumerate()
        .with_min_len(all.least())
        .for_each(|(i, (out, sums))| {
            Arch::new().dispatch(Forward {
                all,
                sequence: i / all.kv_heads,
                kv_head: i % all.kv_heads,
                out,
                sums,
            });
        });
    join_heads([&heads], all.heads, [all.queries, all.size], output);
}

/// Several `[n, heads, t, size]`, whose second dimensions follow one another, as one `[n, t, all heads size]`.
fn join_heads<const N: usize>(
    parts: [&[f32]; N],
    heads: usize,
    [tokens, size]: [usize; 2],
    to: &mut [f32],
) {
    let width = N * heads * size;
    over_rows(to, width, |start, run| {
        for (row, to) in run.chunks_exact_mut(width).enumerate() {
            let row = start / width + row;
            let (sequence, token) = (row / tokens, row % tokens);
            for (from, to) in parts.iter().zip(to.chunks_exact_mut(heads * size)) {
                for (head, to) in to.chunks_exact_mut(size).enumerate() {
                    let at = ((sequence * heads + head) * tokens + token) * size;
                    to.copy_from_slice(&from[at..][..size]);
                }
            }
        }
    });
}

/// The forward pass of the query heads that share one key head.
struct Forward<'a> {
    all: Attention<'a>,
    sequence: usize,
    kv_head: usize,
    out: &'a mut [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            all,
            sequence,
            kv_head,
            out,
            sums,
        } = self;
        // A training pass has as many queries as keys. Its backward pass repeats the scores below to the bit.
        if all.queries * all.group() < ROWS && all.queries < all.keys && all.relative.is_none() {
            return few(all, sequence, kv_head, out, sums);
        }
        let (width, t_width) = (padded(all.size), padded(all.keys));
        let keys = all.gather_turned(all.k, sequence, kv_head);
        let values = all.gather(all.v, sequence, kv_head);
        let (keys, values) = (&*keys, &*values);
        let mut scores = Aligned::zeros(QUERIES * t_width);
        let mut block = Aligned::zeros(QUERIES * width);
        let (scores, block) = (&mut *scores, &mut *block);
        let mut scratch = all.scratch();
        for member in 0..all.group() {
            let head = kv_head * all.group() + member;
            for first in (0..all.queries).step_by(QUERIES) {
                let count = QUERIES.min(all.queries - first);
                let at = member * all.queries + first;
                let place = [sequence, head, first, count];
                let seen = score_block(simd, &all, place, keys, scores, &mut scratch);
                for i in 0..count {
                    let row = &mut scores[i * t_width..][..t_width];
                    let own = all.seen(sequence, first + i);
                    sums[2 * (at + i)..][..2].copy_from_slice(&weigh(row, own, seen.clone()));
                    if let Some(mask) = all.dropout {
                        let place = all.place(sequence, head, first + i);
                        drop_from(mask, place + seen.start, &mut row[seen.clone()]);
                    }
                }
                small(
                    simd,
                    [count, width, seen.len()],
                    |r, j| scores[r * t_width + seen.start + j],
                    (&values[seen.start * width..], width),
                    (&mut *block, width),
                    false,
                );
                for (row, out) in block
                    .chunks_exact(width)
                    .zip(out[at * all.size..][..count * all.size].chunks_exact_mut(all.size))
                {
                    out.copy_from_slice(&row[..all.size]);
                }
            }
        }
    }
}

/// `cap tanh(score / cap)`, within 1e-7 of the cap.
#[inline(always)]
fn capped(score: f32, cap: f32) -> f32 {
    let power = exp(-2.0 * (score / cap).abs());
    (cap * (1.0 - power) / (1.0 + power)).copysign(score)
}

/// Writes the scores of a block of queries, cap and mask included. Returns the keys that the block sees.
#[inline(always)]
fn score_block<S: Simd>(
    simd: S,
    all: &Attention<'_>,
    [sequence, head, first, count]: [usize; 4],
    keys: &[f32],
    scores: &mut [f32],
    scratch: &mut [f32],
) -> Range<usize> {
    let (t_width, scale) = (padded(all.keys), all.scale);
    let seen = all.seen_by(sequence, first..first + count);
    // The range starts and ends at whole registers.
    let from = seen.start / padded(1) * padded(1);
    let width = padded(seen.end) - from;
    let step = all.strides[0];
    let q = &all.q[(sequence * all.queries + first) * step + head * all.size..];
    small(
        simd,
        [count, width, all.size],
        |r, i| q[r * step + i] * scale,
        (&keys[from..], t_width),
        (&mut scores[from..], t_width),
        false,
    );
    if let Some(relative) = &all.relative {
        add_scores(simd, all, relative, [head, first, count], scores, scratch);
    }
    if let Some(cap) = all.cap {
        for row in scores.chunks_exact_mut(t_width).take(count) {
            for score in &mut row[from..from + width] {
                *score = capped(*score, cap);
            }
        }
    }
    if let Some(mask) = all.mask(sequence) {
        for row in scores.chunks_exact_mut(t_width).take(count) {
            for (score, &mask) in row.iter_mut().zip(mask) {
                *score += mask;
            }
        }
    }
    seen
}

/// Softmax of a row over its own keys; zero for the others of its block. Returns the two numbers that [`weigh_again`] needs.
#[inline(always)]
fn weigh(row: &mut [f32], own: Range<usize>, block: Range<usize>) -> [f32; 2] {
    row[block.start..own.start].fill(0.0);
    row[own.end..block.end].fill(0.0);
    let row = &mut row[own];
    let max = largest(row);
    for value in row.iter_mut() {
        *value = exp(*value - max);
    }
    let scale = 1.0 / sum_of(row.len(), |i| row[i]);
    for value in row {
        *value *= scale;
    }
    [max, scale]
}

/// Attention of a few queries, as in generation. Keys and values are read in place.
#[inline(always)]
fn few(all: Attention<'_>, sequence: usize, kv_head: usize, out: &mut [f32], sums: &mut [f32]) {
    let (size, scale) = (all.size, all.scale);
    let rows = sums.len() / 2;
    let place = |row: usize| (kv_head * all.group() + row / all.queries, row % all.queries);
    let mut scores = vec![0.0; rows * all.keys];
    let seen = all.seen_by(sequence, 0..all.queries);
    for key in seen.clone() {
        let values = all.key(all.k, sequence, kv_head, key);
        for row in 0..rows {
            let (head, query) = place(row);
            let q = all.query(sequence, head, query);
            let masked = all.mask(sequence).map_or(0.0, |mask| mask[key]);
            let score = sum_of(size, |i| q[i] * values[i]) * scale;
            scores[row * all.keys + key] = all.cap.map_or(score, |cap| capped(score, cap)) + masked;
        }
    }
    for (row, scores) in scores.chunks_exact_mut(all.keys).enumerate() {
        let (head, query) = place(row);
        let found = weigh(scores, all.seen(sequence, query), seen.clone());
        sums[2 * row..][..2].copy_from_slice(&found);
        if let Some(mask) = all.dropout {
            let at = all.place(sequence, head, query) + seen.start;
            drop_from(mask, at, &mut scores[seen.clone()]);
        }
    }
    out.fill(0.0);
    for key in seen {
        let values = all.key(all.v, sequence, kv_head, key);
        for (row, out) in out.chunks_exact_mut(size).enumerate() {
            let weight = scores[row * all.keys + key];
            for (out, &value) in out.iter_mut().zip(values) {
                *out += weight * value;
            }
        }
    }
}

/// Where the gradients to q, k and v go.
#[derive(Debug)]
pub enum Gradients<'a> {
    /// dq: `[n, queries, heads size]`; dk, dv: `[n, keys, kv_heads size]`
    Apart([&'a mut [f32]; 3]),
    /// `[n, t, 3 heads size]`: those of a token side by side. There are as many queries as keys, and heads have keys of their own.
    Joined(&'a mut [f32]),
}

/// Writes the gradients to q, k and v, and adds those to the tables of relative positions.
///
/// # Shapes
/// - sums: those of [`attend`]; grad: `[n, queries, heads size]`
/// - tables: `[heads]` [`Tables`] if there are relative positions, else empty
pub fn attend_backward(
    all: Attention<'_>,
    sums: &[f32],
    grad: &[f32],
    tables: &mut [f32],
    out: Gradients<'_>,
) {
    let group = all.group() * all.queries;
    let per_key = all.keys * all.size;
    let key_heads = all.sequences * all.kv_heads;
    let lengths = [key_heads * group * all.size, key_heads * per_key];
    let mut heads = [lengths[0], lengths[1], lengths[1]].map(zeros);
    if lengths.contains(&0) {
        return;
    }
    let [q_heads, k_heads, v_heads] = &mut heads;
    let per_head = all.relative.map_or(0, |relative| relative.sizes.room());
    let mut each_table: Vec<&mut [f32]> = match per_head {
        0 => (0..key_heads).map(|_| Default::default()).collect(),
        _ => tables.chunks_exact_mut(per_head).collect(),
    };
    q_heads
        .par_chunks_mut(group * all.size)
        .zip(k_heads.par_chunks_mut(per_key))
        .zip(v_heads.par_chunks_mut(per_key))
        .zip(&mut each_table)
        .enumerate()
        .with_min_len(all.least())
        .for_each(|(i, (((dq, dk), dv), tables))| {
            Arch::new().dispatch(Backward {
                all,
                sequence: i / all.kv_heads,
                kv_head: i % all.kv_heads,
                sums: &sums[2 * i * group..][..2 * group],
                grad,
                tables,
                out: [dq, dk, dv],
            });
        });
    let of_queries = [all.queries, all.size];
    let of_keys = [all.keys, all.size];
    match out {
        Gradients::Apart([dq, dk, dv]) => {
            join_heads([&heads[0]], all.heads, of_queries, dq);
            join_heads([&heads[1]], all.kv_heads, of_keys, dk);
            join_heads([&heads[2]], all.kv_heads, of_keys, dv);
        }
        Gradients::Joined(to) => {
            let parts = heads.each_ref().map(Vec::as_slice);
            join_heads(parts, all.heads, of_queries, to);
        }
    }
}

/// The backward pass of the query heads that share one key head.
struct Backward<'a> {
    all: Attention<'a>,
    sequence: usize,
    kv_head: usize,
    sums: &'a [f32],
    grad: &'a [f32],
    tables: &'a mut [f32],
    out: [&'a mut [f32]; 3],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            all,
            sequence,
            kv_head,
            sums,
            grad,
            tables,
            out: [dq, dk, dv],
        } = self;
        let (size, scale) = (all.size, all.scale);
        let (width, t_width) = (padded(size), padded(all.keys));
        let turned_keys = all.gather_turned(all.k, sequence, kv_head);
        let turned_values = all.gather_turned(all.v, sequence, kv_head);
        let keys = all.gather(all.k, sequence, kv_head);
        let mut of_scores = [(); 3].map(|()| Aligned::zeros(QUERIES * t_width));
        let mut of_queries = [(); 3].map(|()| Aligned::zeros(QUERIES * width));
        let mut of_keys = [(); 2].map(|()| Aligned::zeros(all.keys * width));
        let [scores, d_scores, kept] = of_scores.each_mut().map(|values| &mut **values);
        let [q_block, g_block, block] = of_queries.each_mut().map(|values| &mut **values);
        let [d_keys, d_values] = of_keys.each_mut().map(|values| &mut **values);
        let mut slopes = vec![0.0; all.cap.map_or(0, |_| all.keys)];
        let mut scratch = all.scratch();
        for member in 0..all.group() {
            let head = kv_head * all.group() + member;
            for first in (0..all.queries).step_by(QUERIES) {
                let count = QUERIES.min(all.queries - first);
                let at = member * all.queries + first;
                for (i, (q, g)) in q_block
                    .chunks_exact_mut(width)
                    .zip(g_block.chunks_exact_mut(width))
                    .take(count)
                    .enumerate()
                {
                    q[..size].copy_from_slice(all.query(sequence, head, first + i));
                    let row = sequence * all.queries + first + i;
                    let from = (row * all.heads + head) * size;
                    g[..size].copy_from_slice(&grad[from..][..size]);
                }
                let place = [sequence, head, first, count];
                let seen = score_block(simd, &all, place, &turned_keys, scores, &mut scratch);
                let from = seen.start / padded(1) * padded(1);
                small(
                    simd,
                    [count, padded(seen.end) - from, size],
                    |r, i| g_block[r * width + i],
                    (&turned_values[from..], t_width),
                    (&mut d_scores[from..], t_width),
                    false,
                );
                for i in 0..count {
                    let range = i * t_width..(i + 1) * t_width;
                    let row = &mut scores[range.clone()];
                    let own = all.seen(sequence, first + i);
                    if let Some(cap) = all.cap {
                        for (slope, score) in slopes.iter_mut().zip(&row[seen.clone()]) {
                            *slope = 1.0 - (score / cap) * (score / cap);
                        }
                    }
                    weigh_again(row, &sums[2 * (at + i)..][..2], own, seen.clone());
                    let d_row = &mut d_scores[range.clone()][seen.clone()];
                    let kept = &mut kept[range][seen.clone()];
                    let row = &row[seen.clone()];
                    kept.copy_from_slice(row);
                    if let Some(mask) = all.dropout {
                        let place = all.place(sequence, head, first + i) + seen.start;
                        drop_from(mask, place, kept);
                        drop_from(mask, place, d_row);
                    }
                    softmax_row_backward(row, d_row);
                    // Empty without a cap.
                    for (d_score, slope) in d_row.iter_mut().zip(&slopes) {
                        *d_score *= slope;
                    }
                }
                small(
                    simd,
                    [count, width, seen.len()],
                    |r, j| d_scores[r * t_width + seen.start + j] * scale,
                    (&keys[seen.start * width..], width),
                    (&mut *block, width),
                    false,
                );
                if let Some(relative) = &all.relative {
                    let inputs = [&*d_scores, &*q_block, &*keys];
                    let into = [&mut *block, &mut *d_keys, &mut *tables];
                    let place = [head, first, count];
                    add_gradients(simd, &all, relative, place, inputs, into, &mut scratch);
                }
                for (row, dq) in block
                    .chunks_exact(width)
                    .zip(dq[at * size..][..count * size].chunks_exact_mut(size))
                {
                    dq.copy_from_slice(&row[..size]);
                }
                small(
                    simd,
                    [seen.len(), width, count],
                    |r, i| d_scores[i * t_width + seen.start + r] * scale,
                    (&*q_block, width),
                    (&mut d_keys[seen.start * width..], width),
                    true,
                );
                small(
                    simd,
                    [seen.len(), width, count],
                    |r, i| kept[i * t_width + seen.start + r],
                    (&*g_block, width),
                    (&mut d_values[seen.start * width..], width),
                    true,
                );
            }
        }
        for (sums, out) in [(d_keys, dk), (d_values, dv)] {
            for (row, out) in sums.chunks_exact(width).zip(out.chunks_exact_mut(size)) {
                out.copy_from_slice(&row[..size]);
            }
        }
    }
}

/// Computes a row's weights again, to the bit, from its scores and the result of [`weigh`]. Other keys of its block get zero.
#[inline(always)]
fn weigh_again(row: &mut [f32], found: &[f32], own: Range<usize>, block: Range<usize>) {
    row[block.start..own.start].fill(0.0);
    row[own.end..block.end].fill(0.0);
    for value in &mut row[own] {
        *value = exp(*value - found[0]) * found[1];
    }
}

/// `out = x w`, or `out += x w`, for small matrices. The rows of w and out have a stride, and their columns fill whole registers.
///
/// # Shapes
/// - x: `[rows, inner]`, read by (row, column); w: `[inner, columns]`; out: `[rows, columns]`
#[inline(always)]
fn small<S: Simd>(
    simd: S,
    [rows, columns, inner]: [usize; 3],
    x: impl Fn(usize, usize) -> f32,
    w: (&[f32], usize),
    out: (&mut [f32], usize),
    add: bool,
) {
    let mut row = 0;
    let (out, stride) = out;
    while row + ROWS <= rows {
        let x = |r: usize, i: usize| x(row + r, i);
        let out = (&mut out[row * stride..], stride);
        small_rows::<S, ROWS>(simd, columns, inner, x, w, out, add);
        row += ROWS;
    }
    while row + 2 <= rows {
        let x = |r: usize, i: usize| x(row + r, i);
        let out = (&mut out[row * stride..], stride);
        small_rows::<S, 2>(simd, columns, inner, x, w, out, add);
        row += 2;
    }
    if row < rows {
        let x = |r: usize, i: usize| x(row + r, i);
        let out = (&mut out[row * stride..], stride);
        small_rows::<S, 1>(simd, columns, inner, x, w, out, add);
    }
}

#[inline(always)]
fn small_rows<S: Simd, const R: usize>(
    simd: S,
    columns: usize,
    inner: usize,
    x: impl Fn(usize, usize) -> f32,
    w: (&[f32], usize),
    out: (&mut [f32], usize),
    add: bool,
) {
    let (out, stride) = out;
    let mut column = 0;
    if S::F32_LANES >= 16 {
        while column + 4 * S::F32_LANES <= columns {
            small_tile::<S, R, 4>(simd, column, inner, &x, w, (&mut *out, stride), add);
            column += 4 * S::F32_LANES;
        }
    }
    while column + 2 * S::F32_LANES <= columns {
        small_tile::<S, R, 2>(simd, column, inner, &x, w, (&mut *out, stride), add);
        column += 2 * S::F32_LANES;
    }
    while column < columns {
        small_tile::<S, R, 1>(simd, column, inner, &x, w, (&mut *out, stride), add);
        column += S::F32_LANES;
    }
}

#[inline(always)]
fn small_tile<S: Simd, const R: usize, const C: usize>(
    simd: S,
    column: usize,
    inner: usize,
    x: &impl Fn(usize, usize) -> f32,
    (w, w_stride): (&[f32], usize),
    (out, stride): (&mut [f32], usize),
    add: bool,
) {
    let mut sums: Sums<S, R, C> = if add {
        std::array::from_fn(|r| load::<S, C>(&out[r * stride + column..]))
    } else {
        [[simd.splat_f32s(0.0); C]; R]
    };
    let w = |i: usize| load::<S, C>(&w[i * w_stride + column..]);
    accumulate(simd, inner, x, w, &mut sums);
    for (r, sums) in sums.into_iter().enumerate() {
        store(simd, sums, &mut out[r * stride + column..]);
    }
}

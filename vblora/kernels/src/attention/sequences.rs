//! Attention of the sequences of a batch. Each is computed in place, as a batch of one.

use std::ops::Range;

use rayon::prelude::*;

use super::{Attention, Gradients, Relative, Visible, attend, attend_backward};
use crate::{dropout::Mask, loops::RUN, over_rows, zeros};

/// The number of sequences whose gradients to a table are in memory at once.
const AT_ONCE: usize = 8;

/// Contiguous inputs of one call, and where its sequences are.
#[derive(Debug)]
pub struct Sequences<'a> {
    /// Queries, keys and values from the first token on.
    pub qkv: [&'a [f32]; 3],
    /// The number of values from one token to the next.
    pub stride: usize,
    /// The tokens of each sequence.
    pub ranges: Vec<Range<usize>>,
    /// Columns of the padded batch.
    pub columns: usize,
    /// The number of heads, of queries and of keys.
    pub heads: usize,
    /// The number of values of a head.
    pub size: usize,
    /// The factor on the scores.
    pub scale: f32,
    /// `[n, columns]`, added to the scores of each key. Every sequence then has all columns.
    pub mask: Option<&'a [f32]>,
    /// How far a query sees.
    pub reach: Option<usize>,
    /// Scores of relative positions.
    pub relative: Option<Relative<'a>>,
    /// The dropout of the weights.
    pub dropout: Option<Mask>,
}

impl Sequences<'_> {
    fn sequence(&self, i: usize) -> Attention<'_> {
        let range = &self.ranges[i];
        let t = range.len();
        let [q, k, v] = self.qkv.map(|x| &x[range.start * self.stride..]);
        let mask = self.mask.map(|mask| &mask[i * t..][..t]);
        Attention {
            q,
            k,
            v,
            strides: [self.stride; 2],
            sequences: 1,
            queries: t,
            keys: t,
            room: t,
            heads: self.heads,
            kv_heads: self.heads,
            size: self.size,
            scale: self.scale,
            visible: match self.reach {
                Some(reach) => Visible::Near { mask, reach },
                None => Visible::Masked(mask),
            },
            relative: self.relative,
            cap: None,
            dropout: self.dropout.as_ref(),
            place: [i, self.columns, self.columns],
        }
    }

    fn tokens(&self) -> usize {
        self.ranges.last().map_or(0, |range| range.end)
    }

    /// Cuts a buffer with `per_token` numbers for each token into one slice per sequence.
    fn split<'b>(&self, mut all: &'b mut [f32], per_token: usize) -> Vec<&'b mut [f32]> {
        let cut = self.ranges.iter().map(|range| {
            let (own, rest) = std::mem::take(&mut all).split_at_mut(range.len() * per_token);
            all = rest;
            own
        });
        cut.collect()
    }

    /// The output, `[N, heads size]`, and what the backward pass needs.
    pub fn forward(&self) -> [Vec<f32>; 2] {
        let (n, d, per_token) = (self.tokens(), self.heads * self.size, 2 * self.heads);
        let (mut output, mut sums) = (zeros(n * d), vec![0.0; n * per_token]);
        self.split(&mut output, d)
            .into_par_iter()
            .zip(self.split(&mut sums, per_token))
            .enumerate()
            .for_each(|(i, (output, sums))| attend(self.sequence(i), output, sums));
        [output, sums]
    }

    /// The gradients to queries, keys and values, `[N, heads size]` each, and to the tables of relative positions.
    pub fn backward(&self, saved: &[f32], grad: &[f32]) -> ([Vec<f32>; 3], Vec<f32>) {
        let d = self.heads * self.size;
        let mut found = [(); 3].map(|()| zeros(self.tokens() * d));
        let [dq, dk, dv] = found.each_mut().map(|all| self.split(all, d));
        let apart = dq.into_iter().zip(dk).zip(dv);
        let apart = apart.map(|((dq, dk), dv)| Gradients::Apart([dq, dk, dv]));
        let tables = self.write_gradients(saved, grad, apart.collect());
        (found, tables)
    }

    /// The gradients to queries, keys and values side by side, `[N, 3 heads size]`.
    pub fn joined_backward(&self, saved: &[f32], grad: &[f32]) -> Vec<f32> {
        let d = 3 * self.heads * self.size;
        let mut found = zeros(self.tokens() * d);
        let parts = self.split(&mut found, d);
        let parts = parts.into_iter().map(Gradients::Joined);
        self.write_gradients(saved, grad, parts.collect());
        found
    }

    /// Writes the gradients of each sequence. Returns those to the tables of all heads, added in the order of the sequences.
    fn write_gradients(
        &self,
        saved: &[f32],
        grad: &[f32],
        mut out: Vec<Gradients<'_>>,
    ) -> Vec<f32> {
        let room = self.heads * self.relative.map_or(0, |relative| relative.sizes.room());
        let mut tables = zeros(room);
        let (d, per_token) = (self.heads * self.size, 2 * self.heads);
        let at_once = if room == 0 { out.len().max(1) } else { AT_ONCE };
        let mut first = 0;
        while !out.is_empty() {
            let rest = out.split_off(at_once.min(out.len()));
            let mut of_each = zeros(out.len() * room);
            let each: Vec<&mut [f32]> = match room {
                0 => out.iter().map(|_| Default::default()).collect(),
                _ => of_each.chunks_exact_mut(room).collect(),
            };
            out.into_par_iter()
                .zip(each)
                .enumerate()
                .for_each(|(i, (out, tables))| {
                    let range = &self.ranges[first + i];
                    let sums = &saved[range.start * per_token..range.end * per_token];
                    let grad = &grad[range.start * d..range.end * d];
                    attend_backward(self.sequence(first + i), sums, grad, tables, out);
                });
            over_rows(&mut tables, RUN.min(room), |start, run| {
                for each in of_each.chunks_exact(room.max(1)) {
                    for (sum, value) in run.iter_mut().zip(&each[start..]) {
                        *sum += value;
                    }
                }
            });
            first += at_once;
            out = rest;
        }
        tables
    }
}

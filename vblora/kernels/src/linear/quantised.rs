//! A weight in 4 bits as the right-hand side of a product. It is decoded while it is laid out.

use std::ops::Range;

use super::{
    product::Added,
    right::RightHand,
    sixteen::{Sixteen, WithSixteen, dispatch},
    thin_codes,
};
use crate::nf4::{
    ScalesView,
    lanes::{CODES, LANES, tiles},
};

/// Values of a row that have one scale, if rows are whole blocks.
pub(super) const RUN: usize = 64;

/// A weight `[d_in, d_out]` in 4 bits, or its transpose.
#[derive(Debug, Clone, Copy)]
pub struct Quantised<'a> {
    /// `[d_out, d_in]`
    pub shape: [usize; 2],
    /// Values that share a scale, by the rows of the shape.
    pub block: usize,
    /// The codes, in the order of [`lanes`](crate::nf4::lanes).
    pub words: &'a [i32],
    /// The values of the codes.
    pub code: [f32; 16],
    /// The scales of the blocks.
    pub scales: ScalesView<'a>,
    /// True for the transpose, `[d_out, d_in]`.
    pub is_turned: bool,
}

impl<'a> Quantised<'a> {
    /// True if each run of [`RUN`] values of a row has one scale.
    pub(super) fn has_runs(&self) -> bool {
        self.shape[1].is_multiple_of(RUN) && self.block.is_multiple_of(RUN)
    }

    /// The words of one tile: the runs of its rows, eight times sixteen words each.
    ///
    /// Only for weights that have runs.
    pub(super) fn tile(&self, tile: usize) -> &'a [[[i32; LANES]; RUN / CODES]] {
        let [_, in_row] = tiles(self.shape);
        let (words, _) = self.words[tile * in_row * LANES..][..in_row * LANES].as_chunks();
        words.as_chunks().0
    }

    /// The scales of the rows of `C` tiles, a run after the other. Rows that the matrix does not have get those of the last one.
    #[inline(always)]
    pub(super) fn scales_of<const C: usize>(&self, tile: usize, to: &mut Vec<[[f32; LANES]; C]>) {
        let [d_out, d_in] = self.shape;
        let runs = d_in / RUN;
        to.resize(runs, [[0.0; LANES]; C]);
        for c in 0..C {
            for lane in 0..LANES {
                let row = ((tile + c) * LANES + lane).min(d_out - 1);
                let scales = to.iter_mut().map(|scales| &mut scales[c][lane]);
                self.scales.runs(row * runs, self.block / RUN, scales);
            }
        }
    }

    /// One value, by its place in `[d_out, d_in]`.
    fn value(&self, row: usize, i: usize) -> f32 {
        let [_, in_row] = tiles(self.shape);
        let word = self.words[(row / LANES * in_row + i / CODES) * LANES + row % LANES];
        let code = self.code[(word as u32 >> (4 * (i % CODES)) & 15) as usize];
        code * self.scales.get((row * self.shape[1] + i) / self.block)
    }

    /// [`pack_panel`](Self::pack_panel) of any weight.
    fn pack_values(&self, range: Range<usize>, width: usize, to: &mut [f32]) {
        let columns = range.len().min(self.shape()[1] - range.start);
        for (i, to) in to.chunks_exact_mut(width).enumerate() {
            for (j, to) in (range.start..).zip(&mut to[..columns]) {
                *to = match self.is_turned {
                    true => self.value(i, j),
                    false => self.value(j, i),
                };
            }
            to[columns..].fill(0.0);
        }
    }
}

impl RightHand for Quantised<'_> {
    fn shape(&self) -> [usize; 2] {
        let [d_out, d_in] = self.shape;
        match self.is_turned {
            true => [d_out, d_in],
            false => [d_in, d_out],
        }
    }

    fn few_rows(self, x: &[f32], added: Added<'_>, out: &mut [f32]) -> bool {
        thin_codes::product(x, self, added, out)
    }

    /// All: a panel is decoded whole.
    fn rows_at_once(self, _: usize) -> usize {
        self.shape()[0]
    }

    fn pack(self, [_, start]: [usize; 2], width: usize, to: &mut [&mut [f32]]) {
        for (panel, to) in to.iter_mut().enumerate() {
            self.pack_panel(start + panel * width, width, to);
        }
    }
}

impl Quantised<'_> {
    /// Writes the columns from `start` on as one panel, with its rows side by side. Columns that the matrix does not have are zero.
    pub(super) fn pack_panel(self, start: usize, width: usize, to: &mut [f32]) {
        let whole = match self.is_turned {
            true => RUN.is_multiple_of(width) && width.is_multiple_of(CODES),
            false => width.is_multiple_of(LANES),
        };
        if !self.has_runs() || !whole || !start.is_multiple_of(width) {
            return self.pack_values(start..start + width, width, to);
        }
        dispatch(Panel {
            w: self,
            start,
            width,
            to,
        });
    }
}

/// A panel of a weight that has runs.
struct Panel<'a> {
    w: Quantised<'a>,
    start: usize,
    width: usize,
    to: &'a mut [f32],
}

impl WithSixteen for Panel<'_> {
    #[inline(always)]
    fn with<V: Sixteen>(self, v: V) {
        match self.w.is_turned {
            true => self.rows(v),
            false => self.columns(v),
        }
    }
}

impl Panel<'_> {
    /// Columns of a panel are rows of the shape.
    #[inline(always)]
    fn columns<V: Sixteen>(self, v: V) {
        let table = v.table(&self.w.code);
        let mut scales = Vec::new();
        for at in (0..self.width).step_by(LANES) {
            let columns = self.w.shape[0].saturating_sub(self.start + at).min(LANES);
            let mut rows = self.to.chunks_exact_mut(self.width);
            if columns == 0 {
                rows.for_each(|to| to[at..at + LANES].fill(0.0));
                continue;
            }
            let tile = (self.start + at) / LANES;
            self.w.scales_of::<1>(tile, &mut scales);
            for (words, [scale]) in self.w.tile(tile).iter().zip(&scales) {
                let scale = v.load(scale);
                for words in words {
                    for values in v.across(words, table) {
                        let values = v.store(v.multiply(values, scale));
                        let Some(to) = rows.next() else { return };
                        let to = &mut to[at..at + LANES];
                        if columns == LANES {
                            to.copy_from_slice(&values);
                        } else {
                            to[..columns].copy_from_slice(&values[..columns]);
                            to[columns..].fill(0.0);
                        }
                    }
                }
            }
        }
    }

    /// Rows of a panel are parts of rows of the shape, within one run.
    #[inline(always)]
    fn rows<V: Sixteen>(self, v: V) {
        let table = v.table(&self.w.code);
        let [_, d_in] = self.w.shape;
        let (run, first) = (self.start / RUN, self.start % RUN / CODES);
        for (row, to) in self.to.chunks_exact_mut(self.width).enumerate() {
            let scale = self.w.scales.get((row * d_in + self.start) / self.w.block);
            let words = &self.w.tile(row / LANES)[run][first..];
            for (to, words) in to.as_chunks_mut::<CODES>().0.iter_mut().zip(words) {
                *to = v.along(words[row % LANES], scale, table);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        nf4::{Nf4Host, lanes::to_lanes},
        rng::Key,
    };

    /// A panel with the instructions of every processor, in one order and the other.
    #[test]
    fn a_panel_has_the_values() {
        for [d_out, d_in] in [[16, 64], [40, 128], [70, 192], [33, 70]] {
            let values = Key::new(2).normal(d_out * d_in, 0.1);
            let host = Nf4Host::quantise(&values, [d_out, d_in], true);
            let words = to_lanes(host.packed(), host.shape());
            let rows = host.dequantise();
            for (is_turned, width) in [(true, 16), (true, 64), (true, 2), (false, 16), (false, 64)]
            {
                let w = Quantised {
                    shape: host.shape(),
                    block: host.block(),
                    words: &words,
                    code: *host.code(),
                    scales: host.scales().view(),
                    is_turned,
                };
                let [inner, columns] = w.shape();
                for start in (0..columns).step_by(width) {
                    let mut panel = vec![f32::NAN; inner * width];
                    w.pack_panel(start, width, &mut panel);
                    let mut others = vec![panel];
                    #[cfg(target_arch = "x86_64")]
                    if let Some(v3) = pulp::x86::V3::try_new()
                        && w.has_runs()
                        && width >= LANES
                    {
                        use super::super::sixteen::{Call, Plainly};

                        let mut to = [(); 2].map(|()| vec![f32::NAN; inner * width]);
                        let [a, b] = &mut to;
                        v3.vectorize(Call(
                            v3,
                            Panel {
                                w,
                                start,
                                width,
                                to: a,
                            },
                        ));
                        pulp::Simd::vectorize(
                            v3,
                            Plainly(Panel {
                                w,
                                start,
                                width,
                                to: b,
                            }),
                        );
                        others.extend(to);
                    }
                    for panel in &others {
                        for (at, &found) in panel.iter().enumerate() {
                            let (i, j) = (at / width, start + at % width);
                            let expected = match is_turned {
                                _ if j >= columns => 0.0,
                                true => rows[i * d_in + j],
                                false => rows[j * d_in + i],
                            };
                            assert_eq!(found, expected, "{d_out} {d_in} {is_turned} {width} {at}");
                        }
                    }
                }
            }
        }
    }
}

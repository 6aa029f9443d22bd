//! 4 bits to floats.

use rayon::prelude::*;

use super::{NESTED_BLOCK, Nf4Host, Nf4Scales};

/// Values that one thread decodes at once.
const RUN: usize = 1 << 14;

/// A matrix in 4 bits, with what decoding needs prepared.
#[derive(Debug)]
pub(super) struct Nf4View<'a> {
    block: usize,
    packed: &'a [u8],
    /// The two values of each byte.
    pairs: Box<[[f32; 2]; 256]>,
    scales: ScalesView<'a>,
}

/// The scales of a matrix, wherever they lie.
#[derive(Debug, Clone, Copy)]
pub enum ScalesView<'a> {
    /// One f32 each.
    Single(&'a [f32]),
    /// One byte each: `map[code] * nested[block / 256] + offset`.
    Double {
        /// A byte for each block.
        codes: &'a [u8],
        /// The values of the bytes.
        map: &'a [f32; 256],
        /// A scale for each 256 blocks.
        nested: &'a [f32],
        /// Added to every scale.
        offset: f32,
    },
}

impl ScalesView<'_> {
    /// The scale of one block. The order of the three operations is the format's.
    #[inline(always)]
    pub fn get(&self, block: usize) -> f32 {
        match *self {
            Self::Single(absmax) => absmax[block],
            Self::Double {
                codes,
                map,
                nested,
                offset,
            } => map[usize::from(codes[block])] * nested[block / NESTED_BLOCK] + offset,
        }
    }

    /// The scales of runs of values from the one numbered `first` on. A block has `in_block` runs.
    #[inline(always)]
    pub fn runs<'t>(
        &self,
        first: usize,
        in_block: usize,
        mut to: impl ExactSizeIterator<Item = &'t mut f32>,
    ) {
        match *self {
            Self::Double {
                codes,
                map,
                nested,
                offset,
            } if in_block == 1 => {
                let (mut at, end) = (first, first + to.len());
                while at < end {
                    let next = (at + 1).next_multiple_of(NESTED_BLOCK).min(end);
                    let scale = nested[at / NESTED_BLOCK];
                    for (&code, to) in codes[at..next].iter().zip(&mut to) {
                        *to = map[usize::from(code)] * scale + offset;
                    }
                    at = next;
                }
            }
            _ => {
                for (run, to) in (first..).zip(to) {
                    *to = self.get(run / in_block);
                }
            }
        }
    }
}

impl<'a> Nf4View<'a> {
    fn new(block: usize, packed: &'a [u8], code: &[f32], scales: ScalesView<'a>) -> Self {
        let pair = |byte: usize| [code[byte >> 4], code[byte & 15]];
        Self {
            block,
            packed,
            pairs: Box::new(std::array::from_fn(pair)),
            scales,
        }
    }

    /// Decodes the values from the one numbered `start` on, counted by rows.
    #[inline(always)]
    pub(super) fn decode(&self, start: usize, mut out: &mut [f32]) {
        let mut at = start;
        while !out.is_empty() {
            let rest = self.block - at % self.block;
            let (now, later) = out.split_at_mut(rest.min(out.len()));
            self.codes(at, now);
            let scale = self.scales.get(at / self.block);
            for value in now.iter_mut() {
                *value *= scale;
            }
            at += now.len();
            out = later;
        }
    }

    /// Values before their scale.
    #[inline(always)]
    fn codes(&self, mut at: usize, mut out: &mut [f32]) {
        if at % 2 == 1 {
            let Some((first, rest)) = out.split_first_mut() else {
                return;
            };
            *first = self.pairs[usize::from(self.packed[at / 2])][1];
            (at, out) = (at + 1, rest);
        }
        let bytes = &self.packed[at / 2..];
        let (whole, last) = out.as_chunks_mut::<2>();
        for (to, &byte) in whole.iter_mut().zip(bytes) {
            *to = self.pairs[usize::from(byte)];
        }
        if let [last] = last {
            *last = self.pairs[usize::from(bytes[whole.len()])][0];
        }
    }
}

impl Nf4Scales {
    /// A view of the scales.
    pub fn view(&self) -> ScalesView<'_> {
        match self {
            Self::Single(absmax) => ScalesView::Single(absmax),
            Self::Double {
                codes,
                map,
                nested,
                offset,
            } => ScalesView::Double {
                codes,
                map,
                nested,
                offset: *offset,
            },
        }
    }
}

impl Nf4Host {
    pub(super) fn view(&self) -> Nf4View<'_> {
        Nf4View::new(self.block, &self.packed, &self.code, self.scales.view())
    }

    /// The values in f32, not rounded, by rows.
    ///
    /// # Shapes
    /// - output: `[d_out, d_in]`
    pub fn dequantise(&self) -> Vec<f32> {
        let view = self.view();
        let mut out = vec![0.0; self.shape[0] * self.shape[1]];
        out.par_chunks_mut(RUN)
            .enumerate()
            .for_each(|(i, out)| view.decode(i * RUN, out));
        out
    }

    /// The scale of every block.
    pub fn absmax(&self) -> Vec<f32> {
        let view = self.view();
        let blocks = 0..self.scales.len();
        blocks.map(|block| view.scales.get(block)).collect()
    }
}

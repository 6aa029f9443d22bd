//! 4 bits to floats.

use rayon::prelude::*;

use super::{NESTED_BLOCK, Nf4Host, Nf4Scales};

/// Values that one thread decodes at once.
const RUN: usize = 1 << 14;

/// A matrix in 4 bits, wherever its parts lie, with what decoding needs prepared.
#[derive(Debug, Clone)]
pub(crate) struct Nf4View<'a> {
    pub(crate) shape: [usize; 2],
    block: usize,
    packed: &'a [u8],
    /// The two values of each byte.
    pairs: Box<[[f32; 2]; 256]>,
    scales: ScalesView<'a>,
}

/// The scales of a [`Nf4View`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum ScalesView<'a> {
    Single(&'a [f32]),
    Double {
        codes: &'a [u8],
        map: &'a [f32],
        nested: &'a [f32],
        offset: f32,
    },
}

impl ScalesView<'_> {
    /// The scale of one block. The order of the three operations is the format's.
    #[inline(always)]
    fn get(&self, block: usize) -> f32 {
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
}

impl<'a> Nf4View<'a> {
    pub(crate) fn new(
        shape: [usize; 2],
        block: usize,
        packed: &'a [u8],
        code: &[f32],
        scales: ScalesView<'a>,
    ) -> Self {
        let pair = |byte: usize| [code[byte >> 4], code[byte & 15]];
        Self {
            shape,
            block,
            packed,
            pairs: Box::new(std::array::from_fn(pair)),
            scales,
        }
    }

    /// Decodes the values from the one numbered `start` on, counted by rows.
    #[inline(always)]
    pub(crate) fn decode(&self, start: usize, mut out: &mut [f32]) {
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

    /// The values by the columns of the matrix.
    ///
    /// # Shapes
    /// - output: `[d_in, d_out]`
    #[cfg(feature = "flex")]
    pub(crate) fn turned(&self) -> Vec<f32> {
        let [d_out, d_in] = self.shape;
        let mut out = vec![0.0; d_out * d_in];
        let mut row = vec![0.0; d_in];
        for i in 0..d_out {
            self.decode(i * d_in, &mut row);
            for (to, &value) in out[i..].iter_mut().step_by(d_out.max(1)).zip(&row) {
                *to = value;
            }
        }
        out
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

impl Nf4Host {
    pub(crate) fn view(&self) -> Nf4View<'_> {
        let scales = match &self.scales {
            Nf4Scales::Single(absmax) => ScalesView::Single(absmax),
            Nf4Scales::Double {
                codes,
                map,
                nested,
                offset,
            } => ScalesView::Double {
                codes,
                map: &map[..],
                nested,
                offset: *offset,
            },
        };
        Nf4View::new(self.shape, self.block, &self.packed, &self.code, scales)
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

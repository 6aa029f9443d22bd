//! Floats to 4 bits, and scales to 8.

use rayon::prelude::*;

use super::{
    BLOCK, NESTED_BLOCK, Nf4Host, Nf4Scales,
    codebook::{NF4, ZERO, ZERO_SCALE, midpoints, scale_map},
};

/// Blocks that one thread quantises at once.
const RUN: usize = 256;

impl Nf4Host {
    /// Quantises a matrix, by rows, to the bytes that bitsandbytes gives. With `double` the scales are quantised too, to 8 bits.
    ///
    /// # Panics
    /// The number of values is not that of the shape.
    ///
    /// # Shapes
    /// - values: `[d_out, d_in]`, finite
    pub fn quantise(values: &[f32], shape: [usize; 2], double: bool) -> Self {
        assert_eq!(values.len(), shape[0] * shape[1], "values of the shape");
        let mut packed = vec![0; values.len().div_ceil(2)];
        let mut absmax = vec![0.0; values.len().div_ceil(BLOCK)];
        let midpoints = midpoints();
        values
            .par_chunks(RUN * BLOCK)
            .zip(packed.par_chunks_mut(RUN * BLOCK / 2))
            .zip(absmax.par_chunks_mut(RUN))
            .for_each(|((values, packed), absmax)| {
                // All processors give the same bits.
                pulp::Arch::new().dispatch(Run {
                    values,
                    midpoints: &midpoints,
                    packed,
                    absmax,
                });
            });
        let scales = match double {
            true => double_scales(&absmax),
            false => Nf4Scales::Single(absmax),
        };
        Self {
            shape,
            block: BLOCK,
            packed,
            code: NF4,
            scales,
        }
    }
}

/// Some blocks, and where their codes and scales go.
struct Run<'a> {
    values: &'a [f32],
    midpoints: &'a [f32; 15],
    packed: &'a mut [u8],
    absmax: &'a mut [f32],
}

impl pulp::NullaryFnOnce for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.quantise();
    }
}

impl Run<'_> {
    #[inline(always)]
    fn quantise(self) {
        let blocks = self.values.chunks(BLOCK);
        let blocks = blocks.zip(self.packed.chunks_mut(BLOCK / 2));
        for ((values, packed), absmax) in blocks.zip(self.absmax) {
            // A short block ends with zeros, whose code is that of zero.
            let mut block = [0.0; BLOCK];
            block[..values.len()].copy_from_slice(values);
            *absmax = largest_magnitude(&block);
            let mut codes = [ZERO; BLOCK];
            if *absmax > 0.0 {
                codes = codes_of(block, *absmax, values.len() == BLOCK, self.midpoints);
            }
            for (to, pair) in packed.iter_mut().zip(codes.as_chunks::<2>().0) {
                *to = pair[0] << 4 | pair[1];
            }
        }
    }
}

/// The largest magnitude of a block, found in sixteen parts side by side.
#[inline(always)]
fn largest_magnitude(block: &[f32; BLOCK]) -> f32 {
    let mut most = [0.0_f32; 16];
    for values in block.as_chunks::<16>().0 {
        for (most, x) in most.iter_mut().zip(values) {
            *most = if x.abs() > *most { x.abs() } else { *most };
        }
    }
    most.into_iter().fold(0.0, f32::max)
}

#[inline(always)]
fn codes_of(
    mut block: [f32; BLOCK],
    absmax: f32,
    is_whole: bool,
    midpoints: &[f32; 15],
) -> [u8; BLOCK] {
    let inverse = 1.0 / absmax;
    // The package multiplies whole blocks and divides a short one. The inverse of the least numbers is no number.
    if is_whole && inverse.is_finite() {
        for x in &mut block {
            *x *= inverse;
        }
    } else {
        for x in &mut block {
            *x /= absmax;
        }
    }
    let mut counts = [0i32; BLOCK];
    for &midpoint in midpoints {
        for (count, &x) in counts.iter_mut().zip(&block) {
            *count += i32::from(x > midpoint);
        }
    }
    counts.map(|count| count as u8)
}

/// The scales of one matrix in 8 bits: their mean apart, the rest in blocks.
pub(super) fn double_scales(absmax: &[f32]) -> Nf4Scales {
    let sum: f64 = absmax.iter().map(|&x| f64::from(x)).sum();
    let offset = (sum / absmax.len().max(1) as f64) as f32;
    let (codes, nested) = scale_codes(absmax, offset);
    Nf4Scales::Double {
        codes,
        map: Box::new(scale_map()),
        nested,
        offset,
    }
}

/// Codes of scales, less their offset, and the largest magnitude of each block.
pub fn scale_codes(absmax: &[f32], offset: f32) -> (Vec<u8>, Vec<f32>) {
    let map = scale_map();
    let mut codes = Vec::with_capacity(absmax.len());
    let mut nested = Vec::with_capacity(absmax.len().div_ceil(NESTED_BLOCK));
    for block in absmax.chunks(NESTED_BLOCK) {
        let most = block
            .iter()
            .fold(0.0, |most: f32, x| (x - offset).abs().max(most));
        nested.push(most);
        codes.extend(block.iter().map(|x| match most > 0.0 {
            true => nearest(&map, (x - offset) / most),
            false => ZERO_SCALE,
        }));
    }
    (codes, nested)
}

/// The place of the nearest entry, the lower one of two that are as near.
fn nearest(map: &[f32; 256], x: f32) -> u8 {
    let above = map.partition_point(|&entry| entry < x).min(255);
    let below = above.saturating_sub(1);
    match (x - map[below]).abs() <= (map[above] - x).abs() {
        true => below as u8,
        false => above as u8,
    }
}

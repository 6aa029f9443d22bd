//! Matrices in 4 bits: NormalFloat with one scale a block, and scales that may be quantised again (QLoRA, arXiv 2305.14314).
//!
//! The form is that of bitsandbytes. Blocks of 64 values run over a matrix `[d_out, d_in]` by rows, and over the ends of rows. Two values
//! share a byte, the first one in the high half. A value is `code[half byte] * absmax[block]` in f32. With double quantisation the scale is
//! `map[byte] * nested[block / 256] + offset`. Such a scale may be negative, and it is used as it is.
//!
//! The 16 codes of a matrix are its own, so FP4 is read in the same way.

mod codebook;
mod decode;
pub mod lanes;
mod quantise;

pub use codebook::{NF4, scale_map};
pub use decode::ScalesView;
pub use quantise::scale_codes;

use crate::numbers::first_not_finite;

/// Values that share a scale, when this library quantises.
pub const BLOCK: usize = 64;

/// Scales that share a scale of their own.
pub const NESTED_BLOCK: usize = 256;

/// In the name of the text that describes a tensor in 4 bits, this part stands between the tensor's name and its type.
pub const QUANT_STATE: &str = ".quant_state.bitsandbytes__";

/// A matrix `[d_out, d_in]` in 4 bits in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Nf4Host {
    shape: [usize; 2],
    block: usize,
    packed: Vec<u8>,
    code: [f32; 16],
    scales: Nf4Scales,
}

/// The scales of the blocks of a matrix.
#[derive(Debug, Clone, PartialEq)]
pub enum Nf4Scales {
    /// One f32 each.
    Single(Vec<f32>),
    /// One byte each: `map[code] * nested[block / 256] + offset`.
    Double {
        /// A byte for each block.
        codes: Vec<u8>,
        /// The values of the bytes.
        map: Box<[f32; 256]>,
        /// A scale for each 256 blocks.
        nested: Vec<f32>,
        /// Added to every scale.
        offset: f32,
    },
}

impl Nf4Scales {
    /// The number of blocks.
    pub fn len(&self) -> usize {
        match self {
            Self::Single(absmax) => absmax.len(),
            Self::Double { codes, .. } => codes.len(),
        }
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their bytes in memory, without the map.
    fn bytes(&self) -> usize {
        match self {
            Self::Single(absmax) => 4 * absmax.len(),
            Self::Double { codes, nested, .. } => codes.len() + 4 * nested.len(),
        }
    }
}

impl Nf4Host {
    /// A matrix from its parts, as a file has them.
    ///
    /// # Errors
    /// The cause alone; the caller knows the tensor's name. A part has another length than the shape needs, or a value that is not finite.
    pub fn new(
        shape: [usize; 2],
        block: usize,
        packed: Vec<u8>,
        code: [f32; 16],
        scales: Nf4Scales,
    ) -> Result<Self, String> {
        let blocks = block_count(shape, block)?;
        let has = |part: &str, found: usize, expected: usize| match found == expected {
            true => Ok(()),
            false => Err(format!(
                "{part} has {found} elements, but shape {shape:?} in blocks of {block} needs {expected}"
            )),
        };
        let bytes = (shape[0] * shape[1]).div_ceil(2);
        has("the packed tensor in bytes", packed.len(), bytes)?;
        has("absmax", scales.len(), blocks)?;
        finite("quant_map", &code)?;
        match &scales {
            Nf4Scales::Single(absmax) => finite("absmax", absmax)?,
            Nf4Scales::Double {
                map,
                nested,
                offset,
                ..
            } => {
                has("nested_absmax", nested.len(), blocks.div_ceil(NESTED_BLOCK))?;
                finite("nested_quant_map", &map[..])?;
                finite("nested_absmax", nested)?;
                finite("nested_offset", &[*offset])?;
            }
        }
        let whole = Self {
            shape,
            block,
            packed,
            code,
            scales,
        };
        // Finite parts may have a product that is not.
        finite("the restored absmax", &whole.absmax())?;
        Ok(whole)
    }

    /// `[d_out, d_in]`
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Values that share a scale.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Two values a byte, the first one in the high half. An odd number of values ends with the code of 0.
    pub fn packed(&self) -> &[u8] {
        &self.packed
    }

    /// The values of the 16 codes.
    pub fn code(&self) -> &[f32; 16] {
        &self.code
    }

    /// The scales of the blocks.
    pub fn scales(&self) -> &Nf4Scales {
        &self.scales
    }

    /// Bytes of codes and scales.
    pub fn bytes(&self) -> usize {
        self.packed.len() + self.scales.bytes()
    }

    /// Some rows as a matrix of their own, with every value kept to the bit. Scales of the part are in f32 where it cuts through the
    /// second level's blocks. `None` if the part cuts through a block of values.
    pub fn rows(&self, rows: std::ops::Range<usize>) -> Option<Self> {
        let columns = self.shape[1];
        let [start, end] = [rows.start * columns, rows.end * columns];
        let is_cut = |at: usize| !at.is_multiple_of(self.block) && at != self.shape[0] * columns;
        if is_cut(start) || is_cut(end) {
            return None;
        }
        let blocks = start / self.block..end.div_ceil(self.block);
        let scales = match &self.scales {
            Nf4Scales::Double {
                codes,
                map,
                nested,
                offset,
            } if blocks.start.is_multiple_of(NESTED_BLOCK) => Nf4Scales::Double {
                codes: codes[blocks.clone()].to_vec(),
                map: map.clone(),
                nested: nested[blocks.start / NESTED_BLOCK..blocks.end.div_ceil(NESTED_BLOCK)]
                    .to_vec(),
                offset: *offset,
            },
            Nf4Scales::Single(_) | Nf4Scales::Double { .. } => {
                Nf4Scales::Single(self.absmax()[blocks].to_vec())
            }
        };
        Some(Self {
            shape: [rows.len(), columns],
            block: self.block,
            packed: self.packed[start / 2..end.div_ceil(2)].to_vec(),
            code: self.code,
            scales,
        })
    }
}

/// The number of blocks of a matrix.
///
/// # Errors
/// The cause alone; the caller knows the tensor's name. The block's size is not allowed, or the shape has too many values to count.
pub fn block_count(shape: [usize; 2], block: usize) -> Result<usize, String> {
    if !block.is_power_of_two() || block < 32 {
        return Err(format!(
            "blocks of {block} values; expected a power of two from 32 on"
        ));
    }
    let values = shape[0].checked_mul(shape[1]);
    let values = values.ok_or_else(|| format!("shape {shape:?} has no possible size"))?;
    Ok(values.div_ceil(block))
}

/// Bytes of `values` quantised values with their scales.
pub fn bytes(values: usize, double: bool) -> usize {
    let blocks = values.div_ceil(BLOCK);
    values.div_ceil(2)
        + match double {
            true => blocks + 4 * blocks.div_ceil(NESTED_BLOCK),
            false => 4 * blocks,
        }
}

fn finite(part: &str, values: &[f32]) -> Result<(), String> {
    match first_not_finite(values) {
        None => Ok(()),
        Some(at) => Err(format!("{part}: value {at} is not finite ({})", values[at])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Key;

    fn random(shape: [usize; 2]) -> Vec<f32> {
        Key::new(3).name("nf4").normal(shape[0] * shape[1], 0.02)
    }

    #[test]
    fn every_value_takes_the_nearest_code() {
        for shape in [[1, 1], [3, 21], [5, 13], [7, 64], [33, 70]] {
            let values = random(shape);
            let whole = Nf4Host::quantise(&values, shape, false);
            let (found, absmax) = (whole.dequantise(), whole.absmax());
            for (i, (&value, &found)) in values.iter().zip(&found).enumerate() {
                let scale = absmax[i / BLOCK];
                let least = NF4
                    .iter()
                    .map(|code| (code * scale - value).abs())
                    .fold(f32::MAX, f32::min);
                let off = (found - value).abs();
                assert!(
                    off <= least * 1.000_01 + 1e-9,
                    "{shape:?} {i}: {off} {least}"
                );
            }
        }
    }

    #[test]
    fn any_piece_decodes_as_the_whole_does() {
        let shape = [9, 77];
        for double in [false, true] {
            let whole = Nf4Host::quantise(&random(shape), shape, double);
            let all = whole.dequantise();
            for (start, len) in [(0, 1), (1, 1), (63, 2), (5, 300), (691, 2), (64, 64)] {
                let mut piece = vec![0.0; len];
                whole.view().decode(start, &mut piece);
                assert_eq!(piece, all[start..start + len], "{start} {len}");
            }
        }
    }

    #[test]
    fn rows_keep_their_values() {
        let shape = [300, 128];
        for double in [false, true] {
            let whole = Nf4Host::quantise(&random(shape), shape, double);
            let all = whole.dequantise();
            for rows in [0..100, 100..300, 128..256, 299..300] {
                let part = whole.rows(rows.clone()).unwrap();
                assert_eq!(part.shape(), [rows.len(), 128]);
                assert_eq!(part.dequantise(), all[rows.start * 128..rows.end * 128]);
            }
        }
        let odd = Nf4Host::quantise(&random([4, 40]), [4, 40], true);
        assert_eq!(odd.rows(1..4), None);
        assert!(odd.rows(0..4).is_some());
    }

    #[test]
    fn bytes_are_counted_without_values() {
        for (shape, double) in [([3, 21], true), ([64, 512], false), ([300, 128], true)] {
            let whole = Nf4Host::quantise(&random(shape), shape, double);
            assert_eq!(whole.bytes(), bytes(shape[0] * shape[1], double));
        }
    }

    #[test]
    fn lying_parts_are_named() {
        let good = Nf4Host::quantise(&random([4, 64]), [4, 64], true);
        let Nf4Scales::Double {
            codes, map, nested, ..
        } = good.scales.clone()
        else {
            panic!("double")
        };
        let made = |shape, block, packed: Vec<u8>, code, nested, offset| {
            let scales = Nf4Scales::Double {
                codes: codes.clone(),
                map: map.clone(),
                nested,
                offset,
            };
            Nf4Host::new(shape, block, packed, code, scales).unwrap_err()
        };
        let packed = || good.packed.clone();
        let mut broken = NF4;
        broken[3] = f32::NAN;
        let cases = [
            (
                made([4, 64], 48, packed(), NF4, nested.clone(), 0.0),
                "blocks of 48",
            ),
            (
                made([4, 65], 64, packed(), NF4, nested.clone(), 0.0),
                "128 elements",
            ),
            (
                made([usize::MAX, 2], 64, packed(), NF4, nested.clone(), 0.0),
                "no possible size",
            ),
            (
                made([4, 64], 128, packed(), NF4, nested.clone(), 0.0),
                "absmax has 4",
            ),
            (
                made([4, 64], 64, packed(), broken, nested.clone(), 0.0),
                "quant_map: value 3",
            ),
            (
                made([4, 64], 64, packed(), NF4, vec![], 0.0),
                "nested_absmax has 0",
            ),
            (
                made([4, 64], 64, packed(), NF4, vec![f32::INFINITY], 0.0),
                "nested_absmax: value 0",
            ),
            (
                made([4, 64], 64, packed(), NF4, nested.clone(), f32::NAN),
                "nested_offset",
            ),
            (
                made([4, 64], 64, packed(), NF4, vec![f32::MAX], f32::MAX),
                "restored absmax",
            ),
        ];
        for (found, expected) in cases {
            assert!(found.contains(expected), "{found}");
        }
    }
}

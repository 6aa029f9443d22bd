//! The order of codes on a device. Products multiply sixteen outputs side by side, so the codes of sixteen rows of `[d_out, d_in]` lie side
//! by side: a tile. A word of 32 bits has eight codes of one row, the first one in the lowest bits.
//!
//! Words are `[tiles, words of a row, 16]`. The last tile may have rows, and the last word of a row codes, that the matrix does not have.

use rayon::prelude::*;

/// Rows of a tile.
pub const LANES: usize = 16;

/// Codes of a word.
pub const CODES: usize = 8;

/// The number of tiles, and of words in a row.
pub fn tiles([d_out, d_in]: [usize; 2]) -> [usize; 2] {
    [d_out.div_ceil(LANES), d_in.div_ceil(CODES)]
}

/// The words of a matrix whose packed bytes are in the order of the format.
pub fn to_lanes(packed: &[u8], shape: [usize; 2]) -> Vec<i32> {
    let [tiles, in_row] = tiles(shape);
    let mut words = vec![0; tiles * in_row * LANES];
    let tile = |(tile, words): (usize, &mut [i32])| {
        for (k, words) in words.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            for (row, word) in (tile * LANES..shape[0]).zip(words) {
                *word = read(packed, shape[1], row, k);
            }
        }
    };
    words
        .par_chunks_mut((in_row * LANES).max(1))
        .enumerate()
        .for_each(tile);
    words
}

/// The word numbered `k` of a row.
#[inline]
fn read(packed: &[u8], d_in: usize, row: usize, k: usize) -> i32 {
    let (at, len) = (row * d_in + k * CODES, CODES.min(d_in - k * CODES));
    if len == CODES && at.is_multiple_of(2) {
        let (words, _) = packed[at / 2..].as_chunks::<4>();
        let word = u32::from_le_bytes(words[0]);
        return ((word & 0x0f0f_0f0f) << 4 | word >> 4 & 0x0f0f_0f0f) as i32;
    }
    let code = |at: usize| u32::from(packed[at / 2] >> (4 * (1 - at % 2)) & 15);
    let word = (0..len).fold(0, |word, j| word | code(at + j) << (4 * j));
    word as i32
}

/// The packed bytes of the format. An odd number of values ends with `last`.
pub fn from_lanes(words: &[i32], [d_out, d_in]: [usize; 2], last: u8) -> Vec<u8> {
    let [_, in_row] = tiles([d_out, d_in]);
    let code = |at: usize| {
        if at == d_out * d_in {
            return last;
        }
        let (row, i) = (at / d_in, at % d_in);
        let word = words[(row / LANES * in_row + i / CODES) * LANES + row % LANES];
        (word as u32 >> (4 * (i % CODES)) & 15) as u8
    };
    let byte = |i: usize| code(2 * i) << 4 | code(2 * i + 1);
    let bytes = (d_out * d_in).div_ceil(2);
    (0..bytes).into_par_iter().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Key;

    #[test]
    fn the_order_of_lanes_keeps_every_code() {
        for (d_out, d_in) in [
            (1_usize, 1_usize),
            (3, 21),
            (16, 8),
            (17, 64),
            (40, 96),
            (33, 70),
        ] {
            let bytes = (d_out * d_in).div_ceil(2);
            let draws = Key::new(4).normal(bytes, 1e4);
            let packed: Vec<u8> = draws.iter().map(|x| (x.abs() as u32 % 256) as u8).collect();
            let words = to_lanes(&packed, [d_out, d_in]);
            let [tiles, in_row] = tiles([d_out, d_in]);
            assert_eq!(words.len(), tiles * in_row * LANES);
            let last = packed[bytes - 1] & 15;
            assert_eq!(from_lanes(&words, [d_out, d_in], last), packed);
        }
    }
}

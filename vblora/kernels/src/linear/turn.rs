//! Transposes a part of a matrix, in blocks of eight by eight that stay in registers. One value at a time takes twice as long.

use std::ops::Range;

/// Writes `to[i, j] = from[j, i]` for `j < columns`.
///
/// # Shapes
/// - from: `[columns, rows]`, its rows `stride` values apart; to: `[rows, width]`
pub(super) fn turn(from: &[f32], stride: usize, columns: usize, width: usize, to: &mut [f32]) {
    let part = Part {
        from,
        stride,
        rows: to.len() / width,
        columns,
        width,
        to,
    };
    #[cfg(target_arch = "x86_64")]
    if let Some(v3) = pulp::x86::V3::try_new() {
        return v3.vectorize(blocks::Blocks { v3, part });
    }
    let rows = 0..part.rows;
    part.one_by_one(rows, 0..columns);
}

/// The arguments of [`turn`].
struct Part<'a> {
    from: &'a [f32],
    stride: usize,
    rows: usize,
    columns: usize,
    width: usize,
    to: &'a mut [f32],
}

impl Part<'_> {
    /// Turns these rows and columns of the result.
    fn one_by_one(self, rows: Range<usize>, columns: Range<usize>) {
        for j in columns {
            let from = &self.from[j * self.stride..][rows.clone()];
            let to = self.to.chunks_exact_mut(self.width).skip(rows.start);
            from.iter().zip(to).for_each(|(&x, to)| to[j] = x);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod blocks {
    use core::arch::x86_64::__m256;

    use pulp::{NullaryFnOnce, bytemuck, x86::V3};

    use super::Part;
    use crate::prefetch::{Level, prefetch};

    /// Rows and columns of a block.
    const BLOCK: usize = 8;

    /// Rows that are written before the next columns' turn. Their panel stays in the first-level cache.
    const ROWS: usize = 32;

    /// The distance of the rows that are asked for ahead.
    const AHEAD: usize = 64;

    pub(super) struct Blocks<'a> {
        pub(super) v3: V3,
        pub(super) part: Part<'a>,
    }

    impl NullaryFnOnce for Blocks<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Self { v3, mut part } = self;
            let whole = [part.rows, part.columns].map(|n| n - n % BLOCK);
            for start in (0..whole[0]).step_by(ROWS) {
                let rows = start..(start + ROWS).min(whole[0]);
                for j in (0..whole[1]).step_by(BLOCK) {
                    for column in j..j + BLOCK {
                        let at = (rows.start + AHEAD).min(part.rows);
                        let len = rows.len().min(part.rows - at);
                        let next = &part.from[column * part.stride + at..][..len];
                        prefetch(next, Level::Second);
                    }
                    for i in rows.clone().step_by(BLOCK) {
                        part.block(v3, i, j);
                    }
                }
            }
            let [rows, columns] = [part.rows, part.columns];
            let edge = Part {
                to: &mut *part.to,
                ..part
            };
            edge.one_by_one(whole[0]..rows, 0..whole[1]);
            part.one_by_one(0..rows, whole[1]..columns);
        }
    }

    impl Part<'_> {
        /// Turns the block whose first place in the result is row `i`, column `j`.
        #[inline(always)]
        fn block(&mut self, v3: V3, i: usize, j: usize) {
            let mut rows = [bytemuck::cast([0.0_f32; BLOCK]); BLOCK];
            for (c, row) in rows.iter_mut().enumerate() {
                let (values, _) = self.from[(j + c) * self.stride + i..].as_chunks::<BLOCK>();
                *row = bytemuck::cast(values[0]);
            }
            for (k, column) in transposed(v3, rows).into_iter().enumerate() {
                let values: [f32; BLOCK] = bytemuck::cast(column);
                self.to[(i + k) * self.width + j..][..BLOCK].copy_from_slice(&values);
            }
        }
    }

    /// The columns of eight rows: pairs of values, then pairs of pairs, then halves change places. Without closures, which would not get the
    /// caller's instructions.
    #[inline(always)]
    fn transposed(v3: V3, rows: [__m256; BLOCK]) -> [__m256; BLOCK] {
        let avx = v3.avx;
        let [a, b, c, d, e, f, g, h] = rows;
        let (ab, ab_high) = (avx._mm256_unpacklo_ps(a, b), avx._mm256_unpackhi_ps(a, b));
        let (cd, cd_high) = (avx._mm256_unpacklo_ps(c, d), avx._mm256_unpackhi_ps(c, d));
        let (ef, ef_high) = (avx._mm256_unpacklo_ps(e, f), avx._mm256_unpackhi_ps(e, f));
        let (gh, gh_high) = (avx._mm256_unpacklo_ps(g, h), avx._mm256_unpackhi_ps(g, h));
        // Column k of four rows in the low half, and column k + 4 of them in the high half.
        let upper = fours(v3, [ab, ab_high], [cd, cd_high]);
        let lower = fours(v3, [ef, ef_high], [gh, gh_high]);
        [
            avx._mm256_permute2f128_ps::<0x20>(upper[0], lower[0]),
            avx._mm256_permute2f128_ps::<0x20>(upper[1], lower[1]),
            avx._mm256_permute2f128_ps::<0x20>(upper[2], lower[2]),
            avx._mm256_permute2f128_ps::<0x20>(upper[3], lower[3]),
            avx._mm256_permute2f128_ps::<0x31>(upper[0], lower[0]),
            avx._mm256_permute2f128_ps::<0x31>(upper[1], lower[1]),
            avx._mm256_permute2f128_ps::<0x31>(upper[2], lower[2]),
            avx._mm256_permute2f128_ps::<0x31>(upper[3], lower[3]),
        ]
    }

    #[inline(always)]
    fn fours(v3: V3, first: [__m256; 2], second: [__m256; 2]) -> [__m256; 4] {
        let avx = v3.avx;
        [
            avx._mm256_shuffle_ps::<0x44>(first[0], second[0]),
            avx._mm256_shuffle_ps::<0xee>(first[0], second[0]),
            avx._mm256_shuffle_ps::<0x44>(first[1], second[1]),
            avx._mm256_shuffle_ps::<0xee>(first[1], second[1]),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes with and without whole blocks, with rows beyond those asked for ahead, and panels wider than their columns.
    #[test]
    fn every_value_finds_its_place() {
        for [rows, columns, width, stride] in [
            [1, 1, 1, 1],
            [8, 8, 8, 8],
            [7, 9, 16, 11],
            [104, 16, 16, 104],
            [131, 13, 16, 140],
            [40, 64, 64, 41],
        ] {
            let from: Vec<f32> = (0..columns * stride).map(|i| i as f32).collect();
            let mut to = vec![-1.0; rows * width];
            turn(&from, stride, columns, width, &mut to);
            for i in 0..rows {
                for j in 0..width {
                    let expected = if j < columns {
                        from[j * stride + i]
                    } else {
                        -1.0
                    };
                    assert_eq!(to[i * width + j], expected, "{i}, {j}");
                }
            }
        }
    }
}

//! Products of a few rows with a weight in 4 bits, as in generation. Sixteen outputs lie side by side, and each value is decoded once for
//! several rows. Sums are in the order of the inner dimension, as with a dense weight.

use super::{
    product::Added,
    quantised::{Quantised, RUN},
    sixteen::{Sixteen, WithSixteen, dispatch},
    thin::{ROWS, begin, in_strips},
};
use crate::nf4::lanes::{CODES, LANES};

/// [`product`](super::product::product) of few rows with a weight that has runs. Returns true if the product was done.
pub(super) fn product(x: &[f32], w: Quantised<'_>, added: Added<'_>, out: &mut [f32]) -> bool {
    let [d_out, d_in] = w.shape;
    let rows = out.len() / d_out;
    if w.is_turned || rows > ROWS || d_in == 0 || !w.has_runs() {
        return false;
    }
    in_strips(out, d_out, d_in, |first, sums| {
        begin(added, first, rows, sums);
        dispatch(Strip {
            x,
            w,
            first,
            rows,
            sums,
        });
    });
    true
}

/// Some columns of the result, as `[rows, columns]`, from a multiple of sixteen on.
struct Strip<'a> {
    x: &'a [f32],
    w: Quantised<'a>,
    first: usize,
    rows: usize,
    sums: &'a mut [f32],
}

impl WithSixteen for Strip<'_> {
    #[inline(always)]
    fn with<V: Sixteen>(mut self, v: V) {
        let (columns, mut at) = (self.sums.len() / self.rows, 0);
        while at < columns {
            at += LANES
                * match (columns - at).div_ceil(LANES) {
                    1 => self.tiles::<V, 1>(v, at),
                    2 | 3 => self.tiles::<V, 2>(v, at),
                    _ => self.tiles::<V, 4>(v, at),
                };
        }
    }
}

impl Strip<'_> {
    /// `C` tiles from column `at` on. Returns their number.
    #[inline(always)]
    fn tiles<V: Sixteen, const C: usize>(&mut self, v: V, at: usize) -> usize {
        let mut scales = Vec::new();
        self.w
            .scales_of::<C>((self.first + at) / LANES, &mut scales);
        let mut row = 0;
        while row < self.rows {
            row += match self.rows - row {
                1 => self.sum::<V, C, 1>(v, at, row, &scales),
                2 | 3 => self.sum::<V, C, 2>(v, at, row, &scales),
                _ => self.sum::<V, C, 4>(v, at, row, &scales),
            };
        }
        C
    }

    /// `R` rows of `C` tiles. Returns the number of rows.
    #[inline(always)]
    fn sum<V: Sixteen, const C: usize, const R: usize>(
        &mut self,
        v: V,
        at: usize,
        row: usize,
        scales: &[[[f32; LANES]; C]],
    ) -> usize {
        let [_, d_in] = self.w.shape;
        let (table, runs) = (v.table(&self.w.code), scales.len());
        let tile = (self.first + at) / LANES;
        let mut words: [&[[[i32; LANES]; RUN / CODES]]; C] = [&[]; C];
        for (c, words) in words.iter_mut().enumerate() {
            *words = &self.w.tile(tile + c)[..runs];
        }
        let mut x: [&[[[f32; CODES]; RUN / CODES]]; R] = [&[]; R];
        for (r, x) in x.iter_mut().enumerate() {
            let (eights, _) = self.x[(row + r) * d_in..][..d_in].as_chunks();
            *x = &eights.as_chunks().0[..runs];
        }
        let mut sums = self.loaded::<V, C, R>(v, at, row);
        for (run, scales) in scales.iter().enumerate() {
            for k in 0..RUN / CODES {
                let eight = Eight {
                    words: loaded_words::<V, C>(v, &words, run, k),
                    scales: loaded_scales::<V, C>(v, scales),
                    x: eight_of(&x, run, k),
                    table,
                };
                eight.add::<0>(v, &mut sums);
                eight.add::<1>(v, &mut sums);
                eight.add::<2>(v, &mut sums);
                eight.add::<3>(v, &mut sums);
                eight.add::<4>(v, &mut sums);
                eight.add::<5>(v, &mut sums);
                eight.add::<6>(v, &mut sums);
                eight.add::<7>(v, &mut sums);
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (c, sums) in sums.into_iter().enumerate() {
                let to = self.part(at + c * LANES, row + r);
                to.copy_from_slice(&v.store(sums)[..to.len()]);
            }
        }
        R
    }

    #[inline(always)]
    fn loaded<V: Sixteen, const C: usize, const R: usize>(
        &mut self,
        v: V,
        at: usize,
        row: usize,
    ) -> [[V::Floats; C]; R] {
        let mut all = [[v.splat(0.0); C]; R];
        for (r, all) in all.iter_mut().enumerate() {
            for (c, sums) in all.iter_mut().enumerate() {
                let from = self.part(at + c * LANES, row + r);
                let mut values = [0.0; LANES];
                values[..from.len()].copy_from_slice(from);
                *sums = v.load(&values);
            }
        }
        all
    }

    /// The sums of one row in one tile.
    #[inline(always)]
    fn part(&mut self, at: usize, row: usize) -> &mut [f32] {
        let columns = self.sums.len() / self.rows;
        let len = LANES.min(columns - at);
        &mut self.sums[row * columns + at..][..len]
    }
}

/// Eight inner elements of `R` rows by `C` tiles.
struct Eight<'a, V: Sixteen, const C: usize, const R: usize> {
    words: [V::Words; C],
    scales: [V::Floats; C],
    x: [&'a [f32; CODES]; R],
    table: V::Table,
}

impl<V: Sixteen, const C: usize, const R: usize> Eight<'_, V, C, R> {
    /// Adds element `J`.
    #[inline(always)]
    fn add<const J: usize>(&self, v: V, sums: &mut [[V::Floats; C]; R]) {
        let mut values = self.scales;
        for (value, &words) in values.iter_mut().zip(&self.words) {
            *value = v.multiply(v.nth::<J>(words, self.table), *value);
        }
        for (sums, x) in sums.iter_mut().zip(&self.x) {
            let x = v.splat(x[J]);
            for (sum, &value) in sums.iter_mut().zip(&values) {
                *sum = v.multiply_add(x, value, *sum);
            }
        }
    }
}

/// The elements of each row that meet words number `k` of a run.
#[inline(always)]
fn eight_of<'a, const R: usize>(
    x: &[&'a [[[f32; CODES]; RUN / CODES]]; R],
    run: usize,
    k: usize,
) -> [&'a [f32; CODES]; R] {
    std::array::from_fn(|r| &x[r][run][k])
}

#[inline(always)]
fn loaded_words<V: Sixteen, const C: usize>(
    v: V,
    words: &[&[[[i32; LANES]; RUN / CODES]]; C],
    run: usize,
    k: usize,
) -> [V::Words; C] {
    let mut loaded = [v.words(&[0; LANES]); C];
    for (to, words) in loaded.iter_mut().zip(words) {
        *to = v.words(&words[run][k]);
    }
    loaded
}

#[inline(always)]
fn loaded_scales<V: Sixteen, const C: usize>(v: V, scales: &[[f32; LANES]; C]) -> [V::Floats; C] {
    let mut loaded = [v.splat(0.0); C];
    for (to, scales) in loaded.iter_mut().zip(scales) {
        *to = v.load(scales);
    }
    loaded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        linear::{Matrix, product, quantised_product},
        nf4::{NESTED_BLOCK, NF4, Nf4Host, Nf4Scales, block_count, lanes::to_lanes, scale_map},
        rng::Key,
    };

    /// `[d_out, d_in]`: of whole runs and not, of whole tiles and not, and one that is shared out among threads.
    const SHAPES: [[usize; 2]; 8] = [
        [16, 64],
        [40, 128],
        [1, 192],
        [130, 64],
        [33, 70],
        [16, 21],
        [7, 1],
        [272, 256],
    ];

    fn draw(name: &str, len: usize) -> Vec<f32> {
        Key::new(8).name(name).normal(len, 1.0)
    }

    /// A weight with random codes. Some scales are zero or negative.
    fn weight(shape: [usize; 2], block: usize, double: bool, code: [f32; 16]) -> Nf4Host {
        let bytes = |name: &str, len| -> Vec<u8> {
            let byte = |x: &f32| (x.abs() * 1e4) as u32 as u8;
            draw(name, len).iter().map(byte).collect()
        };
        let blocks = block_count(shape, block).unwrap();
        let mut absmax = draw("absmax", blocks);
        absmax.iter_mut().step_by(3).for_each(|x| *x = 0.0);
        let scales = match double {
            false => Nf4Scales::Single(absmax),
            true => Nf4Scales::Double {
                codes: bytes("codes", blocks),
                map: Box::new(scale_map()),
                nested: draw("nested", blocks.div_ceil(NESTED_BLOCK)),
                offset: 0.1,
            },
        };
        let packed = bytes("packed", (shape[0] * shape[1]).div_ceil(2));
        Nf4Host::new(shape, block, packed, code, scales).unwrap()
    }

    /// Every kind of weight of a shape.
    fn weights(shape: [usize; 2]) -> impl Iterator<Item = Nf4Host> {
        let magnitudes = [0.0, 0.0052, 0.667, 1.0, 0.333, 0.5, 0.167, 0.25];
        let fp4 = std::array::from_fn(|i| magnitudes[i % 8] * if i < 8 { 1.0 } else { -1.0 });
        [
            (64, true, NF4),
            (64, false, fp4),
            (128, true, fp4),
            (32, true, NF4),
        ]
        .into_iter()
        .map(move |(block, double, code)| weight(shape, block, double, code))
    }

    fn quantised<'a>(host: &'a Nf4Host, words: &'a [i32]) -> Quantised<'a> {
        Quantised {
            shape: host.shape(),
            block: host.block(),
            words,
            code: *host.code(),
            scales: host.scales().view(),
            is_turned: false,
        }
    }

    /// The values as `[d_in, d_out]`.
    fn turned(host: &Nf4Host) -> Vec<f32> {
        let [d_out, d_in] = host.shape();
        let rows = host.dequantise();
        let at = |i: usize| rows[i % d_out * d_in + i / d_out];
        (0..d_out * d_in).map(at).collect()
    }

    fn assert_same(found: &[f32], expected: &[f32], what: &str) {
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(found), bits(expected), "{what}");
    }

    fn products_are_those_of_the_values() {
        for (shape, host) in SHAPES
            .into_iter()
            .flat_map(|s| weights(s).map(move |w| (s, w)))
        {
            let ([d_out, d_in], words) = (shape, to_lanes(host.packed(), shape));
            let (values, bias) = (turned(&host), draw("bias", d_out));
            let up = draw("up", 3 * d_out);
            for rows in [1, 2, 3, 4, 5, 6, 7, 8, 17] {
                let (x, narrow) = (draw("x", rows * d_in), draw("narrow", rows * 3));
                let added = Added {
                    bias: Some(&bias),
                    narrow: Some((&narrow, Matrix::rows(&up, [3, d_out]))),
                };
                for added in [Added::default(), added] {
                    let [mut found, mut expected] = [(); 2].map(|()| vec![f32::NAN; rows * d_out]);
                    quantised_product(&x, quantised(&host, &words), added, &mut found);
                    let dense = Matrix::rows(&values, [d_in, d_out]);
                    product(&x, dense, added, &mut expected);
                    let what = format!("{shape:?} in {} {rows} rows", host.block());
                    assert_same(&found, &expected, &what);
                }
            }
        }
    }

    #[test]
    fn a_product_in_4_bits_is_that_of_the_values_to_the_bit() {
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap().install(products_are_those_of_the_values);
        }
    }

    /// Work that runs with the instructions of any processor.
    struct Few<'a> {
        w: Quantised<'a>,
        x: &'a [f32],
        sums: &'a mut [f32],
    }

    impl WithSixteen for Few<'_> {
        #[inline(always)]
        fn with<V: Sixteen>(self, v: V) {
            let strip = Strip {
                x: self.x,
                w: self.w,
                first: 0,
                rows: self.x.len() / self.w.shape[1],
                sums: self.sums,
            };
            strip.with(v);
        }
    }

    #[test]
    fn every_processor_looks_up_the_same_values() {
        use crate::linear::sixteen::Plainly;

        let (shape, rows) = ([40, 128], 3);
        let host = weight(shape, 64, true, NF4);
        let words = to_lanes(host.packed(), shape);
        let (values, x) = (turned(&host), draw("x", rows * shape[1]));
        let sums = |run: &dyn Fn(Few<'_>)| {
            let mut sums = vec![0.0; rows * shape[0]];
            run(Few {
                w: quantised(&host, &words),
                x: &x,
                sums: &mut sums,
            });
            sums
        };
        let plain = sums(&|few| pulp::Simd::vectorize(pulp::Scalar::new(), Plainly(few)));
        for (at, &found) in plain.iter().enumerate() {
            let (row, column) = (at / shape[0], at % shape[0]);
            let term = |i: usize| {
                f64::from(x[row * shape[1] + i]) * f64::from(values[i * shape[0] + column])
            };
            let expected: f64 = (0..shape[1]).map(term).sum();
            assert!(
                (f64::from(found) - expected).abs() < 1e-3,
                "{found} {expected}"
            );
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(v3) = pulp::x86::V3::try_new() {
            use crate::linear::sixteen::Call;

            let mut expected = vec![0.0; rows * shape[0]];
            let dense = Matrix::rows(&values, [shape[1], shape[0]]);
            product(&x, dense, Added::default(), &mut expected);
            let found = sums(&|few| v3.vectorize(Call(v3, few)));
            assert_same(&found, &expected, "AVX2");
            let found = sums(&|few| pulp::Simd::vectorize(v3, Plainly(few)));
            assert_same(&found, &expected, "plain lookup");
        }
    }
}

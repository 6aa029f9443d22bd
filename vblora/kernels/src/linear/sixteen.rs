//! Sixteen floats side by side, and their lookup in the table of sixteen that 4-bit codes stand for.

#[cfg(target_arch = "x86_64")]
use pulp::Scalar;
use pulp::{Arch, NullaryFnOnce, Simd, WithSimd};

/// The vector instructions of one processor.
pub(super) trait Sixteen: Copy {
    /// Sixteen floats.
    type Floats: Copy;
    /// Sixteen words of eight codes.
    type Words: Copy;
    /// The sixteen values of the codes.
    type Table: Copy;

    fn table(self, code: &[f32; 16]) -> Self::Table;

    fn load(self, values: &[f32; 16]) -> Self::Floats;

    fn store(self, values: Self::Floats) -> [f32; 16];

    fn splat(self, value: f32) -> Self::Floats;

    fn multiply(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;

    /// `a b + c`, rounded as in products of floats.
    fn multiply_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;

    fn words(self, words: &[i32; 16]) -> Self::Words;

    /// The values of the codes number `J` of each word, counted from the lowest bits.
    fn nth<const J: usize>(self, words: Self::Words, table: Self::Table) -> Self::Floats;

    /// The values of all codes of each word.
    #[inline(always)]
    fn across(self, words: &[i32; 16], table: Self::Table) -> [Self::Floats; 8] {
        let words = self.words(words);
        [
            self.nth::<0>(words, table),
            self.nth::<1>(words, table),
            self.nth::<2>(words, table),
            self.nth::<3>(words, table),
            self.nth::<4>(words, table),
            self.nth::<5>(words, table),
            self.nth::<6>(words, table),
            self.nth::<7>(words, table),
        ]
    }

    /// The values of the codes of one word, the lowest bits first, times `factor`.
    fn along(self, word: i32, factor: f32, table: Self::Table) -> [f32; 8];
}

/// Work in vectors of sixteen.
pub(super) trait WithSixteen {
    fn with<V: Sixteen>(self, v: V);
}

/// Does the work with the instructions of the processor at hand.
#[cfg(target_arch = "x86_64")]
pub(super) fn dispatch(work: impl WithSixteen) {
    match Arch::new() {
        Arch::V4(v) => v.vectorize(Call(v, work)),
        Arch::V3(v) => v.vectorize(Call(v, work)),
        _ => Plainly(work).with_simd(Scalar::new()),
    }
}

/// Does the work with the instructions of the processor at hand.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn dispatch(work: impl WithSixteen) {
    Arch::new().dispatch(Plainly(work));
}

/// A call on one processor.
pub(super) struct Call<V, W>(pub(super) V, pub(super) W);

impl<V: Sixteen, W: WithSixteen> NullaryFnOnce for Call<V, W> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.1.with(self.0);
    }
}

/// A call on processors without a lookup of their own.
pub(super) struct Plainly<W>(pub(super) W);

impl<W: WithSixteen> WithSimd for Plainly<W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.with(Plain(simd));
    }
}

/// The place of code `j` in a word.
const fn place(j: usize) -> u32 {
    4 * j as u32
}

#[derive(Clone, Copy)]
struct Plain<S>(S);

impl<S: Simd> Sixteen for Plain<S> {
    type Floats = [f32; 16];
    type Words = [i32; 16];
    type Table = [f32; 16];

    #[inline(always)]
    fn table(self, code: &[f32; 16]) -> [f32; 16] {
        *code
    }

    #[inline(always)]
    fn load(self, values: &[f32; 16]) -> [f32; 16] {
        *values
    }

    #[inline(always)]
    fn store(self, values: [f32; 16]) -> [f32; 16] {
        values
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; 16] {
        [value; 16]
    }

    #[inline(always)]
    fn multiply(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn multiply_add(self, a: [f32; 16], b: [f32; 16], mut c: [f32; 16]) -> [f32; 16] {
        let (a, b) = (S::as_simd_f32s(&a).0, S::as_simd_f32s(&b).0);
        for ((c, &a), &b) in S::as_mut_simd_f32s(&mut c).0.iter_mut().zip(a).zip(b) {
            *c = self.0.mul_add_e_f32s(a, b, *c);
        }
        c
    }

    #[inline(always)]
    fn words(self, words: &[i32; 16]) -> [i32; 16] {
        *words
    }

    #[inline(always)]
    fn nth<const J: usize>(self, words: [i32; 16], table: [f32; 16]) -> [f32; 16] {
        words.map(|word| table[(word as u32 >> place(J) & 15) as usize])
    }

    #[inline(always)]
    fn along(self, word: i32, factor: f32, table: [f32; 16]) -> [f32; 8] {
        std::array::from_fn(|j| table[(word as u32 >> place(j) & 15) as usize] * factor)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! Arguments in vectors do not pass through closures, which would be compiled for any processor.

    use pulp::{
        cast, f32x8, f32x16, u32x8, u32x16,
        x86::{V3, V4},
    };

    use super::{Sixteen, place};

    const PLACES: u32x8 = u32x8(0, 4, 8, 12, 16, 20, 24, 28);

    impl Sixteen for V4 {
        type Floats = f32x16;
        type Words = u32x16;
        type Table = f32x16;

        #[inline(always)]
        fn table(self, code: &[f32; 16]) -> f32x16 {
            cast(*code)
        }

        #[inline(always)]
        fn load(self, values: &[f32; 16]) -> f32x16 {
            cast(*values)
        }

        #[inline(always)]
        fn store(self, values: f32x16) -> [f32; 16] {
            cast(values)
        }

        #[inline(always)]
        fn splat(self, value: f32) -> f32x16 {
            self.splat_f32x16(value)
        }

        #[inline(always)]
        fn multiply(self, a: f32x16, b: f32x16) -> f32x16 {
            self.mul_f32x16(a, b)
        }

        #[inline(always)]
        fn multiply_add(self, a: f32x16, b: f32x16, c: f32x16) -> f32x16 {
            self.mul_add_f32x16(a, b, c)
        }

        #[inline(always)]
        fn words(self, words: &[i32; 16]) -> u32x16 {
            cast(*words)
        }

        #[inline(always)]
        fn nth<const J: usize>(self, words: u32x16, table: f32x16) -> f32x16 {
            // A lookup reads the lowest four bits.
            let codes = self.shr_dyn_u32x16(words, self.splat_u32x16(place(J)));
            let found = self.avx512f._mm512_permutexvar_ps(cast(codes), cast(table));
            cast(found)
        }

        #[inline(always)]
        fn along(self, word: i32, factor: f32, table: f32x16) -> [f32; 8] {
            let codes = self.shr_dyn_u32x8(self.splat_u32x8(word as u32), PLACES);
            let [low, high]: [f32x8; 2] = cast(table);
            let vl = self.avx512vl;
            let values = vl._mm256_permutex2var_ps(cast(low), cast(codes), cast(high));
            cast(self.mul_f32x8(cast(values), self.splat_f32x8(factor)))
        }
    }

    impl Sixteen for V3 {
        type Floats = [f32x8; 2];
        type Words = [u32x8; 2];
        type Table = [f32x8; 2];

        #[inline(always)]
        fn table(self, code: &[f32; 16]) -> [f32x8; 2] {
            cast(*code)
        }

        #[inline(always)]
        fn load(self, values: &[f32; 16]) -> [f32x8; 2] {
            cast(*values)
        }

        #[inline(always)]
        fn store(self, values: [f32x8; 2]) -> [f32; 16] {
            cast(values)
        }

        #[inline(always)]
        fn splat(self, value: f32) -> [f32x8; 2] {
            [self.splat_f32x8(value); 2]
        }

        #[inline(always)]
        fn multiply(self, a: [f32x8; 2], b: [f32x8; 2]) -> [f32x8; 2] {
            [self.mul_f32x8(a[0], b[0]), self.mul_f32x8(a[1], b[1])]
        }

        #[inline(always)]
        fn multiply_add(self, a: [f32x8; 2], b: [f32x8; 2], c: [f32x8; 2]) -> [f32x8; 2] {
            [
                self.mul_add_f32x8(a[0], b[0], c[0]),
                self.mul_add_f32x8(a[1], b[1], c[1]),
            ]
        }

        #[inline(always)]
        fn words(self, words: &[i32; 16]) -> [u32x8; 2] {
            cast(*words)
        }

        #[inline(always)]
        fn nth<const J: usize>(self, [a, b]: [u32x8; 2], table: [f32x8; 2]) -> [f32x8; 2] {
            let place = self.splat_u32x8(place(J));
            [
                looked_up(self, self.shr_dyn_u32x8(a, place), table),
                looked_up(self, self.shr_dyn_u32x8(b, place), table),
            ]
        }

        #[inline(always)]
        fn along(self, word: i32, factor: f32, table: [f32x8; 2]) -> [f32; 8] {
            let codes = self.shr_dyn_u32x8(self.splat_u32x8(word as u32), PLACES);
            let values = looked_up(self, codes, table);
            cast(self.mul_f32x8(values, self.splat_f32x8(factor)))
        }
    }

    /// The values of the codes in the lowest bits. The fourth bit tells the half of the table; as the sign it chooses one of two.
    #[inline(always)]
    fn looked_up(v: V3, codes: u32x8, [low, high]: [f32x8; 2]) -> f32x8 {
        let avx2 = v.avx2;
        let low = avx2._mm256_permutevar8x32_ps(cast(low), cast(codes));
        let high = avx2._mm256_permutevar8x32_ps(cast(high), cast(codes));
        let half = avx2._mm256_slli_epi32::<28>(cast(codes));
        cast(v.avx._mm256_blendv_ps(low, high, cast(half)))
    }
}

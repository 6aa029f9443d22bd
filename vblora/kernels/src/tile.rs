//! The inner loop of every product: some rows of the result by a few vector registers. All sums stay in registers. An element's sum is one
//! chain of fused multiply-adds in the order of the inner dimension. So neither the tile's size, the threads nor the number of rows change
//! a bit of it.

use pulp::Simd;

/// Rows of the largest tile.
pub(crate) const ROWS: usize = 6;

/// The sums of `R` rows by `C` registers.
pub(crate) type Sums<S, const R: usize, const C: usize> = [[<S as Simd>::f32s; C]; R];

/// Adds `x(r, i) w(i)` over `i < inner` to each row's sums.
#[inline(always)]
pub(crate) fn accumulate<S: Simd, const R: usize, const C: usize>(
    simd: S,
    inner: usize,
    x: impl Fn(usize, usize) -> f32,
    w: impl Fn(usize) -> [S::f32s; C],
    sums: &mut Sums<S, R, C>,
) {
    for i in 0..inner {
        let w = w(i);
        for (r, sums) in sums.iter_mut().enumerate() {
            let x = simd.splat_f32s(x(r, i));
            for (sum, &w) in sums.iter_mut().zip(&w) {
                *sum = simd.mul_add_e_f32s(x, w, *sum);
            }
        }
    }
}

/// The first `C` registers of a slice.
#[inline(always)]
pub(crate) fn load<S: Simd, const C: usize>(values: &[f32]) -> [S::f32s; C] {
    let (registers, _) = S::as_simd_f32s(values);
    registers.as_chunks::<C>().0[0]
}

/// Loads `C` registers from a slice that may be shorter. The rest is zero.
#[inline(always)]
pub(crate) fn load_part<S: Simd, const C: usize>(simd: S, values: &[f32]) -> [S::f32s; C] {
    if values.len() >= C * S::F32_LANES {
        return load::<S, C>(values);
    }
    std::array::from_fn(|c| {
        let start = (c * S::F32_LANES).min(values.len());
        simd.partial_load_f32s(&values[start..])
    })
}

/// Writes `C` registers to a slice that may be shorter. The rest is dropped.
#[inline(always)]
pub(crate) fn store<S: Simd, const C: usize>(simd: S, sums: [S::f32s; C], to: &mut [f32]) {
    if to.len() >= C * S::F32_LANES {
        let (registers, _) = S::as_mut_simd_f32s(to);
        registers[..C].copy_from_slice(&sums);
        return;
    }
    for (c, sum) in sums.into_iter().enumerate() {
        let start = (c * S::F32_LANES).min(to.len());
        simd.partial_store_f32s(&mut to[start..], sum);
    }
}

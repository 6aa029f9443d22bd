//! Rotary positions.

use crate::over_rows;

/// Turns the first `width` values of each row of `d` by the row's angles, head by head. The rest of a row stays.
///
/// # Shapes
/// - values: `[n, d]`; cos, sin: `[n, half]`, where a head has `2 half` values
pub fn rotate(values: &mut [f32], [d, width]: [usize; 2], [cos, sin]: [&[f32]; 2], half: usize) {
    over_rows(values, d, |start, run| {
        for (row, values) in run.chunks_exact_mut(d).enumerate() {
            let at = (start / d + row) * half;
            rotate_row(&cos[at..][..half], &sin[at..][..half], &mut values[..width]);
        }
    });
}

/// Turns each head of a token, `[heads, 2 half]`, by the token's angles.
#[inline(always)]
fn rotate_row(cos: &[f32], sin: &[f32], values: &mut [f32]) {
    let half = cos.len();
    let sin = &sin[..half];
    for head in values.chunks_exact_mut(2 * half) {
        let (first, second) = head.split_at_mut(half);
        for i in 0..half {
            let (a, b) = (first[i], second[i]);
            first[i] = a * cos[i] - b * sin[i];
            second[i] = b * cos[i] + a * sin[i];
        }
    }
}

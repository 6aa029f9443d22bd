//! The kernels of normalisations. CUDA has functions named `norm` and the like, so no kernel may have such a name.
//!
//! A unit reads its pieces of a row several at a time, so that one read does not wait for the other. Those beyond the row's end read its
//! last piece and count for nothing.
#![allow(missing_docs, reason = "the macros make launch functions of these")]

use cubecl::prelude::*;

use crate::backend::gpu::rows::{plane_total, row, zeros};

/// A piece of the row that is normalised.
#[cube]
fn value<V: Size>(
    x: &Array<Vector<f32, V>>,
    residual: &Array<Vector<f32, V>>,
    at: usize,
    #[comptime] is_sum: bool,
) -> Vector<f32, V> {
    let mut value = x[at];
    if is_sum {
        value += residual[at];
    }
    value
}

/// A row's mean, or 0 if it is not subtracted, and `sqrt(var + epsilon)`. The kernels divide by it once, since a division takes as long as
/// ten products.
#[cube]
fn moments<V: Size>(
    x: &Array<Vector<f32, V>>,
    residual: &Array<Vector<f32, V>>,
    start: usize,
    pieces: usize,
    epsilon: f32,
    #[comptime] is_centred: bool,
    #[comptime] is_sum: bool,
    #[comptime] ahead: usize,
) -> (f32, f32) {
    let n = f32::cast_from(pieces * V::value());
    let plane = CUBE_DIM_X as usize;
    let mut mean = 0.0f32;
    if is_centred {
        let mut sum = zeros::<V>();
        let mut j = UNIT_POS_X as usize;
        while j < pieces {
            #[unroll]
            for i in 0..ahead {
                let at = j + i * plane;
                let value = value(x, residual, start + at.min(pieces - 1), is_sum);
                sum += select(at < pieces, value, zeros::<V>());
            }
            j += ahead * plane;
        }
        mean = plane_total(sum) / n;
    }
    let mut squares = zeros::<V>();
    let mut j = UNIT_POS_X as usize;
    while j < pieces {
        #[unroll]
        for i in 0..ahead {
            let at = j + i * plane;
            let value = value(x, residual, start + at.min(pieces - 1), is_sum);
            let centred = value - Vector::cast_from(mean);
            squares += select(at < pieces, centred * centred, zeros::<V>());
        }
        j += ahead * plane;
    }
    (mean, (plane_total(squares) / n + epsilon).sqrt())
}

/// The norm of x, or of the sum of x and the residual.
#[cube(launch)]
pub(super) fn row_norm<V: Size>(
    x: &Array<Vector<f32, V>>,
    residual: &Array<Vector<f32, V>>,
    gamma: &Array<Vector<f32, V>>,
    beta: &Array<Vector<f32, V>>,
    out: &mut Array<Vector<f32, V>>,
    deviations: &mut Array<f32>,
    rows: usize,
    pieces: usize,
    epsilon: f32,
    #[comptime] is_centred: bool,
    #[comptime] is_sum: bool,
    #[comptime] ahead: usize,
    #[define(V)] _piece: usize,
) {
    let row = row();
    if row >= rows {
        terminate!();
    }
    let start = row * pieces;
    let (mean, deviation) = moments(
        x, residual, start, pieces, epsilon, is_centred, is_sum, ahead,
    );
    if UNIT_POS_X == 0 {
        deviations[row] = deviation;
    }
    let mean = Vector::cast_from(mean);
    let inverse = Vector::cast_from(1.0f32 / deviation);
    let plane = CUBE_DIM_X as usize;
    let mut j = UNIT_POS_X as usize;
    while j < pieces {
        #[unroll]
        for i in 0..ahead {
            let at = j + i * plane;
            if at < pieces {
                let centred = value(x, residual, start + at, is_sum) - mean;
                let mut y = centred * inverse * gamma[at];
                if is_centred {
                    y += beta[at];
                }
                out[start + at] = y;
            }
        }
        j += ahead * plane;
    }
}

/// With `n = (x - mean) / std` and `g = grad gamma`: `(g - mean(g) - n mean(g n)) / std`. The means are left out if `is_centred` is false.
#[cube(launch)]
pub(super) fn row_norm_backward<V: Size>(
    x: &Array<Vector<f32, V>>,
    gamma: &Array<Vector<f32, V>>,
    grad: &Array<Vector<f32, V>>,
    out: &mut Array<Vector<f32, V>>,
    rows: usize,
    pieces: usize,
    epsilon: f32,
    #[comptime] is_centred: bool,
    #[comptime] ahead: usize,
    #[define(V)] _piece: usize,
) {
    let row = row();
    if row >= rows {
        terminate!();
    }
    let (start, n) = (row * pieces, f32::cast_from(pieces * V::value()));
    let (mean, deviation) = moments(x, x, start, pieces, epsilon, is_centred, false, ahead);
    let mean = Vector::cast_from(mean);
    let inverse = Vector::cast_from(1.0f32 / deviation);
    let plane = CUBE_DIM_X as usize;
    let mut sum = zeros::<V>();
    let mut along = zeros::<V>();
    let mut j = UNIT_POS_X as usize;
    while j < pieces {
        #[unroll]
        for i in 0..ahead {
            let at = j + i * plane;
            let from = at.min(pieces - 1);
            let g = select(at < pieces, grad[start + from] * gamma[from], zeros::<V>());
            sum += g;
            along += g * ((x[start + from] - mean) * inverse);
        }
        j += ahead * plane;
    }
    let along = Vector::cast_from(plane_total(along) / n);
    let mut mean_grad = zeros::<V>();
    if is_centred {
        mean_grad = Vector::cast_from(plane_total(sum) / n);
    }
    j = UNIT_POS_X as usize;
    while j < pieces {
        #[unroll]
        for i in 0..ahead {
            let at = j + i * plane;
            if at < pieces {
                let normal = (x[start + at] - mean) * inverse;
                let g = grad[start + at] * gamma[at];
                out[start + at] = (g - mean_grad - normal * along) * inverse;
            }
        }
        j += ahead * plane;
    }
}

/// [`row_norm_backward`] with `n = (y - beta) / gamma`.
#[cube(launch)]
pub(super) fn invertible_norm_backward<V: Size>(
    y: &Array<Vector<f32, V>>,
    gamma: &Array<Vector<f32, V>>,
    beta: &Array<Vector<f32, V>>,
    deviations: &Array<f32>,
    grad: &Array<Vector<f32, V>>,
    out: &mut Array<Vector<f32, V>>,
    rows: usize,
    pieces: usize,
    #[comptime] ahead: usize,
    #[define(V)] _piece: usize,
) {
    let row = row();
    if row >= rows {
        terminate!();
    }
    let (start, n) = (row * pieces, f32::cast_from(pieces * V::value()));
    let plane = CUBE_DIM_X as usize;
    let mut sum = zeros::<V>();
    let mut along = zeros::<V>();
    let mut j = UNIT_POS_X as usize;
    while j < pieces {
        #[unroll]
        for i in 0..ahead {
            let at = j + i * plane;
            let from = at.min(pieces - 1);
            let g = select(at < pieces, grad[start + from], zeros::<V>());
            sum += g * gamma[from];
            along += g * (y[start + from] - beta[from]);
        }
        j += ahead * plane;
    }
    let mean_grad = Vector::cast_from(plane_total(sum) / n);
    let along = Vector::cast_from(plane_total(along) / n);
    let inverse = Vector::cast_from(1.0f32 / deviations[row]);
    j = UNIT_POS_X as usize;
    while j < pieces {
        #[unroll]
        for i in 0..ahead {
            let at = j + i * plane;
            if at < pieces {
                let normal = (y[start + at] - beta[at]) / gamma[at];
                let g = grad[start + at] * gamma[at];
                out[start + at] = (g - mean_grad - normal * along) * inverse;
            }
        }
        j += ahead * plane;
    }
}

//! The CPU kernels of `vblora`: products, attention and other loops over f32 slices.
//!
//! The crate knows slices alone, no tensor and no backend. So it is small, and it is compiled optimised even where the library is not. The
//! library checks every shape before it calls a kernel. A kernel panics on slices that are too short.
//!
//! Whole rows go to threads. The compiler turns every loop into the vector instructions of the processor at hand. Products and sums are not
//! contracted, so all processors with the same lanes agree.

pub mod activation;
mod aligned;
pub mod attention;
pub mod dropout;
pub mod linear;
mod loops;
pub mod loss;
pub mod mix;
pub mod nf4;
pub mod norm;
pub mod numbers;
mod prefetch;
pub mod rng;
pub mod rotary;
pub mod svd;
mod tile;

use aligned::{Aligned, LINE};
use loops::{
    LANES, PARALLEL_FROM, each, each_pair_with, each_row_with, each_with, erf, exp, largest,
    over_rows, padded, run_length, sum_of,
};
pub use loops::{transposed, zeros};

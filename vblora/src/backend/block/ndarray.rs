//! One operation for each map: the order of sums then stays what it was.

use burn::backend::ndarray::NdArray;

use super::BlockOps;

impl BlockOps for NdArray {}

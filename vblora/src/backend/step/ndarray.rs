//! One operation for each map: the order of sums then stays what it was.

use burn::backend::ndarray::NdArray;

use super::StepOps;

impl StepOps for NdArray {}

//! One operation for each map: the order of sums then stays what it was.

use burn::backend::flex::Flex;

use super::StepOps;

impl StepOps for Flex {}

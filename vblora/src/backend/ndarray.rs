//! The families for which ndarray, the plain CPU backend, has no fast paths of its own.

use burn::backend::ndarray::NdArray;

use super::{ActivationOps, AttentionOps, LinearOps, NormOps, PositionOps, VbLoraBackend};

impl VbLoraBackend for NdArray {}

impl LinearOps for NdArray {}

impl NormOps for NdArray {}

impl ActivationOps for NdArray {}

impl AttentionOps for NdArray {}

impl PositionOps for NdArray {}

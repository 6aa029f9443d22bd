//! Nothing is trained by decoding: the plain bodies have the gradients of their parts.

use burn::backend::autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};

use super::StepOps;

impl<B: StepOps, C: CheckpointStrategy> StepOps for Autodiff<B, C> {}

//! The launches that a training step asks a GPU for.

use vblora::backend::VbLoraBackend;
use vblora_bench::train::Method;

use super::learner::{all_maps, batch};
use crate::support::launches::mark;

/// Steps of a model of two layers, adapted everywhere.
pub(crate) fn steps<B: VbLoraBackend>(device: &B::Device) {
    let mut learner = all_maps::<B>(Method::VbLora, 0.1, device);
    for step in 0..3 {
        if step == 2 {
            mark();
        }
        let report = learner.step(step, &[batch(0, 6)], 1.0).unwrap();
        assert!(report.is_finite());
    }
    mark();
}

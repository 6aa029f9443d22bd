pub(crate) mod causal;
pub(crate) mod learner;
pub(crate) mod optimizer;
pub(crate) mod recorded;
pub(crate) mod resume;

use vblora::backend::VbLoraBackend;

/// Whether the backend computes the same to the bit each time.
pub(crate) fn is_exact<B: VbLoraBackend>(device: &B::Device) -> bool {
    ["flex", "ndarray"].contains(&B::name(device).as_str())
}

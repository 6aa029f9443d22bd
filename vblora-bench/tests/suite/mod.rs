pub(crate) mod causal;
#[cfg(feature = "wgpu")]
pub(crate) mod launches;
pub(crate) mod learner;
pub(crate) mod optimizer;
pub(crate) mod recorded;
pub(crate) mod resume;

use vblora::backend::VbLoraBackend;

/// True if the backend computes the same bits each time.
pub(crate) fn is_exact<B: VbLoraBackend>(device: &B::Device) -> bool {
    ["flex", "ndarray"].contains(&B::name(device).as_str())
}

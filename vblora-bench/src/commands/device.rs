//! The flags that choose the device.

use vblora::backend::{BackendKind, DEFAULT_BACKEND};

// Plain comments: a doc comment on flattened flags would become the command's description.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Device")]
pub(super) struct DeviceArguments {
    /// Backend to compute on: flex, ndarray, wgpu or cuda
    #[arg(long, default_value = DEFAULT_BACKEND)]
    pub(super) backend: BackendKind,
    /// Index of the backend's device
    #[arg(long, value_name = "I", default_value_t = 0)]
    pub(super) device: usize,
}

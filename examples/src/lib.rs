//! Programs to copy from, and the few lines that all of them start with.
#![forbid(unsafe_code)]

use std::io::IsTerminal;

/// Warnings and errors go to standard error, as `RUST_LOG` says where it is set.
pub fn start_logging() {
    let level = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "warn,cubecl=error,wgpu=error".into());
    tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_target(false)
        .without_time()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

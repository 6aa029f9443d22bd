//! Runs whole sessions on a backend that is chosen at run time.
//!
//! These functions are not generic, so this crate compiles the training code once for every backend, and programs only link it.

use std::sync::atomic::AtomicBool;

use vblora::backend::{BackendJob, BackendKind, VbLoraBackend};

use super::{causal::TextSource, session::Session, source::Source};
use crate::{Result, results::Results};

/// [`Session::run`] for an encoder, on the backend's device with this index.
///
/// # Errors
/// As [`Session::run`]; the backend is not compiled in, or its device does not work.
pub fn run_encoder(
    backend: BackendKind,
    device: usize,
    session: &Session,
    interrupted: &AtomicBool,
) -> Result<Results> {
    backend.dispatch(device, Job(session, interrupted))?
}

/// [`Session::run`] for a causal model, on the backend's device with this index.
///
/// # Errors
/// As [`run_encoder`].
pub fn run_causal(
    backend: BackendKind,
    device: usize,
    session: &Session<TextSource>,
    interrupted: &AtomicBool,
) -> Result<Results> {
    backend.dispatch(device, Job(session, interrupted))?
}

struct Job<'a, S>(&'a Session<S>, &'a AtomicBool);

impl<S: Source + Sync> BackendJob for Job<'_, S> {
    type Output = Result<Results>;

    fn run<B: VbLoraBackend>(self, device: B::Device) -> Self::Output {
        self.0.run::<B>(&device, self.1)
    }
}

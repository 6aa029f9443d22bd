//! Runs whole sessions on a backend that is chosen at run time.
//!
//! These functions are not generic, so this crate compiles the training code once for every backend, and programs only link it.

use std::sync::{Arc, atomic::AtomicBool};

use vblora::backend::{BackendJob, BackendKind, VbLoraBackend};

use super::{causal::TextSource, ranks::Ranks, session::Session, source::Source};
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
    run_encoder_with(backend, device, session, interrupted, Ranks::alone())
}

/// [`run_encoder`] as one of several ranks. The results are those of rank 0; other ranks have none.
///
/// # Errors
/// As [`run_encoder`]; a rank differs from rank 0 or does not answer.
pub fn run_encoder_with(
    backend: BackendKind,
    device: usize,
    session: &Session,
    interrupted: &AtomicBool,
    ranks: Ranks<'_>,
) -> Result<Results> {
    run_with(backend, device, session, interrupted, ranks)
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
    run_with(backend, device, session, interrupted, Ranks::alone())
}

/// Runs a session of any kind.
pub(super) fn run_with<S: Source + Sync>(
    backend: BackendKind,
    device: usize,
    session: &Session<S>,
    interrupted: &AtomicBool,
    ranks: Ranks<'_>,
) -> Result<Results> {
    backend.dispatch(device, Job(session, interrupted, ranks))?
}

struct Job<'a, S>(&'a Session<S>, &'a AtomicBool, Ranks<'a>);

impl<S: Source + Sync> BackendJob for Job<'_, S> {
    type Output = Result<Results>;

    fn run<B: VbLoraBackend>(self, device: B::Device) -> Self::Output {
        let Self(session, interrupted, ranks) = self;
        let ended = session.run_with::<B>(&device, interrupted, Arc::default(), ranks)?;
        Ok(ended.results)
    }
}

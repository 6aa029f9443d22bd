//! The rest of a template's budget. Each runs on a thread of its own, so that the thread knows.

use std::cell::Cell;
use std::time::{Duration, Instant};

use minijinja::{Error, ErrorKind};

/// Bytes of texts, and of the entries of lists, that one run may make.
const MAX_BYTES: usize = 256 << 20;
/// The size of a list's entry.
pub(super) const ENTRY: usize = size_of::<minijinja::Value>();

thread_local! {
    static LEFT: Cell<usize> = const { Cell::new(0) };
    static END: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A template starts on this thread.
pub(super) fn start(time: Duration) {
    LEFT.set(MAX_BYTES);
    END.set(Instant::now().checked_add(time));
}

/// Takes up so many bytes, before they are allocated where their number is known.
pub(super) fn spend(bytes: usize) -> Result<(), Error> {
    if END.get().is_some_and(|end| Instant::now() > end) {
        return Err(invalid("the time for a template is over"));
    }
    match LEFT.get().checked_sub(bytes) {
        Some(left) => {
            LEFT.set(left);
            Ok(())
        }
        None => Err(invalid(format!(
            "makes more text than the {MAX_BYTES} bytes allowed"
        ))),
    }
}

pub(super) fn out_of_time(time: Duration) -> String {
    format!("takes longer than the {} s allowed", time.as_secs())
}

pub(super) fn invalid(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}

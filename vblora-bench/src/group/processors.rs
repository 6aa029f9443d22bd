//! The processors of this host, and the part of them that a process computes on.

use std::{fs, io, thread};

use super::Place;

/// The number of this host's processors, whichever of them this process may use.
///
/// # Errors
/// The system does not say which it may use.
pub fn processors() -> io::Result<usize> {
    let allowed = thread::available_parallelism()?.get();
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let lines = text.lines().filter(|line| line.starts_with("processor"));
    Ok(lines.count().max(allowed))
}

impl Place {
    /// The number of processors that this process computes on. The ranks of a host divide them, unless their launcher has done so by binding
    /// each to some.
    ///
    /// # Errors
    /// As [`processors`].
    pub fn processors(&self) -> io::Result<usize> {
        let allowed = thread::available_parallelism()?.get();
        Ok(allowed.min((processors()? / self.local_size).max(1)))
    }
}

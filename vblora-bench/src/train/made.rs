//! The program, its threads and its arguments that made a session, for those who repeat it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::run_dir::SessionIdentity;
use crate::Result;

/// The program and its command that made a session. On flex and ndarray, the bits of its adapters depend on the numbers of threads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Made {
    /// The version of this library.
    pub version: String,
    /// Threads of rayon's pool.
    pub threads: usize,
    /// The value of `MATMUL_NUM_THREADS`, which ndarray's products obey.
    pub matmul_threads: Option<String>,
    /// The arguments of `vblora train`; empty if another program made the session.
    pub arguments: Vec<String>,
}

impl Made {
    /// This program on this machine, with these arguments.
    pub(crate) fn here(arguments: Vec<String>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            threads: rayon::current_num_threads(),
            matmul_threads: std::env::var("MATMUL_NUM_THREADS").ok(),
            arguments,
        }
    }

    /// The threads of this session and of the one that continues it here, if they are others: then the last bits are others too.
    pub(super) fn other_threads(&self, here: &Self) -> Option<String> {
        let shown = |made: &Self| {
            let products = made.matmul_threads.as_ref();
            let products = products.map(|threads| format!(" MATMUL_NUM_THREADS={threads}"));
            let threads = made.threads;
            format!(
                "RAYON_NUM_THREADS={threads}{}",
                products.unwrap_or_default()
            )
        };
        let (there, here) = (shown(self), shown(here));
        (there != here).then(|| format!("{there}, and goes on with {here}"))
    }

    /// Reads what made the session in a directory; `None` if an earlier version did, which did not record it.
    ///
    /// # Errors
    /// The directory holds no session, or its file cannot be read.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        Ok(SessionIdentity::of(dir)?.made)
    }
}

//! The directory for a session's results, and the function that draws them. A higher module supplies the function.

use std::path::PathBuf;

use derive_new::new;

use crate::{Result, results::Results};

/// The files drawn from `results.json` and from nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawing {
    /// The summary, as Markdown: `table.md`.
    pub table: String,
    /// Losses and metrics by epoch, as SVG: `curves.svg`.
    pub curves: String,
}

/// Draws results. A session calls it after it has written `results.json`, and when it resumes with an older one.
pub type Draw = fn(&Results) -> Result<Drawing>;

/// The directory for a session's results.
#[derive(Debug, Clone, new)]
pub struct Output {
    /// The directory; it need not exist.
    #[new(into)]
    pub dir: PathBuf,
    /// Draws the results ([`report::draw`](crate::report::draw)).
    pub draw: Draw,
    /// True if the runs' curves are also written as TensorBoard's event files.
    #[new(default)]
    pub tensorboard: bool,
    /// The arguments of `vblora train` that the session was made with; empty if another program made it.
    #[new(default)]
    pub arguments: Vec<String>,
    /// The directory of a session that this one repeats. It must have the same model, data, recipe and backend.
    #[new(default)]
    pub repeats: Option<PathBuf>,
}

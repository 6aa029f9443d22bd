//! Where the outcome of a session goes, and what is drawn of it by a room above this one.

use std::path::PathBuf;

use derive_new::new;

use crate::{Result, results::Results};

/// The views of results that lie beside `results.json`. They are made of nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawing {
    /// The summary, as Markdown: `table.md`.
    pub table: String,
    /// Losses and metrics by epoch, as SVG: `curves.svg`.
    pub curves: String,
}

/// Draws results. A session calls it whenever it has written `results.json`, and when it goes on with an older one.
pub type Draw = fn(&Results) -> Result<Drawing>;

/// Where the outcome of a session goes.
#[derive(Debug, Clone, new)]
pub struct Output {
    /// The directory; it need not be there.
    #[new(into)]
    pub dir: PathBuf,
    /// Draws what lies in it ([`report::draw`](crate::report::draw)).
    pub draw: Draw,
}

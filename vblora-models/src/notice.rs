//! Notices about a model's files. The user sees each once, however often the files are read.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// Logs a warning, unless it was logged before.
pub(crate) fn once(notice: String) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.contains(&notice) {
        return;
    }
    tracing::warn!("{notice}");
    said.insert(notice);
}

//! Waiting for other ranks.

use std::{sync::Arc, time::Duration};

use super::{Group, Message};
use crate::{Error, Result};

/// How long a rank that does not do its work may take to say that its process lives.
const ANSWER: Duration = Duration::from_secs(2);

/// Hears one message of every other rank. Rank 0 calls this.
///
/// # Errors
/// A rank does not answer for as long as `patience`; the error of `hear`.
pub(crate) fn hear_each(
    group: &dyn Group,
    patience: Duration,
    during: &str,
    mut hear: impl FnMut(usize, Arc<Message>) -> Result<()>,
) -> Result<()> {
    let mut missing: Vec<usize> = (1..group.place().size).collect();
    while !missing.is_empty() {
        let Some((from, found)) = group.receive(patience) else {
            return Err(silent(group, &missing, patience, during.to_owned()));
        };
        missing.retain(|&rank| rank != from);
        hear(from, found)?;
    }
    Ok(())
}

/// The error of ranks that have not answered. Of several, those are named whose processes do not even live: others may wait for a message
/// that one of these should have passed on.
pub(crate) fn silent(
    group: &dyn Group,
    missing: &[usize],
    patience: Duration,
    during: String,
) -> Error {
    let lifeless = match missing {
        [_] => Vec::new(),
        several => group.lifeless(several, ANSWER.min(patience)),
    };
    let ranks = if lifeless.is_empty() {
        missing
    } else {
        &lifeless
    };
    Error::SilentRank {
        ranks: names(ranks),
        during,
        seconds: patience.as_secs(),
    }
}

/// Ranks in a message.
pub(crate) fn names(ranks: &[usize]) -> String {
    let names: Vec<_> = ranks.iter().map(|rank| format!("rank {rank}")).collect();
    names.join(", ")
}

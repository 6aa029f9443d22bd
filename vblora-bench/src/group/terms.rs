//! What ranks must agree on before they share work.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use vblora::{backend::BackendKind, storage::sha256_hex};

use super::{Group, head, hear_each, message, program_hash};
use crate::{Error, Result};

/// Everything that a result depends on, by part. Files are held as their SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms(BTreeMap<String, String>);

impl Terms {
    /// The terms of this program on a backend.
    ///
    /// # Errors
    /// The program's file cannot be read.
    pub fn new(backend: BackendKind) -> Result<Self> {
        let mut terms = Self(BTreeMap::new());
        terms.set("backend", backend.to_string());
        terms.set("program", shown(program_hash()?));
        Ok(terms)
    }

    /// Adds a part, or replaces it.
    pub fn set(&mut self, part: impl Into<String>, value: String) {
        self.0.insert(part.into(), value);
    }

    /// [`set`](Self::set) to the SHA-256 of these bytes.
    pub fn set_hash<T: AsRef<[u8]>>(
        &mut self,
        part: impl Into<String>,
        bytes: impl IntoIterator<Item = T>,
    ) {
        self.set(part, shown(sha256_hex(bytes)));
    }

    /// The first part in which another rank differs, with both values.
    pub(crate) fn difference(&self, other: &Self) -> Option<(String, String, String)> {
        let names = self.0.keys().chain(other.0.keys());
        let value = |terms: &Self, name: &String| {
            let value = terms.0.get(name);
            value.map_or("missing", |value| value).to_owned()
        };
        names
            .map(|name| (name.clone(), value(self, name), value(other, name)))
            .find(|(_, ours, theirs)| ours != theirs)
    }
}

/// A hash as errors show it.
fn shown(hash: String) -> String {
    format!("SHA-256 {hash}")
}

/// Rank 0 compares the terms of all ranks with its own. The others send theirs.
///
/// # Errors
/// A rank differs, or does not answer.
pub fn agree(group: &dyn Group, terms: &Terms, patience: Duration) -> Result<()> {
    if group.place().rank > 0 {
        group.report(message(terms, Vec::new())?);
        return Ok(());
    }
    hear_each(group, patience, "before the first batch", |from, found| {
        let theirs: Terms = head(from, &found)?;
        same(from, terms.difference(&theirs))
    })
}

/// Refuses a rank that differs: in this part, with the value of rank 0 and its own.
pub(crate) fn same(rank: usize, difference: Option<(String, String, String)>) -> Result<()> {
    match difference {
        None => Ok(()),
        Some((part, expected, found)) => Err(Error::OtherRank {
            rank,
            part,
            expected,
            found,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Threads;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn terms(data: &str) -> Terms {
        let mut terms = Terms(BTreeMap::new());
        terms.set_hash("program", ["a"]);
        terms.set_hash("data", [data]);
        terms
    }

    #[test]
    fn a_part_that_differs_is_named_with_its_rank() {
        let compared = |theirs: &Terms| {
            let group = Threads::group(2);
            agree(&group[1], theirs, PATIENCE).unwrap();
            agree(&group[0], &terms("b"), PATIENCE)
        };
        compared(&terms("b")).unwrap();
        let error = compared(&terms("c")).unwrap_err().to_string();
        assert!(
            error.contains("rank 1 cannot work with rank 0: its data is SHA-256 2e7d2c"),
            "{error}"
        );
        let mut more = terms("b");
        more.set("another", "x".into());
        let error = compared(&more).unwrap_err().to_string();
        assert!(error.contains("its another is x"), "{error}");
        assert!(error.contains("missing"), "{error}");
    }

    #[test]
    fn a_silent_rank_is_named() {
        let group = Threads::group(3);
        let patience = Duration::from_millis(10);
        agree(&group[2], &terms("b"), patience).unwrap();
        let error = agree(&group[0], &terms("b"), patience).unwrap_err();
        assert!(
            error.to_string().contains("no answer from rank 1 "),
            "{error}"
        );
    }
}

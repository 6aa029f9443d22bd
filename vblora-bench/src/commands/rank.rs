//! The end of a command that several processes share.

use anyhow::{Error, Result};

use crate::{group::Job, program::complain};

impl Job {
    /// Leaves the job with the outcome of this process. An error of one rank ends all.
    pub(super) fn end<T>(self, outcome: Result<T>) -> Result<T> {
        match outcome {
            Ok(done) => {
                self.close()?;
                Ok(done)
            }
            Err(error) if self.group().place().size > 1 => {
                complain(said(&error, self.group().place().rank));
                self.abort();
                Err(error)
            }
            Err(error) => Err(error),
        }
    }
}

/// The line of an error, with the rank that it is of.
fn said(error: &Error, rank: usize) -> String {
    let is_named = matches!(
        error.downcast_ref(),
        Some(crate::Error::OfRank { .. } | crate::Error::OtherRank { .. })
    );
    match is_named || rank == 0 {
        true => format!("error: {error:#}"),
        false => format!("error: rank {rank}: {error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_rank_once() {
        let error = anyhow::anyhow!("a cause");
        assert_eq!(said(&error, 0), "error: a cause");
        assert_eq!(said(&error, 2), "error: rank 2: a cause");
        let named = crate::Error::OtherRank {
            rank: 1,
            part: "data".into(),
            expected: "a".into(),
            found: "b".into(),
        };
        let said = said(&named.into(), 2);
        assert!(
            said.starts_with("error: rank 1 cannot work with rank 0"),
            "{said}"
        );
    }
}

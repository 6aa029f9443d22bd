//! A share of a sweep's runs, for array jobs of a scheduler.

use std::{collections::BTreeSet, fmt, str::FromStr};

use crate::{Error, Result};

/// One of several shares of a sweep's runs. Processes with different shares may work in one directory at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    number: usize,
    count: usize,
}

impl Shard {
    /// The share of process `index`, from 0, of `count`.
    ///
    /// # Panics
    /// `index` is `count` or more.
    pub fn of_process(index: usize, count: usize) -> Self {
        assert!(index < count, "process {index} of {count}");
        let number = index + 1;
        Self { number, count }
    }

    /// The ids of the share's runs: every `count`-th in the order of the ids, so that shares differ by at most one run.
    pub(super) fn of<'a>(self, ids: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
        let all: BTreeSet<&str> = ids.collect();
        let own = all.into_iter().skip(self.number - 1);
        own.step_by(self.count).collect()
    }

    /// The part of file names that belong to the share: `2-of-4`.
    pub(super) fn in_files(self) -> String {
        format!("{}-of-{}", self.number, self.count)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

impl FromStr for Shard {
    type Err = Error;

    /// # Errors
    /// The text is not `I/N` with I from 1 to N.
    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('/');
        let parts = parts.and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((number, count)) if (1..=count).contains(&number) => Ok(Self { number, count }),
            _ => Err(Error::Setting {
                setting: "shard".into(),
                expected: "I/N with I from 1 to N, such as 2/4".into(),
                found: text.into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_disjoint_even_and_have_every_run_once() {
        let ids: Vec<String> = (0..11).map(|i| format!("{:x}", i * 7919 % 97)).collect();
        for count in 1..13 {
            let shares = (1..=count).map(|number| {
                let shard: Shard = format!("{number}/{count}").parse().unwrap();
                // The order of the plan, and runs that stand in it twice, make no difference.
                shard.of(ids.iter().rev().chain(&ids[..3]).map(String::as_str))
            });
            let shares: Vec<_> = shares.collect();
            let all: Vec<&str> = shares.iter().flatten().copied().collect();
            assert_eq!(all.len(), 11, "{count}");
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 11);
            let sizes = shares.iter().map(BTreeSet::len);
            assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
        }
    }

    #[test]
    fn a_share_that_is_none_is_refused() {
        for text in ["0/4", "5/4", "1", "1/0", "a/2", "1/2/3", "-1/2", ""] {
            let error = text.parse::<Shard>().unwrap_err().to_string();
            assert!(error.contains("expected I/N"), "{error}");
        }
        assert_eq!("4/4".parse::<Shard>().unwrap(), Shard::of_process(3, 4));
        assert_eq!(Shard::of_process(3, 4).to_string(), "4/4");
    }
}

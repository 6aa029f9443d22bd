//! Python's regular expressions, with which PEFT matches the names of modules.

use fancy_regex::{Regex, RegexBuilder};

use crate::{Error, Result};

/// The most steps back of one match. Names are short: only a pattern made to hang needs more.
const MAX_STEPS_BACK: usize = 10_000;

/// A pattern that is compiled once and matched with many names.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    given: String,
    regex: Regex,
}

impl Pattern {
    /// A pattern for whole names, as `re.fullmatch` takes it.
    ///
    /// # Errors
    /// The pattern is no regular expression, or uses a feature of Python's that this library does not have.
    pub(crate) fn whole(pattern: &str) -> Result<Self> {
        Self::compile(pattern, &format!("^(?:{pattern})$"))
    }

    /// A pattern for the beginning of names, as `re.match` takes it.
    ///
    /// # Errors
    /// As [`whole`](Self::whole).
    pub(crate) fn beginning(pattern: &str) -> Result<Self> {
        Self::compile(pattern, &format!("^(?:{pattern})"))
    }

    fn compile(given: &str, anchored: &str) -> Result<Self> {
        if let Some(flags) = late_flags(given) {
            return Err(Error::Pattern {
                pattern: given.to_owned(),
                reason: format!("global flags {flags:?} not at its start, which Python refuses"),
            });
        }
        let regex = RegexBuilder::new(anchored)
            .backtrack_limit(MAX_STEPS_BACK)
            .build();
        Ok(Self {
            regex: regex.map_err(|error| wrong(given, &error))?,
            given: given.to_owned(),
        })
    }

    /// The pattern as it was given.
    pub(crate) fn given(&self) -> &str {
        &self.given
    }

    /// True if a name matches.
    ///
    /// # Errors
    /// The match takes too many steps.
    pub(crate) fn matches(&self, name: &str) -> Result<bool> {
        let found = self.regex.is_match(name);
        found.map_err(|error| wrong(&self.given, &error))
    }

    /// The text that the group of this name matched. `None` if the name does not match or the group took no part.
    ///
    /// # Errors
    /// As [`matches`](Self::matches).
    pub(crate) fn group<'a>(&self, group: &str, name: &'a str) -> Result<Option<&'a str>> {
        let found = self.regex.captures(name);
        let found = found.map_err(|error| wrong(&self.given, &error))?;
        Ok(found
            .and_then(|found| found.name(group))
            .map(|found| found.as_str()))
    }
}

/// Finds flags for the whole pattern that come after its start. Python refuses them, and here they would hold from there on.
fn late_flags(pattern: &str) -> Option<&str> {
    pattern.match_indices("(?").find_map(|(at, start)| {
        let is_escaped = pattern[..at].ends_with('\\');
        let (flags, _) = pattern[at + start.len()..].split_once(')')?;
        let is_flags = !flags.is_empty() && flags.bytes().all(|flag| b"aiLmsux".contains(&flag));
        (at > 0 && !is_escaped && is_flags).then(|| &pattern[at..=at + start.len() + flags.len()])
    })
}

fn wrong(pattern: &str, error: &fancy_regex::Error) -> Error {
    Error::Pattern {
        pattern: pattern.to_owned(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rusts_own_patterns_lack_is_there() {
        let matches = |pattern: &str, name: &str| Pattern::whole(pattern).unwrap().matches(name);
        assert!(matches(r"(?!.*vision).*\.q", "model.q").unwrap());
        assert!(!matches(r"(?!.*vision).*\.q", "vision.q").unwrap());
        assert!(matches(r"(?P<part>\w+)\.(?P=part)", "a.a").unwrap());
        assert!(!matches("q|v", "qv").unwrap());
    }

    #[test]
    fn flags_for_the_whole_stand_at_the_start_as_in_python() {
        assert!(Pattern::whole("(?i)Q").unwrap().matches("q").unwrap());
        assert!(Pattern::whole("a(?i:Q)").unwrap().matches("aq").unwrap());
        let error = Pattern::beginning(r"(.*\.)?((?x) q)$").unwrap_err();
        assert!(error.to_string().contains("\"(?x)\""), "{error}");
    }

    #[test]
    fn a_pattern_made_to_hang_is_an_error() {
        let pattern = Pattern::whole(r"((a|aa)(?!b))*c").unwrap();
        let name = "a".repeat(2_000);
        let error = pattern.matches(&name).unwrap_err().to_string();
        assert!(error.contains("(a|aa)"), "{error}");
        assert!(Pattern::whole(&"(".repeat(100_000)).is_err());
    }
}

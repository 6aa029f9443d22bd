//! Regular expressions of a tokenizer that would silently stop.
//!
//! The engine of the tokenizers crate gives up a match that takes too many steps back. The crate then takes the rest of the text as one
//! piece, which gives wrong tokens without a word. The same matches are made here first, and one that is given up is an error.

use std::collections::BTreeMap;

use fancy_regex::Regex;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    Tokenizer,
};

/// Parts of patterns that the engine itself matches; others are of a kind that takes no steps back.
const STEPS_BACK: [&str; 12] = [
    "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?(", "++", "*+", "?+", "\\k", "\\G", "(?P=",
];

/// Patterns known to take few steps: those of GPT-2, Llama 3 (and GPT-4), Qwen 2, by what comes after their words.
const KNOWN: [&str; 2] = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
];

/// A run of blanks of the engine's stack size can make even these stop.
const ALWAYS_CHECKED: usize = 500_000;

/// The patterns of a tokenizer that may take too many steps back.
#[derive(Debug, Clone, Default)]
pub(super) struct Backtracking(BTreeMap<String, Regex>);

impl Backtracking {
    pub(super) fn of(tokenizer: &Tokenizer) -> Self {
        let mut patterns = Vec::new();
        if let Some(normalizer) = tokenizer.get_normalizer() {
            of_normalizer(normalizer, &mut patterns);
        }
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            of_pre_tokenizer(pre_tokenizer, &mut patterns);
        }
        let steps_back = |pattern: &String| {
            let has_reference = pattern.as_bytes().windows(2).any(is_reference);
            has_reference
                || has_possessive_count(pattern)
                || STEPS_BACK.iter().any(|part| pattern.contains(part))
        };
        let compiled = patterns.into_iter().filter(steps_back);
        // A pattern that does not compile is no part of a tokenizer that was read.
        Self(
            compiled
                .filter_map(|text| Some((text.clone(), Regex::new(&text).ok()?)))
                .collect(),
        )
    }

    /// Refuses a text at which one of the patterns is given up.
    pub(super) fn check(&self, tokenizer: &Tokenizer, text: &str) -> Result<(), String> {
        if !self.0.keys().any(|pattern| is_checked(pattern, text)) {
            return Ok(());
        }
        if let Some(normalizer) = tokenizer.get_normalizer() {
            self.normalize(normalizer, &mut text.into())?;
        }
        let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() else {
            return Ok(());
        };
        let added = tokenizer.get_added_vocabulary();
        let mut pieces = added.extract_and_normalize(tokenizer.get_normalizer(), text);
        self.pre_tokenize(pre_tokenizer, &mut pieces)
    }

    fn normalize(
        &self,
        normalizer: &NormalizerWrapper,
        text: &mut NormalizedString,
    ) -> Result<(), String> {
        if let NormalizerWrapper::Sequence(parts) = normalizer {
            return parts
                .as_ref()
                .iter()
                .try_for_each(|part| self.normalize(part, text));
        }
        if let Some(pattern) = replaced(normalizer) {
            self.matches(&pattern, text.get())?;
        }
        normalizer
            .normalize(text)
            .map_err(|error| error.to_string())
    }

    fn pre_tokenize(
        &self,
        pre_tokenizer: &PreTokenizerWrapper,
        text: &mut PreTokenizedString,
    ) -> Result<(), String> {
        if let PreTokenizerWrapper::Sequence(parts) = pre_tokenizer {
            return parts
                .as_ref()
                .iter()
                .try_for_each(|part| self.pre_tokenize(part, text));
        }
        if let Some(pattern) = split(pre_tokenizer) {
            for (piece, _, tokens) in
                text.get_splits(OffsetReferential::Normalized, OffsetType::None)
            {
                if tokens.is_none() {
                    self.matches(pattern, piece)?;
                }
            }
        }
        pre_tokenizer
            .pre_tokenize(text)
            .map_err(|error| error.to_string())
    }

    fn matches(&self, pattern: &str, text: &str) -> Result<(), String> {
        let Some(regex) = self.0.get(pattern).filter(|_| is_checked(pattern, text)) else {
            return Ok(());
        };
        let failed = regex.find_iter(text).find_map(Result::err);
        failed.map_or(Ok(()), |error| {
            Err(format!(
                "its pattern {pattern:?} is given up at a text of {} bytes ({error}), which would become other tokens",
                text.len()
            ))
        })
    }
}

/// `\1` to `\9`.
fn is_reference(pair: &[u8]) -> bool {
    pair[0] == b'\\' && (b'1'..=b'9').contains(&pair[1])
}

/// `{2,3}+`, but not `\p{L}+`.
fn has_possessive_count(pattern: &str) -> bool {
    pattern.match_indices("}+").any(|(at, _)| {
        let count = pattern[..at].rsplit('{').next().unwrap_or_default();
        count
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b',')
    })
}

fn is_checked(pattern: &str, text: &str) -> bool {
    text.len() >= ALWAYS_CHECKED || !KNOWN.iter().any(|known| pattern.starts_with(known))
}

fn of_normalizer(normalizer: &NormalizerWrapper, patterns: &mut Vec<String>) {
    if let NormalizerWrapper::Sequence(parts) = normalizer {
        parts
            .as_ref()
            .iter()
            .for_each(|part| of_normalizer(part, patterns));
    }
    patterns.extend(replaced(normalizer));
}

fn of_pre_tokenizer(pre_tokenizer: &PreTokenizerWrapper, patterns: &mut Vec<String>) {
    if let PreTokenizerWrapper::Sequence(parts) = pre_tokenizer {
        parts
            .as_ref()
            .iter()
            .for_each(|part| of_pre_tokenizer(part, patterns));
    }
    patterns.extend(split(pre_tokenizer).map(str::to_owned));
}

/// The pattern of a replacement.
fn replaced(normalizer: &NormalizerWrapper) -> Option<String> {
    let NormalizerWrapper::Replace(replace) = normalizer else {
        return None;
    };
    let replace = serde_json::to_value(replace).ok()?;
    replace["pattern"]["Regex"].as_str().map(str::to_owned)
}

/// The pattern that a text is split by; that of byte-level pieces is GPT-2's.
fn split(pre_tokenizer: &PreTokenizerWrapper) -> Option<&str> {
    match pre_tokenizer {
        PreTokenizerWrapper::ByteLevel(byte_level) if byte_level.use_regex => Some(KNOWN[0]),
        PreTokenizerWrapper::Split(split) => match &split.pattern {
            SplitPattern::Regex(pattern) => Some(pattern),
            SplitPattern::String(_) => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(pre_tokenizer: serde_json::Value, normalizer: serde_json::Value) -> Tokenizer {
        let file = serde_json::json!({
            "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
            "pre_tokenizer": pre_tokenizer,
            "normalizer": normalizer,
        });
        Tokenizer::from_bytes(file.to_string()).unwrap()
    }

    fn split_by(pattern: &str) -> serde_json::Value {
        serde_json::json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
    }

    fn check(tokenizer: &Tokenizer, text: &str) -> Result<(), String> {
        Backtracking::of(tokenizer).check(tokenizer, text)
    }

    #[test]
    fn a_match_that_is_given_up_is_an_error_by_its_pattern() {
        let hangs = "(a|aa)+(?=b)";
        let text = "a".repeat(60);
        let other = serde_json::json!({"type": "Whitespace"});
        let nested =
            serde_json::json!({"type": "Sequence", "pretokenizers": [other, split_by(hangs)]});
        let replaces =
            serde_json::json!({"type": "Replace", "pattern": {"Regex": hangs}, "content": "c"});
        let none = serde_json::Value::Null;
        for (pre_tokenizer, normalizer) in [
            (split_by(hangs), none.clone()),
            (nested, none.clone()),
            (none, replaces),
        ] {
            let tokenizer = tokenizer(pre_tokenizer, normalizer);
            let error = check(&tokenizer, &format!("x {text}")).unwrap_err();
            assert!(error.contains(hangs) && error.contains("bytes"), "{error}");
            check(&tokenizer, "aaaa b").unwrap();
        }
    }

    #[test]
    fn known_patterns_and_those_without_steps_back_cost_nothing() {
        let plain = tokenizer(split_by(r"\p{L}+|\s"), serde_json::Value::Null);
        assert!(Backtracking::of(&plain).0.is_empty());
        let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let byte_level = tokenizer(byte_level, serde_json::Value::Null);
        check(&byte_level, "a b").unwrap();
        // More blanks than the engine's stack holds.
        let error = check(&byte_level, &" ".repeat(1_100_000)).unwrap_err();
        assert!(error.contains("given up"), "{error}");
    }
}

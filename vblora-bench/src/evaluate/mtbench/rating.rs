//! The rating in a judgment's text.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Number;

/// FastChat's patterns (`one_score_pattern`, `one_score_pattern_backup`) with ASCII digits. Python's `\d` also matches digits of other
/// scripts, with which FastChat then fails.
static PATTERNS: LazyLock<[Regex; 2]> = LazyLock::new(|| {
    [r"\[\[([0-9]+\.?[0-9]*)\]\]", r"\[([0-9]+\.?[0-9]*)\]"]
        .map(|pattern| Regex::new(pattern).expect("the pattern is a constant"))
});

/// The score of a judgment without a rating.
pub const NO_RATING: i64 = -1;

/// The scale that the judge is asked to use.
const SCALE: std::ops::RangeInclusive<f64> = 1.0..=10.0;

/// A rating that was found in a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Rating {
    /// The number as FastChat reads it, also where it is outside 1 to 10.
    pub score: Number,
    /// Found as `[7]`, which the judge was not asked to write and which may be a citation.
    pub by_backup: bool,
}

/// Finds the rating as FastChat does: the first `[[7]]`, or else the first `[7]`. Returns none if there is no such text, or if the first
/// is one that Python's `ast.literal_eval` refuses, such as `[[08]]`.
pub fn rating(judgment: &str) -> Option<Rating> {
    let found = |pattern: &Regex| Some(pattern.captures(judgment)?[1].to_owned());
    let [asked, backup] = &*PATTERNS;
    let (text, by_backup) = match found(asked) {
        Some(text) => (text, false),
        None => (found(backup)?, true),
    };
    let score = literal(&text)?;
    Some(Rating { score, by_backup })
}

/// A number as Python writes it in its source: an integer has no leading zeros, unless it is all zeros.
fn literal(text: &str) -> Option<Number> {
    if text.contains('.') {
        return Number::from_f64(text.parse().ok()?);
    }
    let is_zero = text.bytes().all(|digit| digit == b'0');
    if text.starts_with('0') && !is_zero {
        return None;
    }
    match text.parse::<u64>() {
        Ok(integer) => Some(integer.into()),
        Err(_) => Number::from_f64(text.parse().ok()?),
    }
}

/// Returns true if a score is on the judge's scale of 1 to 10.
pub fn is_on_scale(score: f64) -> bool {
    SCALE.contains(&score)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_double_brackets_count_and_single_ones_only_without_them() {
        for (text, score, by_backup) in [
            ("It cites [2]. Rating: [[6]]", 6.0, false),
            ("[[8.]] [[3]]", 8.0, false),
            ("See [3].", 3.0, true),
            ("[[85]]", 85.0, false),
            ("[[8.75]]", 8.75, false),
        ] {
            let found = rating(text).unwrap();
            let (number, backup) = (found.score.as_f64(), found.by_backup);
            assert_eq!((number, backup), (Some(score), by_backup), "{text}");
        }
        for text in [
            "", "8/10", "[[7/10]]", "[[.5]]", "[[08]]", "[[٨]]", "[[-3]]",
        ] {
            assert_eq!(rating(text), None, "{text}");
        }
        assert_eq!(rating("[[00]]").unwrap().score, 0.into());
        let endless = format!("[[{}.5]]", "9".repeat(400));
        assert_eq!(rating(&endless), None);
    }

    #[test]
    fn the_scale_has_its_ends() {
        assert!(is_on_scale(1.0) && is_on_scale(10.0) && is_on_scale(7.5));
        assert!(!is_on_scale(0.0) && !is_on_scale(10.5) && !is_on_scale(-1.0));
    }
}

//! Answers to GSM8K, which are whole numbers.

use std::sync::LazyLock;

use regex::Regex;

use super::{AUTHORS_MARKER, equivalence::is_near, number, python};

/// A number with at most one separator, as the authors look for it. "1,234,567" is 1234 by this rule.
static AUTHORS_NUMBER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[\-+]?\d*[\.,/]?\d+").expect("a constant"));

static STRICT: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"#### (-?[0-9.,]+)").expect("a constant"));

static COT_STRICT: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"The answer is (-?[0-9.,]+).").expect("a constant"));

static FLEXIBLE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"-?[$0-9.,]{2,}|-?[0-9]+").expect("a constant"));

static MARKER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?i)####|the answer is:?").expect("a constant"));

/// The authors' number, rounded half to even. It is theirs and MetaMath's, except that texts which end their program with an error have no
/// number here.
pub(super) fn authors_number(text: &str) -> Option<f64> {
    let (_, after) = text.rsplit_once(AUTHORS_MARKER)?;
    let found = AUTHORS_NUMBER.find(after)?.as_str();
    let value = match found.split_once('/') {
        None => python::float(&found.replace(',', ""))?,
        Some((numerator, denominator)) => {
            let (above, below) = (python::float(numerator)?, python::float(denominator)?);
            match denominator {
                "0" => above,
                _ => above / below,
            }
        }
    };
    // Adding 0 turns -0 into 0.
    Some(value.round_ties_even() + 0.0).filter(|number| number.is_finite())
}

/// The authors' comparison: a hundredth, a hundredfold, and one ten-thousandth more or less count as well.
pub(super) fn correct_by_authors(found: f64, expected: &str) -> bool {
    python::float(&expected.replace(',', "")).is_some_and(|expected| is_near(found, expected))
}

/// The first "#### N", with one blank.
pub(super) fn strict(text: &str) -> Option<&str> {
    group(&STRICT, text)
}

/// The first "The answer is N", with a character after it that is not part of the number.
pub(super) fn cot_strict(text: &str) -> Option<&str> {
    group(&COT_STRICT, text)
}

fn group<'a>(pattern: &Regex, text: &'a str) -> Option<&'a str> {
    Some(pattern.captures(text)?.get(1)?.as_str())
}

/// The last number of the text.
pub(super) fn flexible(text: &str) -> Option<&str> {
    Some(FLEXIBLE.find_iter(text).last()?.as_str())
}

/// The harness's exact match: equal texts without commas, dollar signs and a final full stop.
pub(super) fn same_text(found: &str, expected: &str) -> bool {
    let plain = |text: &str| {
        let text = text.replace([',', '$'], "");
        text.strip_suffix('.').map_or(text.clone(), str::to_owned)
    };
    plain(found) == plain(expected)
}

/// The first number after the last marker, of either kind and in any case.
pub(super) fn marked_number(text: &str) -> Option<f64> {
    number::first(&text[MARKER.find_iter(text).last()?.end()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_end_the_authors_program_have_no_number() {
        for text in ["7/00", "-/2", "/2"] {
            let text = format!("The answer is: {text}");
            assert_eq!(authors_number(&text), None, "{text}");
        }
        let long = format!("The answer is: {}", "9".repeat(400));
        assert_eq!(authors_number(&long), None);
        assert_eq!(authors_number("The answer is: -0.4"), Some(0.0));
        assert_eq!(authors_number("The answer is: 1,234,567"), Some(1234.0));
        assert_eq!(authors_number("The answer is: 5 - 3 = 2"), Some(5.0));
    }
}

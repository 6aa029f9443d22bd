//! Numbers as people write them.

use std::sync::LazyLock;

use regex::Regex;

/// A sign before or after a currency sign, thousands separated by commas, perhaps a fraction.
static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
    let number = r"([0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)";
    let pattern = format!(r"(-?)\\?\$?(-?){number}(?:\s*/\s*{number})?");
    Regex::new(&pattern).expect("a constant")
});

/// The first number of a text. A fraction with the denominator 0 is none.
pub(super) fn first(text: &str) -> Option<f64> {
    let found = NUMBER.captures(text)?;
    let value = |group: usize| {
        let digits = found.get(group)?.as_str().replace(',', "");
        digits.parse::<f64>().ok()
    };
    let has_sign = |group| found.get(group).is_some_and(|sign| !sign.is_empty());
    let sign = match has_sign(1) != has_sign(2) {
        true => -1.0,
        false => 1.0,
    };
    let number = match found.get(4) {
        Some(_) => value(3)? / value(4)?,
        None => value(3)?,
    };
    Some(sign * number).filter(|number| number.is_finite())
}

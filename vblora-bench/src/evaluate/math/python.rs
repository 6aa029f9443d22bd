//! Python's rules for text and numbers, where the reference scorers rely on them.

use crate::metrics::text::is_blank;

/// `str.strip()`: Python also strips four control characters.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_blank)
}

/// `float(text)`: blanks around, digits of any script, and single underscores between digits.
pub(super) fn float(text: &str) -> Option<f64> {
    // `float` strips the spaces of C and those beyond ASCII, but not the control characters that `str.strip` takes.
    let is_space = |c: char| match c.is_ascii() {
        true => matches!(c, ' ' | '\t'..='\r'),
        false => c.is_whitespace(),
    };
    let digits: String = text
        .trim_matches(is_space)
        .chars()
        .map(ascii_digit)
        .collect();
    let chars: Vec<char> = digits.chars().collect();
    let is_digit =
        |at: Option<usize>| at.is_some_and(|at| chars.get(at).is_some_and(char::is_ascii_digit));
    let is_between = |at: usize| is_digit(at.checked_sub(1)) && is_digit(Some(at + 1));
    let mut underscores = chars.iter().enumerate().filter(|(_, c)| **c == '_');
    if !underscores.all(|(at, _)| is_between(at)) {
        return None;
    }
    digits.replace('_', "").parse().ok()
}

/// `math.isclose(a, b, rel_tol=relative)`.
pub(super) fn is_close(a: f64, b: f64, relative: f64) -> bool {
    a == b || (a.is_finite() && b.is_finite() && (a - b).abs() <= relative * a.abs().max(b.abs()))
}

/// The ASCII form of a decimal digit of any script. Scripts have their ten digits side by side, and blocks of them in whole tens.
pub(super) fn ascii_digit(c: char) -> char {
    if c.is_ascii() || !is_decimal(c) {
        return c;
    }
    let before = (0..u32::from(c)).rev().map_while(char::from_u32);
    let place = before.take_while(|c| is_decimal(*c)).count() % 10;
    char::from(b'0' + place as u8)
}

/// A decimal digit of Unicode, as `\d` matches.
fn is_decimal(c: char) -> bool {
    static DECIMAL: std::sync::LazyLock<regex::Regex> =
        std::sync::LazyLock::new(|| regex::Regex::new(r"^\d$").expect("a constant"));
    DECIMAL.is_match(c.encode_utf8(&mut [0; 4]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_python_reads_them() {
        for (text, value) in [
            (" 1e3 ", Some(1000.0)),
            ("1_000", Some(1000.0)),
            ("٧٢", Some(72.0)),
            ("𝟘𝟙𝟡", Some(19.0)),
            ("-.5", Some(-0.5)),
            ("1.", Some(1.0)),
            ("Infinity", Some(f64::INFINITY)),
            ("1__0", None),
            ("_1", None),
            ("½", None),
            ("", None),
            (".", None),
            ("1 0", None),
            ("\u{a0}1\t", Some(1.0)),
            ("\u{1c}1", None),
        ] {
            assert_eq!(float(text), value, "{text}");
        }
    }

    #[test]
    fn closeness_is_relative_and_infinity_is_close_to_itself_alone() {
        assert!(is_close(1.00005, 1.0, 1e-4) && !is_close(1.001, 1.0, 1e-4));
        assert!(is_close(f64::INFINITY, f64::INFINITY, 1e-4));
        assert!(!is_close(f64::INFINITY, 1e308, 1e-4) && !is_close(f64::NAN, f64::NAN, 1e-4));
    }
}

//! Equal answers of MATH: the normal form of the data set's repository, its boxes, and the authors' numeric tolerance.

use super::python;

/// The last box of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastBox<'a> {
    /// From `\boxed` (or `\fbox`, if there is no `\boxed`) to the brace that closes it; `None` without a closed one.
    pub whole: Option<&'a str>,
    /// The inside of a `\boxed{}`.
    pub content: Option<&'a str>,
}

/// Finds the last box as MATH's repository does. A backslash before a brace changes nothing.
pub fn last_box(text: &str) -> LastBox<'_> {
    let start = text.rfind("\\boxed").or_else(|| text.rfind("\\fbox"));
    let whole = start.and_then(|start| closed(&text[start..]));
    let content = whole.and_then(|whole| whole.strip_prefix("\\boxed{")?.strip_suffix('}'));
    LastBox { whole, content }
}

/// The text up to the brace that closes its first one.
fn closed(text: &str) -> Option<&str> {
    let mut open = 0_i64;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => {
                open -= 1;
                if open == 0 {
                    return Some(&text[..=at]);
                }
            }
            _ => {}
        }
    }
    None
}

/// MATH's `is_equiv`: equal normal forms, or equal texts where one has no normal form.
pub fn is_equivalent(found: &str, expected: &str) -> bool {
    match (normal_form(found), normal_form(expected)) {
        (Some(found), Some(expected)) => found == expected,
        _ => found == expected,
    }
}

/// The authors' comparison without sympy: normal forms that are equal as numbers, without brackets, or item by item.
///
/// The authors' program compares an answer with itself where a text has no normal form, so that any answer counts as right. That mistake is
/// not copied: such texts are right only if they are equal.
pub fn is_numerically_equivalent(found: &str, expected: &str) -> bool {
    match (normal_form(found), normal_form(expected)) {
        (Some(found), Some(expected)) => found == expected || math_equal(&found, &expected),
        _ => found == expected,
    }
}

/// The authors' tolerance for numbers: one ten-thousandth of the expected number, of its hundredth, or of its hundredfold.
pub(super) fn is_near(found: f64, expected: f64) -> bool {
    let accepted = [expected / 100.0, expected, expected * 100.0];
    accepted
        .into_iter()
        .any(|number| python::is_close(number, found, 1e-4))
}

fn math_equal(found: &str, expected: &str) -> bool {
    let number = |text: &str| python::float(&text.replace(',', ""));
    if let (Some(found), Some(expected)) = (number(found), number(expected)) {
        return is_near(found, expected);
    }
    if found.is_empty() {
        return false;
    }
    let (found, expected) = (python::strip(found), python::strip(expected));
    if without_brackets(found, expected) {
        return true;
    }
    let (Some(ours), Some(theirs)) = (items(found), items(expected)) else {
        return false;
    };
    ours.0 == theirs.0
        && ours.1.len() == theirs.1.len()
        && ours.1.iter().zip(theirs.1).all(|(a, b)| math_equal(a, b))
}

/// Equal texts without brackets. Square brackets are no round ones where only one side has them.
fn without_brackets(found: &str, expected: &str) -> bool {
    let is_in = |text: &str, open, close| text.starts_with(open) && text.ends_with(close);
    let trims = (is_in(found, '[', ']') && !expected.starts_with('('))
        || (is_in(found, '(', ')') && !expected.starts_with('['));
    let plain = |text: &str| {
        match trims {
            true => text.trim_matches(['[', ']', '(', ')']),
            false => text,
        }
        .replace(['{', '}', '(', ')'], "")
    };
    plain(found) == plain(expected)
}

/// The opening bracket of a tuple, and its items.
fn items(text: &str) -> Option<(char, Vec<&str>)> {
    let open = text.chars().next()?;
    let close = match open {
        '[' => ']',
        '(' => ')',
        _ => return None,
    };
    let inside = text.strip_prefix(open)?.strip_suffix(close)?;
    Some((open, inside.split(',').collect()))
}

/// The normal form of an answer by MATH's repository; `None` where its program ends with an error.
pub fn normal_form(text: &str) -> Option<String> {
    let mut text = text.replace('\n', "").replace("\\!", "");
    for (from, to) in [
        ("\\\\", "\\"),
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        ("\\left", ""),
        ("\\right", ""),
        ("^{\\circ}", ""),
        ("^\\circ", ""),
        ("\\$", ""),
    ] {
        text = text.replace(from, to);
    }
    text = without_units(&text)?.replace("\\%", "");
    text = text.replace(" .", " 0.").replace("{.", "{0.");
    if text.is_empty() {
        return Some(text);
    }
    if text.starts_with('.') {
        text.insert(0, '0');
    }
    text = braced_roots(without_name(&text))?.replace(' ', "");
    text = braced_fractions(&text)?;
    if text == "0.5" {
        text = "\\frac{1}{2}".into();
    }
    Some(fraction_of_slash(&text).unwrap_or(text))
}

/// The text before its unit. Two units are an error.
fn without_units(text: &str) -> Option<&str> {
    let mut parts = text.split("\\text{ ");
    let first = parts.next()?;
    match (parts.next(), parts.next()) {
        (Some(_), Some(_)) => None,
        _ => Some(first),
    }
}

/// The text after a name of at most two characters and the only equals sign.
fn without_name(text: &str) -> &str {
    match text.split_once('=') {
        Some((name, value)) if !value.contains('=') && name.chars().count() <= 2 => value,
        _ => text,
    }
}

/// Roots of one character with braces. A root of nothing is an error.
fn braced_roots(text: &str) -> Option<String> {
    let mut parts = text.split("\\sqrt");
    let mut braced = parts.next()?.to_owned();
    for part in parts {
        let first = part.chars().next()?;
        let rest = &part[first.len_utf8()..];
        braced += &match first {
            '{' => format!("\\sqrt{part}"),
            _ => format!("\\sqrt{{{first}}}{rest}"),
        };
    }
    Some(braced)
}

/// Fractions of single characters with braces. A fraction of nothing is an error; one of a single character leaves the text as it is.
fn braced_fractions(text: &str) -> Option<String> {
    let mut parts = text.split("\\frac");
    let mut braced = parts.next()?.to_owned();
    for part in parts {
        braced += "\\frac";
        let mut chars = part.chars();
        let above = chars.next()?;
        if above == '{' {
            braced += part;
            continue;
        }
        let Some(below) = chars.next() else {
            return Some(text.to_owned());
        };
        let rest = chars.as_str();
        braced += &match below {
            '{' => format!("{{{above}}}{{{rest}"),
            _ => format!("{{{above}}}{{{below}}}{rest}"),
        };
    }
    Some(braced)
}

/// `a/b` of two whole numbers as a fraction.
fn fraction_of_slash(text: &str) -> Option<String> {
    let (above, below) = text.split_once('/')?;
    let is_whole = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number && (!digits.starts_with('0') || text == "0")
    };
    let is_fraction = is_whole(above) && is_whole(below);
    is_fraction.then(|| format!("\\frac{{{above}}}{{{below}}}"))
}

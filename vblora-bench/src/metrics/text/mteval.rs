//! The words that BLEU and NIST compare: those of mteval-v13a, in lower case, as e2e-metrics' `pymteval.py` makes them.

use super::is_blank;

/// The words of a text in a Western language. A text without a word has one word, which is empty.
pub(super) fn words(text: &str) -> Vec<String> {
    let text = separated(&plain(text));
    let words = text.split(is_blank).filter(|word| !word.is_empty());
    let words: Vec<_> = words.map(str::to_lowercase).collect();
    if words.is_empty() {
        return vec![String::new()];
    }
    words
}

/// The text on one line, without markup.
fn plain(text: &str) -> String {
    const REPLACED: [(&str, &str); 7] = [
        ("<skipped>", ""),
        ("-\n", ""),
        ("\n", " "),
        ("&quot;", "\""),
        ("&amp;", "&"),
        ("&lt;", "<"),
        ("&gt;", ">"),
    ];
    let mut text = format!(" {text} ");
    for (from, to) in REPLACED {
        if text.contains(from) {
            text = text.replace(from, to);
        }
    }
    text
}

/// The text with blanks around punctuation.
fn separated(text: &str) -> String {
    let mut spaced = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_always_apart(c) {
            spaced.extend([' ', c, ' ']);
        } else {
            spaced.push(c);
        }
    }
    let is_digit = |c: char| c.is_ascii_digit();
    let is_point = |c: char| matches!(c, '.' | ',');
    // A full stop or comma belongs to a number only if a digit is on both sides.
    let text = between(
        &spaced,
        |a, b| !is_digit(a) && is_point(b),
        [false, true, true],
    );
    let text = between(
        &text,
        |a, b| is_point(a) && !is_digit(b),
        [true, true, false],
    );
    between(&text, |a, b| is_digit(a) && b == '-', [false, true, true])
}

/// Punctuation that is a word wherever it stands: all of ASCII but `'`, `,`, `-` and `.`.
fn is_always_apart(c: char) -> bool {
    c.is_ascii_punctuation() && !matches!(c, '\'' | ',' | '-' | '.')
}

/// Puts blanks before, between and after the two characters of each pair, from left to right; pairs do not overlap.
fn between(text: &str, is_pair: impl Fn(char, char) -> bool, blanks: [bool; 3]) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let blank = |out: &mut String, at: usize| {
        if blanks[at] {
            out.push(' ');
        }
    };
    let mut chars = text.chars().peekable();
    while let Some(first) = chars.next() {
        let Some(second) = chars.next_if(|&second| is_pair(first, second)) else {
            out.push(first);
            continue;
        };
        blank(&mut out, 0);
        out.push(first);
        blank(&mut out, 1);
        out.push(second);
        blank(&mut out, 2);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_mteval() {
        let found = |text: &str| words(text).join(" ");
        assert_eq!(
            found("It's near Café-Bar, (20-25)."),
            "it's near café-bar , ( 20 - 25 ) ."
        );
        assert_eq!(found("£1,000.50 &amp; more..."), "£1,000.50 & more . . .");
        assert_eq!(found("1 out of 5,"), "1 out of 5 ,");
        assert_eq!(found(" a-\nb\nc <skipped>"), "ab c");
        assert_eq!(found("a\u{1c}b\u{a0}c"), "a b c");
    }

    #[test]
    fn a_text_without_words_has_one_empty_word() {
        for text in ["", "  ", "<skipped>"] {
            assert_eq!(words(text), [""], "{text:?}");
        }
    }
}

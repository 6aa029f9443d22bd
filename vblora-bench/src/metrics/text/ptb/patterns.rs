//! Tokens that more than words and single signs make up. The longest that fits at a place is a token.

use std::sync::LazyLock;

use regex::Regex;

/// Patterns of tokens that start with a letter or digit.
static WORDS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    compile(&[
        // Words with hyphens or underscores; in ASCII also with slashes.
        r"[\p{L}\p{M}\p{Nd}]+(?:[-_][\p{L}\p{M}\p{Nd}]+)*",
        r"[A-Za-z0-9]+(?:[-_/][A-Za-z0-9]+)*",
        // Numbers, and numbers with a hyphen: 3.5-star.
        r"\d+(?:[.,:]\d+)*",
        r"\d{1,4}[ \u00A0]\d{1,4}/\d{1,4}",
        r"\d+(?:[.,]\d+)*(?:-[\p{L}\p{M}\p{Nd}]+)+",
        // Sentences without a blank between them, and names with a dot.
        r"\p{L}[\p{L}\p{M}\p{Nd}]*(?:[.!?]\p{L}[\p{L}\p{M}\p{Nd}]*)+",
        // Acronyms, also as the start of a word.
        ACRONYM,
        r"[A-Za-z](?:\.[A-Za-z])+\.(?:-[A-Za-z0-9]+)+",
        r"[A-Z]+(?:&[A-Z]+)+",
        r"[Cc]\+\+|[CcFf]#",
        r"(?:US|HK|NZ|[ACS])\$",
        // Addresses.
        r#"https?://[^\s"<>|(){}]*[^\s"<>|(){}.,!?'-]"#,
        r#"www\.[^\s"<>|(){}]*[^\s"<>|(){}.,!?'-]"#,
        r"[A-Za-z0-9][\w.+-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*",
    ])
});

/// Letters with full stops between them, or a degree. The last full stop is not part of it.
const ACRONYM: &str = r"[A-Za-z](?:\.[A-Za-z])+|(?i:ph|ed)\.[Dd]";

/// Patterns of tokens that start with a sign.
static SIGNS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    compile(&[
        r#"<[/!?]?[A-Za-z][\w:.-]*(?:\s+[A-Za-z][\w:-]*(?:\s*=\s*(?:"[^"]*"|'[^']*'|[\w.]+))?)*\s*/?>"#,
        r"&#\d+;|&[A-Za-z](?:acute|grave|circ|tilde|uml|cedil|ring);",
        r"[@#][A-Za-z_][A-Za-z0-9_]*",
        // Numbers with a sign, or without a digit before a point.
        r"[-+]\d+(?:[.,:]\d+)*",
        r"[-+]?(?:[.,:]\d+)+",
        r"\(\d{3}\)[ \u00A0]?\d{3}[- ]?\d{4}",
        r"\*+|_+|[?!]+|#+|@+|<+|>+",
    ])
});

static IS_ACRONYM: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(&format!("^(?:{ACRONYM})$")).expect("a constant"));

fn compile(patterns: &[&str]) -> Vec<Regex> {
    let compile = |pattern: &&str| Regex::new(&format!("^(?:{pattern})")).expect("a constant");
    patterns.iter().map(compile).collect()
}

fn longest<'a>(patterns: &[Regex], text: &'a str) -> Option<&'a str> {
    let found = patterns.iter().filter_map(|pattern| pattern.find(text));
    found
        .max_by_key(regex::Match::len)
        .map(|found| found.as_str())
}

/// The longest token of letters and digits at the start of a text.
pub(super) fn word(text: &str) -> Option<&str> {
    longest(&WORDS, text)
}

/// The longest token of several characters that starts with a sign.
pub(super) fn sign(text: &str) -> Option<&str> {
    longest(&SIGNS, text)
}

/// Returns true for an acronym without its last full stop.
pub(super) fn is_acronym(text: &str) -> bool {
    IS_ACRONYM.is_match(text)
}

//! Contractions, and words with an apostrophe.

/// The parts of words that are written as one and are two tokens.
const JOINED: [(&str, &str); 6] = [
    ("can", "not"),
    ("gim", "me"),
    ("gon", "na"),
    ("got", "ta"),
    ("lem", "me"),
    ("wan", "na"),
];

/// Words that keep an apostrophe and the word behind it: "qu'il".
const BEFORE_APOSTROPHE: [&str; 10] = ["d", "de", "jusqu", "l", "ma", "n", "o", "qu", "que", "sa"];

/// Words of two parts with an apostrophe between them.
const WITH_APOSTROPHE: [(&str, &str); 3] = [("c", "est"), ("e", "er"), ("ne", "er")];

/// Words that start with an apostrophe.
const AFTER_APOSTROPHE: [&str; 5] = ["cause", "em", "n", "til", "till"];

/// Endings that start with an apostrophe and are tokens of their own.
const ENDINGS: [&str; 6] = ["d", "ll", "m", "re", "s", "ve"];

pub(super) fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '’')
}

/// The two tokens of a word like "cannot".
pub(super) fn parts(word: &str) -> Option<(&'static str, &'static str)> {
    // The words have five or six letters.
    if !(5..=6).contains(&word.len()) {
        return None;
    }
    let is_one = |&(start, end): &(&str, &str)| {
        word.len() == start.len() + end.len()
            && word.is_char_boundary(start.len())
            && word[..start.len()].eq_ignore_ascii_case(start)
            && word[start.len()..].eq_ignore_ascii_case(end)
    };
    JOINED.into_iter().find(is_one)
}

/// The letters at the start of a text.
pub(super) fn letters(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_alphabetic())
        .unwrap_or(text.len());
    &text[..end]
}

/// Returns true for one of the words, in any case.
fn is_in(words: &[&str], word: &str) -> bool {
    words.iter().any(|one| one.eq_ignore_ascii_case(word))
}

/// How an apostrophe between letters divides a word.
pub(super) enum Division {
    /// The token has this many bytes from the start of the word.
    At(usize),
    /// The token is "n't", and has this many bytes.
    Not(usize),
}

/// Divides a word of letters from what follows it; `text` starts with the word, and an apostrophe follows the word.
pub(super) fn divide(text: &str, word: &str) -> Division {
    let apostrophe = text[word.len()..].chars().next().map_or(0, char::len_utf8);
    let behind = &text[word.len() + apostrophe..];
    let next = letters(behind);
    let whole = word.len() + apostrophe + next.len();
    if next.eq_ignore_ascii_case("t") && word.len() > 1 && word.ends_with(['n', 'N']) {
        return Division::At(word.len() - 1);
    }
    if word.eq_ignore_ascii_case("n") && next.eq_ignore_ascii_case("t") {
        return Division::Not(whole);
    }
    if word.eq_ignore_ascii_case("y") && next.eq_ignore_ascii_case("all") {
        return Division::At(word.len() + apostrophe);
    }
    if is_ending(behind) {
        return Division::At(word.len());
    }
    let is_initial =
        word.len() == 1 && word != "I" && word.starts_with(|c: char| c.is_ascii_uppercase());
    let is_before = is_initial || is_in(&BEFORE_APOSTROPHE, word);
    if is_before && next.len() > 1 && next.is_ascii() {
        return Division::At(whole);
    }
    if is_before && word.len() == 1 && (next.len() == 1 || !next.is_ascii()) {
        return Division::At(word.len() + apostrophe);
    }
    let is_pair = |(start, end): &(&str, &str)| {
        word.eq_ignore_ascii_case(start) && next.eq_ignore_ascii_case(end)
    };
    if WITH_APOSTROPHE.iter().any(is_pair) {
        return Division::At(whole);
    }
    if word.eq_ignore_ascii_case("ol") && next.is_empty() {
        return Division::At(whole);
    }
    Division::At(word.len())
}

/// Returns true if a text behind an apostrophe starts with an ending like that of "it's".
pub(super) fn is_ending(behind: &str) -> bool {
    is_in(&ENDINGS, letters(behind))
}

/// The bytes that belong to an apostrophe at the start of a token; `behind` is the text after the apostrophe.
pub(super) fn after_apostrophe(apostrophe: char, behind: &str) -> Option<usize> {
    let next = letters(behind);
    if apostrophe == '\'' && is_in(&["tis", "twas"], next) {
        return Some(1);
    }
    if next.eq_ignore_ascii_case("n") && behind[1..].starts_with(is_apostrophe) {
        return behind[1..].chars().next().map(|c| 1 + c.len_utf8());
    }
    if is_in(&AFTER_APOSTROPHE, next) {
        return Some(next.len());
    }
    let digits = behind.bytes().take_while(u8::is_ascii_digit).count();
    let is_decade =
        digits == 2 && behind[2..].starts_with(['s', 'S']) && letters(&behind[2..]).len() == 1;
    is_decade.then_some(3)
}

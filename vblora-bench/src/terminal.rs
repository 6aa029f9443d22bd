//! Text from outside, as it may be shown on a terminal.

use std::borrow::Cow;

/// A text whose control characters are seen and not obeyed: an escape becomes `\u{1b}`. Line feeds and tabs stay. The same holds for the
/// characters that turn the direction of the text around them.
///
/// Names in files and what a model generates are whatever somebody wrote. A terminal would take some of it for commands: set its title,
/// clear its screen, write the clipboard.
pub fn visible(text: &str) -> Cow<'_, str> {
    visible_but(text, None)
}

/// [`visible`], where one control character is the program's own: the escape of its colours, for example.
pub fn visible_but(text: &str, own: Option<char>) -> Cow<'_, str> {
    let shown = |c: char| !is_command(c) || Some(c) == own;
    if text.chars().all(shown) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match shown(c) {
            true => out.push(c),
            false => out.extend(c.escape_unicode()),
        }
    }
    Cow::Owned(out)
}

fn is_command(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || c.is_control() && !matches!(c, '\n' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_and_texts_stay() {
        for text in ["", "a\n\tb", "größe – 漢字 🙂 שלום", "\u{a0}\u{200b}"] {
            assert!(matches!(visible(text), Cow::Borrowed(same) if same == text));
        }
        let title = "a\u{1b}]0;pwned\u{7}b\r\0\u{7f}\u{9b}2J\u{202e}c\u{2066}";
        let shown = r"a\u{1b}]0;pwned\u{7}b\u{d}\u{0}\u{7f}\u{9b}2J\u{202e}c\u{2066}";
        assert_eq!(visible(title), shown);
        let coloured = visible_but("\u{1b}[31mred\u{7}", Some('\u{1b}'));
        assert_eq!(coloured, "\u{1b}[31mred\\u{7}");
    }
}

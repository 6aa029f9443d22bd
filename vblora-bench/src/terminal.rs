//! Makes untrusted text safe to show on a terminal.

use std::borrow::Cow;

/// Escapes control characters: an escape character becomes `\u{1b}`. Line feeds and tabs stay. Characters that change the direction of the
/// surrounding text are escaped too.
///
/// Names in files and generated text can contain anything. A terminal would obey some of it as commands: set its title, clear its screen,
/// write the clipboard.
pub fn visible(text: &str) -> Cow<'_, str> {
    visible_but(text, None)
}

/// [`visible`], but keeps one control character of the program's own, such as the escape of its colours.
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

//! Escapes names and messages for Markdown. They may hold anything and must not become markup. (HTML is escaped by its templates.)

use std::fmt::Write;

/// Escapes text inside a line of Markdown (CommonMark with tables), such as a heading or a table cell.
pub fn as_markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let all: Vec<char> = text.trim().chars().collect();
    for (at, &c) in all.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| all[at]);
        let after = all.get(at + 1).copied();
        let is_markup = match c {
            '\\' | '`' | '|' | '[' | ']' | '~' => true,
            // A star between blanks emphasises nothing, and neither does an underscore inside a word.
            '*' => !(is_space(before) && is_space(after)),
            '_' => !(is_word(before) && is_word(after)),
            _ => false,
        };
        match c {
            '<' if after.is_some_and(|c| c.is_ascii_alphabetic() || "/!?".contains(c)) => {
                out.push_str("&lt;");
            }
            '&' if after.is_some_and(|c| c == '#' || c.is_ascii_alphabetic()) => {
                out.push_str("&amp;");
            }
            _ if c.is_whitespace() => out.push(' '),
            _ if c.is_control() => out.extend(c.escape_default()),
            _ if is_markup => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out
}

/// Escapes text at the start of a paragraph or list item, where it could also become a heading, a list or a rule.
pub fn as_paragraph(text: &str) -> String {
    let text = as_markdown(text);
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let at = match text[digits..].chars().next() {
        Some('.' | ')') if digits > 0 => digits,
        Some('#' | '>' | '+' | '-' | '=' | '*') if digits == 0 => 0,
        _ => return text,
    };
    let (number, rest) = text.split_at(at);
    format!("{number}\\{rest}")
}

fn is_space(c: Option<char>) -> bool {
    c.is_none_or(char::is_whitespace)
}

fn is_word(c: Option<char>) -> bool {
    c.is_some_and(char::is_alphanumeric)
}

/// A picture in Markdown: its alternative text, and its file next to the text.
pub fn picture(shows: &str, file: &str) -> String {
    let mut place = String::with_capacity(file.len());
    for byte in file.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => {
                place.push(char::from(byte));
            }
            _ => drop(write!(place, "%{byte:02X}")),
        }
    }
    format!("![{}]({place})", as_markdown(shows))
}

/// Text with control characters written out. White space of every kind stays.
pub(super) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() && !c.is_whitespace() {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_markdown_is_shown() {
        for (text, expected) in [
            ("a|b", "a\\|b"),
            ("a\\|b", "a\\\\\\|b"),
            ("`rm`", "\\`rm\\`"),
            ("<script>x</script>", "&lt;script>x&lt;/script>"),
            ("<!-- x", "&lt;!-- x"),
            ("**bold** *x*", "\\*\\*bold\\*\\* \\*x\\*"),
            ("_x_ __y__", "\\_x\\_ \\_\\_y\\_\\_"),
            ("two\r\nlines\tand\u{2028}more", "two  lines and more"),
            ("[x](http://y) ![z]", "\\[x\\](http://y) !\\[z\\]"),
            ("~~gone~~ &lt; &#60;", "\\~\\~gone\\~\\~ &amp;lt; &amp;#60;"),
            ("\u{1b}[31mred", "\\u{1b}\\[31mred"),
        ] {
            assert_eq!(as_markdown(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_starts_a_paragraph_is_no_other_block() {
        for (text, expected) in [
            ("# x", "\\# x"),
            (" - x", "\\- x"),
            ("* x", "\\* x"),
            ("12. x", "12\\. x"),
            ("> x", "\\> x"),
            ("---", "\\---"),
            ("", ""),
            ("12 x", "12 x"),
            ("`x`", "\\`x\\`"),
        ] {
            assert_eq!(as_paragraph(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_markup_stays_readable() {
        for text in [
            "q_proj,v_proj",
            "vb & lora",
            "p <= 0.05",
            "0.031 *",
            "79.0 ±1.0 (3 of 4)",
            "lr.head = 1e-3, h = 12.5",
            "x - y # z",
        ] {
            assert_eq!(as_markdown(text), text);
        }
    }

    #[test]
    fn a_picture_stays_in_its_place() {
        let found = picture("a](x) [b", "a (1)|../<b>.svg");
        assert_eq!(found, "![a\\](x) \\[b](a%20%281%29%7C..%2F%3Cb%3E.svg)");
    }
}

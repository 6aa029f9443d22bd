//! Strings of users inside YAML and Markdown.

use std::fmt::Write;

use crate::terminal::visible;

/// A double-quoted scalar of YAML. Characters that a reader might refuse or lose are escaped.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        let code = u32::from(c);
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            ' ' => out.push(c),
            _ if c.is_ascii_graphic() || c.is_alphanumeric() => out.push(c),
            _ if code <= 0xffff => drop(write!(out, "\\u{code:04X}")),
            _ => drop(write!(out, "\\U{code:08X}")),
        }
    }
    out.push('"');
    out
}

/// A span of code in Markdown, on one line.
pub(super) fn code(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    let text = words.join(" ");
    let text = visible(&text);
    let fence = "`".repeat(longest_run(&text) + 1);
    match text.starts_with('`') || text.ends_with('`') || text.is_empty() {
        true => format!("{fence} {text} {fence}"),
        false => format!("{fence}{text}{fence}"),
    }
}

/// A block of code in Markdown.
pub(super) fn fenced(language: &str, text: &str) -> String {
    let text = visible(text);
    let fence = "`".repeat(longest_run(&text).max(2) + 1);
    let text = text.trim_end_matches('\n');
    format!("{fence}{language}\n{text}\n{fence}\n")
}

/// The length of the longest run of backticks.
fn longest_run(text: &str) -> usize {
    let runs = text.split(|c| c != '`').map(str::len);
    runs.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_is_quoted() {
        for (text, expected) in [
            ("plain", r#""plain""#),
            ("a: \"b\"\\\n- c\t#", r#""a: \"b\"\\\n- c\u0009#""#),
            ("größe 漢字", r#""größe 漢字""#),
            (
                "\u{85}\u{2028}\u{feff}\u{7f}",
                r#""\u0085\u2028\uFEFF\u007F""#,
            ),
            ("🙂", r#""\U0001F642""#),
        ] {
            assert_eq!(quoted(text), expected, "{text:?}");
        }
    }

    #[test]
    fn code_ends_where_it_should() {
        assert_eq!(code("a b"), "`a b`");
        assert_eq!(code("a\n\n# b"), "`a # b`");
        assert_eq!(code("a ``` b"), "````a ``` b````");
        assert_eq!(code("`a"), "`` `a ``");
        assert_eq!(code("a\u{1b}[31m"), r"`a\u{1b}[31m`");
        assert_eq!(fenced("sh", "a\n"), "```sh\na\n```\n");
        assert_eq!(fenced("sh", "```\nb"), "````sh\n```\nb\n````\n");
    }
}

//! Checks that all text of a template stands in its blocks, since text elsewhere would be lost.

use vblora_models::template::Problem;

use super::rows::shown;

/// The first words of tags that have no end tag.
const ALONE: [&str; 8] = [
    "elif", "else", "do", "break", "continue", "include", "import", "from",
];

/// A part of a template.
enum Part<'a> {
    Text(&'a str),
    /// `{{ .. }}`, which writes text too.
    Value(&'a str),
    /// What stands in `{% .. %}`.
    Tag(&'a str),
}

/// Refuses text outside of these blocks, blocks of other names, and blocks inside other tags. The template has parsed, so tags have their ends.
pub(super) fn check(source: &str, blocks: [&str; 2]) -> Result<(), Problem> {
    let mut open: Vec<&str> = Vec::new();
    for (at, part) in parts(source) {
        match part {
            Part::Text(text) | Part::Value(text) => {
                let is_kept = open.iter().any(|tag| keeps_text(tag));
                if !is_kept && !text.trim().is_empty() {
                    let at = at + text.len() - text.trim_start().len();
                    let text = shown(text.trim());
                    let [one, other] = blocks;
                    let expected = format!("no text outside of the blocks {one} and {other}");
                    return Err(problem(source, at, &expected, &format!("{text:?}")));
                }
            }
            Part::Tag(tag) => {
                let (word, rest) = first_word(tag);
                if word == "block" {
                    check_block(first_word(rest).0, &open, blocks)
                        .map_err(|(expected, found)| problem(source, at, &expected, &found))?;
                }
                match word {
                    word if word.starts_with("end") => {
                        open.pop();
                    }
                    "set" if assigns(rest) => {}
                    word if ALONE.contains(&word) => {}
                    word => open.push(word),
                }
            }
        }
    }
    Ok(())
}

/// Returns true for the tags whose text is part of a block, or kept for one.
fn keeps_text(tag: &str) -> bool {
    ["block", "set", "macro"].contains(&tag)
}

/// Refuses a block of another name, or inside a tag; with what was expected and found.
fn check_block(name: &str, open: &[&str], blocks: [&str; 2]) -> Result<(), (String, String)> {
    let [one, other] = blocks;
    match open.last() {
        _ if !blocks.contains(&name) => {
            Err((format!("a block {one} or {other}"), format!("block {name}")))
        }
        Some(tag) => Err((
            "blocks outside of other tags".to_owned(),
            format!("block {name} inside {tag}"),
        )),
        None => Ok(()),
    }
}

fn problem(source: &str, at: usize, expected: &str, found: &str) -> Problem {
    Problem {
        line: Some(source[..at].matches('\n').count() + 1),
        text: format!("expected {expected}, found {found}"),
    }
}

/// Returns true for `set NAME = ..`, which has no end tag as `set NAME` has.
fn assigns(rest: &str) -> bool {
    let end = rest.find(['=', '|']);
    end.is_some_and(|end| rest[end..].starts_with('='))
}

/// The first word of a tag, and what follows it.
fn first_word(tag: &str) -> (&str, &str) {
    let tag = tag.trim_start();
    let is_end = |c: char| !(c.is_alphanumeric() || c == '_');
    tag.split_at(tag.find(is_end).unwrap_or(tag.len()))
}

/// The parts of a template without its comments, each with the byte where it begins.
fn parts(source: &str) -> Vec<(usize, Part<'_>)> {
    let mut parts = Vec::new();
    let mut at = 0;
    while let Some(start) = next_tag(source, at) {
        parts.push((at, Part::Text(&source[at..start])));
        let inner = &source[start + 2..];
        let (length, part) = match source.as_bytes()[start + 1] {
            b'#' => (inner.find("#}"), None),
            b'{' => {
                let length = tag_length(inner, "}}");
                let whole = &source[start..end_of(source, start, length)];
                (length, Some(Part::Value(whole)))
            }
            _ => {
                let length = tag_length(inner, "%}");
                let inner = &inner[..length.unwrap_or(inner.len())];
                (length, Some(Part::Tag(inner.trim_matches(['-', '+']))))
            }
        };
        at = end_of(source, start, length);
        if let Some(Part::Tag(tag)) = &part
            && first_word(tag).0 == "raw"
        {
            let raw = raw_length(&source[at..]);
            parts.push((at, Part::Text(&source[at..at + raw.0])));
            at += raw.1;
            continue;
        }
        parts.extend(part.map(|part| (start, part)));
    }
    parts.push((at, Part::Text(&source[at..])));
    parts
}

/// The end of a tag at `start` with so many bytes between its marks.
fn end_of(source: &str, start: usize, length: Option<usize>) -> usize {
    length.map_or(source.len(), |length| start + length + 4)
}

/// The place of the next tag or comment.
fn next_tag(source: &str, from: usize) -> Option<usize> {
    let bytes = source.as_bytes();
    let is_start =
        |at: &usize| bytes[*at] == b'{' && matches!(bytes.get(at + 1), Some(b'{' | b'%' | b'#'));
    (from..bytes.len()).find(is_start)
}

/// The bytes of a tag up to its closing mark, which texts in quotes may hold too.
fn tag_length(inner: &str, closing: &str) -> Option<usize> {
    let mut quote = None;
    let mut is_escaped = false;
    for (at, c) in inner.char_indices() {
        match (quote, c) {
            (Some(_), _) if is_escaped => is_escaped = false,
            (Some(_), '\\') => is_escaped = true,
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, _) if inner[at..].starts_with(closing) => return Some(at),
            (None, _) => {}
        }
    }
    None
}

/// The bytes of a raw text, and those up to the end of its end tag.
fn raw_length(source: &str) -> (usize, usize) {
    let mut from = 0;
    while let Some(found) = source[from..].find("{%") {
        let start = from + found;
        let inner = &source[start + 2..];
        let word = first_word(inner.trim_start_matches(['-', '+'])).0;
        if let Some(end) = inner.find("%}").filter(|_| word == "endraw") {
            return (start, start + end + 4);
        }
        from = start + 2;
    }
    (source.len(), source.len())
}

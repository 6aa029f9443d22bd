//! The end of a sentence: the text after a full stop decides.

use super::abbreviations;

/// The rest of a line, and the next line.
#[derive(Debug, Clone, Copy)]
pub(super) struct After<'a> {
    pub(super) text: &'a str,
    /// `None` for the last line.
    pub(super) next: Option<&'a str>,
}

impl<'a> After<'a> {
    /// The rest after some bytes.
    pub(super) fn skip(self, bytes: usize) -> Self {
        Self {
            text: &self.text[bytes..],
            ..self
        }
    }

    /// The text behind a blank or the end of the line, or `None` if there is neither.
    fn behind_blank(self) -> Option<&'a str> {
        match self.text.chars().next() {
            None => self.next,
            Some(c) if c.is_whitespace() => Some(&self.text[c.len_utf8()..]),
            Some(_) => None,
        }
    }

    /// Returns true if a capital, another blank or a tag follows a blank.
    pub(super) fn is_new_sentence(self) -> bool {
        self.behind_blank()
            .is_some_and(|text| match text.chars().next() {
                None => true,
                Some(c) => c.is_whitespace() || c.is_uppercase() || is_tag(text),
            })
    }

    /// Returns true if a tag or a usual first word of a sentence follows blanks, and a blank follows that word.
    pub(super) fn is_usual_start(self) -> bool {
        let Some(text) = self.behind_blank().map(str::trim_start) else {
            return false;
        };
        let end = text.find(|c: char| !c.is_ascii_alphabetic());
        let (word, rest) = text.split_at(end.unwrap_or(text.len()));
        let is_apart = rest.chars().next().is_none_or(char::is_whitespace);
        is_tag(text) || is_apart && abbreviations::starts_sentence(word)
    }

    /// Returns true if a digit follows, with or without a blank.
    pub(super) fn is_number(self) -> bool {
        let text = self.behind_blank().unwrap_or(self.text);
        text.starts_with(|c: char| c.is_ascii_digit())
    }
}

fn is_tag(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next() == Some('<')
        && chars
            .next()
            .is_some_and(|c| c == '/' || c.is_ascii_alphabetic())
}

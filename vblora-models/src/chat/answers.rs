//! The parts of a conversation's text that the assistant has to write.

use std::ops::Range;

use minijinja::value::Value;

use super::{ChatTemplate, Message, failed};
use crate::{Error, Result};

/// The role whose turns a model learns to write.
const ASSISTANT: &str = "assistant";
/// The name under which templates have the token that ends a text.
const END: &str = "eos_token";
/// The argument that asks for the beginning of the assistant's next turn.
pub(super) const PROMPT: &str = "add_generation_prompt";

/// A conversation as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text, with all its special tokens.
    pub text: String,
    /// The parts that the assistant has to write, ascending and apart.
    pub answers: Vec<Answer>,
    /// The byte range of each message's content, without blanks at its ends.
    pub contents: Vec<Range<usize>>,
}

/// A part of a text that the assistant has to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its byte range.
    pub range: Range<usize>,
    /// Where the content of the turn ends, if the range is a whole turn. None if a `{% generation %}` block gave the range.
    pub content_end: Option<usize>,
}

impl ChatTemplate {
    /// The text of a whole conversation, and the parts that the assistant has to write.
    ///
    /// The parts are what the template's `{% generation %}` blocks write. A template without such blocks is rendered up to each assistant turn
    /// and through it, and the difference is the part. Blanks at the end of a turn are then no part of it.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if the template refuses the messages, or leaves out, repeats, reorders or changes a turn; if it writes an answer
    /// outside its blocks; or if a turn's text changes with the turns after it. The error names the turn, counted from 1.
    pub fn apply_whole(&self, messages: &[Message]) -> Result<Rendered> {
        self.check_turns(messages)?;
        let whole = (PROMPT.to_owned(), Value::from(false));
        let (text, marked) = self.render_marked(Value::from_serialize(messages), [whole])?;
        let ranges = match self.template.marks() {
            true => marked,
            false => self.ranges(messages, &text)?,
        };
        let contents = self.contents(messages, &text, &ranges)?;
        let answers = ranges.into_iter().map(|range| Answer {
            range,
            content_end: None,
        });
        let mut answers: Vec<_> = answers.collect();
        if !self.template.marks() {
            let of_assistant = messages.iter().zip(&contents);
            let mut ends = of_assistant.filter(|(m, _)| is_answer(m));
            for answer in &mut answers {
                let Some((_, content)) = ends.next() else {
                    continue;
                };
                let Range { start, end } = answer.range;
                let blanks = end - text[content.end..end].trim_end().len() - content.end;
                answer.range = start..end - blanks;
                answer.content_end = Some(content.end);
            }
        }
        Ok(Rendered {
            text,
            answers,
            contents,
        })
    }

    /// Checks that each turn is written once and in order, with texts that stand for the contents.
    fn check_turns(&self, messages: &[Message]) -> Result<()> {
        let n = messages.len();
        let name = |i: usize| format!("turn{}of{n}", i + 1);
        let named = messages.iter().enumerate();
        let named: Vec<_> = named.map(|(i, m)| Message::new(&m.role, name(i))).collect();
        let text = self.apply(&named, false)?;
        let mut from = 0;
        for (i, message) in messages.iter().enumerate() {
            let name = name(i);
            let mut found = text.match_indices(&name).map(|(at, _)| at);
            let problem = match (found.next(), found.next()) {
                (None, _) => "the template leaves it out",
                (Some(_), Some(_)) => "the template writes it more than once",
                (Some(at), None) if at < from => {
                    "the template writes it before the turns before it"
                }
                (Some(at), None) => {
                    from = at + name.len();
                    continue;
                }
            };
            return Err(self.wrong(i, message, problem));
        }
        Ok(())
    }

    /// The byte ranges of the assistant's turns, from the texts up to each and through it.
    fn ranges(&self, messages: &[Message], text: &str) -> Result<Vec<Range<usize>>> {
        let mut ranges = Vec::new();
        for (i, message) in messages.iter().enumerate().filter(|(_, m)| is_answer(m)) {
            let before = self.apply(&messages[..i], true)?;
            let through = match i + 1 == messages.len() {
                true => text.to_owned(),
                false => self.apply(&messages[..=i], false)?,
            };
            // Some templates end every text with the end token, also where the conversation goes on.
            let end = self.tokens.iter().find(|(name, _)| name == END);
            let bare = end.and_then(|(_, end)| through.strip_suffix(end.as_str()));
            let through = match text.starts_with(&through) {
                true => Some(through.as_str()),
                false => bare.filter(|bare| text.starts_with(bare)),
            };
            match through {
                Some(through) if text.starts_with(&before) && before.len() < through.len() => {
                    ranges.push(before.len()..through.len());
                }
                _ => {
                    let problem = "the template writes it, or what stands before it, differently when turns follow, so the part to learn cannot be found; a template with {% generation %} blocks marks it";
                    return Err(self.wrong(i, message, problem));
                }
            }
        }
        Ok(ranges)
    }

    /// The byte range of each content: an answer's inside a range to learn, all others outside, in order.
    fn contents(
        &self,
        messages: &[Message],
        text: &str,
        ranges: &[Range<usize>],
    ) -> Result<Vec<Range<usize>>> {
        let mut contents: Vec<Range<usize>> = Vec::with_capacity(messages.len());
        let mut answers = 0;
        for (i, message) in messages.iter().enumerate() {
            let from = contents.last().map_or(0, |last| last.end);
            let content = message.content.trim();
            // A turn may have several blocks, and without blocks each turn is one range.
            let own = match self.template.marks() {
                true => ranges,
                false => ranges.get(answers).map_or(&[][..], std::slice::from_ref),
            };
            answers += usize::from(is_answer(message));
            let found = places(text, content, from).find(|place| {
                let inside = |r: &Range<usize>| r.start <= place.start && place.end <= r.end;
                let meets = |r: &Range<usize>| r.start < place.end && place.start < r.end;
                match is_answer(message) {
                    true => own.iter().any(inside),
                    false => !ranges.iter().any(meets),
                }
            });
            match found {
                Some(found) => contents.push(found),
                None => return Err(self.wrong(i, message, self.misplaced(message))),
            }
        }
        let foreign = |range: &&Range<usize>| {
            let answers = messages.iter().zip(&contents);
            let mut answers = answers.filter(|(m, _)| is_answer(m)).map(|(_, c)| c);
            answers.all(|content| content.start < range.start || range.end < content.end)
        };
        match ranges.iter().find(foreign) {
            None => Ok(contents),
            Some(range) => {
                let part: String = text[range.clone()].chars().take(40).collect();
                let problem =
                    format!("a generation block holds no turn of the assistant: {part:?}");
                Err(failed(&self.file, None, problem))
            }
        }
    }

    fn misplaced(&self, message: &Message) -> &'static str {
        match (is_answer(message), self.template.marks()) {
            (true, true) => {
                "the template changes its content, or writes it outside its {% generation %} blocks (a block in a macro is not seen)"
            }
            (false, true) => {
                "the template changes its content, or writes it in a {% generation %} block"
            }
            (_, false) => "the template changes its content",
        }
    }

    fn wrong(&self, turn: usize, message: &Message, problem: &str) -> Error {
        let problem = format!("turn {} ({}): {problem}", turn + 1, message.role);
        failed(&self.file, None, problem)
    }
}

fn is_answer(message: &Message) -> bool {
    message.role == ASSISTANT
}

/// Where a content stands in a text, overlapping places included.
fn places(text: &str, content: &str, from: usize) -> impl Iterator<Item = Range<usize>> {
    let mut at = Some(from);
    std::iter::from_fn(move || {
        let start = at? + text.get(at?..)?.find(content)?;
        let step = text[start..].chars().next().map_or(1, char::len_utf8);
        at = Some(start + step);
        Some(start..start + content.len())
    })
}

#[cfg(test)]
mod tests;

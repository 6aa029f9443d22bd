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
    /// The end of the turn's content, if the range is a whole turn. None if a `{% generation %}` block gave the range.
    pub content_end: Option<usize>,
}

impl ChatTemplate {
    /// The text of a whole conversation, and the parts that the assistant has to write.
    ///
    /// The parts are what the template's `{% generation %}` blocks write. A template without such blocks is rendered up to each assistant turn
    /// and through it, and the difference is the part. Blanks at the end of a turn are then no part of it.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if the template refuses the messages, or leaves out, repeats, reorders or changes a turn. The same if it writes
    /// an answer outside its blocks, or if a turn's text changes with the turns after it. The error names the turn, counted from 1.
    pub fn apply_whole(&self, messages: &[Message]) -> Result<Rendered> {
        self.check_turns(messages)?;
        let (text, marked) = self.whole(messages)?;
        let ranges = match self.template.marks() {
            true => marked,
            false => self.ranges(messages, &text)?,
        };
        let contents = self.contents(messages, &text, &ranges)?;
        let answers = match self.template.marks() {
            true => marked_answers(ranges),
            false => turns(messages, &text, &contents, ranges),
        };
        Ok(Rendered {
            text,
            answers,
            contents,
        })
    }

    /// The text of a whole conversation, and the byte ranges that blocks write.
    fn whole(&self, messages: &[Message]) -> Result<(String, Vec<Range<usize>>)> {
        let argument = (PROMPT.to_owned(), Value::from(false));
        self.render_marked(Value::from_serialize(messages), [argument])
    }

    /// Checks that each turn is written once and in order, and by generation blocks if it is the assistant's. Names stand for the contents.
    fn check_turns(&self, messages: &[Message]) -> Result<()> {
        let n = messages.len();
        let name = |i: usize| format!("turn{}of{n}", i + 1);
        let named = messages.iter().enumerate();
        let named: Vec<_> = named.map(|(i, m)| Message::new(&m.role, name(i))).collect();
        let (text, marked) = self.whole(&named)?;
        let mut places: Vec<Range<usize>> = Vec::with_capacity(n);
        for (i, message) in messages.iter().enumerate() {
            let name = name(i);
            let mut found = text.match_indices(&name).map(|(at, _)| at);
            let from = places.last().map_or(0, |last| last.end);
            let problem = match (found.next(), found.next()) {
                (None, _) => "the template leaves it out",
                (Some(_), Some(_)) => "the template writes it more than once",
                (Some(at), None) if at < from => {
                    "the template writes it before the turns before it"
                }
                (Some(at), None) => {
                    places.push(at..at + name.len());
                    continue;
                }
            };
            return Err(self.wrong(i, message, problem));
        }
        match self.template.marks() {
            true => self.check_blocks(messages, &text, &places, &marked),
            false => Ok(()),
        }
    }

    /// Checks that blocks hold the turns of the assistant, all of them and no others.
    fn check_blocks(
        &self,
        messages: &[Message],
        text: &str,
        places: &[Range<usize>],
        marked: &[Range<usize>],
    ) -> Result<()> {
        for (i, (message, place)) in messages.iter().zip(places).enumerate() {
            let is_in = |block: &Range<usize>| block.start < place.end && place.start < block.end;
            let problem = match (is_answer(message), marked.iter().any(is_in)) {
                (true, false) => {
                    "the template writes it outside its {% generation %} blocks (a block in a macro is not seen)"
                }
                (false, true) => "the template writes it in a {% generation %} block",
                (true, true) | (false, false) => continue,
            };
            return Err(self.wrong(i, message, problem));
        }
        // Blocks of a turn lie between the turns beside it.
        let is_of = |block: &Range<usize>, i: usize| {
            let before = i.checked_sub(1).map_or(0, |i| places[i].end);
            let after = places.get(i + 1).map_or(text.len(), |next| next.start);
            before <= block.start && block.end <= after
        };
        let answers = messages.iter().enumerate().filter(|(_, m)| is_answer(m));
        let answers: Vec<usize> = answers.map(|(i, _)| i).collect();
        let foreign = |block: &&Range<usize>| !answers.iter().any(|&i| is_of(block, i));
        match marked.iter().find(foreign) {
            None => Ok(()),
            Some(block) => {
                let part: String = text[block.clone()].chars().take(40).collect();
                let problem = format!(
                    "a {{% generation %}} block belongs to no turn of the assistant: {part:?}"
                );
                Err(failed(&self.file, None, problem))
            }
        }
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
        // Each turn has ranges of its own, and without blocks exactly one.
        let mut own = ranges;
        for (i, message) in messages.iter().enumerate() {
            let from = contents.last().map_or(0, |last| last.end);
            let mut places = places(text, message.content.trim(), from);
            let found = match is_answer(message) {
                true => {
                    let holds = |r: &Range<usize>, place: &Range<usize>| {
                        r.start <= place.start && place.end <= r.end
                    };
                    let most = if self.template.marks() {
                        own.len()
                    } else {
                        own.len().min(1)
                    };
                    let found = places.find_map(|place| {
                        let at = own[..most].iter().position(|range| holds(range, &place))?;
                        Some((place, at))
                    });
                    found.map(|(place, at)| {
                        own = &own[at + 1..];
                        place
                    })
                }
                false => places.find(|place| {
                    let meets = |r: &Range<usize>| r.start < place.end && place.start < r.end;
                    !ranges.iter().any(meets)
                }),
            };
            match found {
                Some(found) => contents.push(found),
                None => return Err(self.wrong(i, message, "the template changes its content")),
            }
        }
        Ok(contents)
    }

    fn wrong(&self, turn: usize, message: &Message, problem: &str) -> Error {
        let problem = format!("turn {} ({}): {problem}", turn + 1, message.role);
        failed(&self.file, None, problem)
    }
}

/// Answers as `{% generation %}` blocks mark them.
fn marked_answers(ranges: Vec<Range<usize>>) -> Vec<Answer> {
    let answers = ranges.into_iter().map(|range| Answer {
        range,
        content_end: None,
    });
    answers.collect()
}

/// Answers that are whole turns, without the blanks after them.
fn turns(
    messages: &[Message],
    text: &str,
    contents: &[Range<usize>],
    ranges: Vec<Range<usize>>,
) -> Vec<Answer> {
    let answers = messages.iter().zip(contents).filter(|(m, _)| is_answer(m));
    let answers = ranges
        .into_iter()
        .zip(answers)
        .map(|(range, (_, content))| {
            let behind = text[content.end..range.end].trim_end();
            Answer {
                range: range.start..content.end + behind.len(),
                content_end: Some(content.end),
            }
        });
    answers.collect()
}

fn is_answer(message: &Message) -> bool {
    message.role == ASSISTANT
}

/// The places of a content in a text, overlapping ones included.
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

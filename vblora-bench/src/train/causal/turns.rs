//! The tokens of a conversation that the assistant has to write.

use std::ops::Range;

use vblora_models::{Answer, Marked};

use super::encode::{EncodedText, Encoding};
use crate::{Result, tasks::causal::Text};

/// A conversation as tokens.
#[derive(Debug)]
pub(super) struct Conversation {
    /// All tokens of its text.
    pub(super) ids: Vec<u32>,
    /// The tokens of each answer with the token that ends it, ascending and apart.
    pub(super) answers: Vec<Range<usize>>,
}

impl Encoding<'_> {
    /// The conversations among these texts, each encoded as one text.
    pub(super) fn conversations(&self, texts: &[Text]) -> Result<Vec<Conversation>> {
        let turns = texts.iter().filter_map(|text| {
            let turns = text.turns.as_ref()?;
            Some((format!("{}{}", text.prompt, text.response), text, turns))
        });
        let turns: Vec<_> = turns.collect();
        let joined: Vec<&str> = turns.iter().map(|(joined, ..)| joined.as_str()).collect();
        let encoded = self.tokenizer.encode_marked(&joined)?;
        let encoded = encoded.into_iter().zip(&turns);
        let conversations = encoded.map(|(marked, (_, text, turns))| {
            let answers = self.answers(&turns.answers, text.prompt.len(), &marked);
            let ids = marked.ids;
            Conversation { ids, answers }
        });
        Ok(conversations.collect())
    }

    /// The tokens of answers, whose bytes count from byte `from` of the text.
    fn answers(&self, answers: &[Answer], from: usize, marked: &Marked) -> Vec<Range<usize>> {
        let mut found: Vec<Range<usize>> = Vec::with_capacity(answers.len());
        for answer in answers {
            let Range { start, end } = self.answer(answer, from, marked);
            let start = found.last().map_or(0, |last| last.end).max(start);
            if start < end {
                found.push(start..end);
            }
        }
        found
    }

    /// The tokens of an answer, whose bytes count from byte `from` of the text.
    ///
    /// A token on a border of an answer belongs to the answer, as in transformers' masks. An answer that is a whole turn ends with the first
    /// end token behind its content. An answer of a `{% generation %}` block ends as its block. If it has no end token and one follows, that
    /// token is learned too, because the model has to produce it.
    fn answer(&self, answer: &Answer, from: usize, marked: &Marked) -> Range<usize> {
        let Range { start, end } = answer.range;
        let tokens = marked.tokens(&(start + from..end + from));
        let is_end = |at: &usize| marked.ids.get(*at).is_some_and(|&id| self.is_end(id));
        let is_behind = |at: &usize| {
            let content = answer.content_end.map(|end| end + from);
            content.is_some_and(|end| marked.offsets[*at].start >= end)
        };
        let mut ends = tokens.clone().filter(is_end).peekable();
        let end = match (ends.peek().is_some(), ends.find(is_behind)) {
            (true, Some(at)) => at + 1,
            (true, None) => tokens.end,
            (false, _) => tokens.end + usize::from(is_end(&tokens.end)),
        };
        tokens.start..end
    }

    /// A conversation up to the end of its first `answers` answers. The last one gets an end token if the template wrote none.
    pub(super) fn until(&self, turns: &Conversation, answers: usize) -> EncodedText {
        let mut labels = turns.answers[..answers].to_vec();
        let end = labels.last().map_or(0, |last| last.end);
        let mut ids = turns.ids[..end].to_vec();
        let is_ended = |answer: &Range<usize>| {
            let mut ids = turns.ids[answer.clone()].iter();
            ids.any(|&id| self.is_end(id))
        };
        if let Some(last) = labels.last_mut().filter(|last| !is_ended(last)) {
            ids.push(self.end);
            last.end += 1;
        }
        if self.on_prompt {
            return EncodedText::new(ids, 1);
        }
        // The first token of a text has no predecessor.
        if let Some(first) = labels.first_mut() {
            first.start = first.start.max(1);
        }
        EncodedText { ids, labels }
    }
}

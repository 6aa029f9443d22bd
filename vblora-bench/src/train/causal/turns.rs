//! The tokens of a conversation that the assistant has to write.

use std::ops::Range;

use vblora_models::Answer;

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
    ///
    /// A token on a border of an answer belongs to the answer, as in transformers' masks. An answer that is a whole turn ends with the first end
    /// token behind its content. An answer of a `{% generation %}` block ends as its block; an end token that follows the block is learned too,
    /// since the model has to produce it.
    pub(super) fn conversations(&self, texts: &[Text]) -> Result<Vec<Conversation>> {
        let turns = texts
            .iter()
            .filter_map(|text| Some((text, text.turns.as_ref()?)));
        let turns: Vec<_> = turns.collect();
        let joined = turns
            .iter()
            .map(|(text, _)| format!("{}{}", text.prompt, text.response));
        let joined: Vec<String> = joined.collect();
        let joined: Vec<&str> = joined.iter().map(String::as_str).collect();
        let encoded = self.tokenizer.encode_marked(&joined)?;
        let encoded = encoded.into_iter().zip(turns);
        let conversation = |(marked, (text, turns)): (vblora_models::Marked, _)| {
            let (text, turns): (&Text, &crate::tasks::causal::Turns) = (text, turns);
            let mut answers: Vec<Range<usize>> = Vec::with_capacity(turns.answers.len());
            for Answer { range, content_end } in &turns.answers {
                let from = text.prompt.len();
                let tokens = marked.tokens(&(range.start + from..range.end + from));
                let content_end = content_end.map(|end| end + from);
                let ends: Vec<usize> = tokens
                    .clone()
                    .filter(|&at| self.is_end(marked.ids[at]))
                    .collect();
                let behind =
                    |at: &&usize| content_end.is_some_and(|end| marked.offsets[**at].start >= end);
                let next = marked.ids.get(tokens.end);
                let end = match (ends.iter().find(behind), ends.is_empty()) {
                    (Some(at), _) => at + 1,
                    (None, true) if next.is_some_and(|&id| self.is_end(id)) => tokens.end + 1,
                    (None, _) => tokens.end,
                };
                let start = answers.last().map_or(0, |last| last.end);
                answers.push(tokens.start.max(start)..end.max(start));
            }
            answers.retain(|answer| !answer.is_empty());
            let ids = marked.ids;
            Conversation { ids, answers }
        };
        Ok(encoded.map(conversation).collect())
    }

    /// A conversation up to the end of its first `answers` answers. The last one gets an end token if the template wrote none.
    pub(super) fn until(&self, turns: &Conversation, answers: usize) -> EncodedText {
        let mut labels = turns.answers[..answers].to_vec();
        let end = labels.last().map_or(0, |last| last.end);
        let mut ids = turns.ids[..end].to_vec();
        let last = labels.last_mut();
        let unended = last.filter(|last| !ids[(*last).clone()].iter().any(|&id| self.is_end(id)));
        if let Some(last) = unended {
            ids.push(self.end);
            last.end += 1;
        }
        if self.on_prompt {
            labels = vec![1..ids.len()];
        }
        // The first token of a text has no predecessor.
        if let Some(first) = labels.first_mut() {
            first.start = first.start.max(1);
        }
        EncodedText { ids, labels }
    }
}

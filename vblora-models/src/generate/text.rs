//! Text as it grows.

use std::ops::ControlFlow;

use crate::tokenizer::TokenKind;
use crate::{Result, TextTokenizer};

use super::{Ended, GenerationConfig, NextToken, run};

/// The text of tokens, piece by piece. A piece has no part of a character and nothing of a stop string. All pieces together are the text
/// that [`TextTokenizer::decode`] makes of all tokens, up to the first stop string.
///
/// Every token decodes the whole text anew, since what a token adds depends on those before it.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a TextTokenizer,
    stop_strings: &'a [String],
    ids: Vec<u32>,
    given: String,
    /// The last tokens are single bytes. The next token settles their meaning (a wrong byte spoils them all).
    in_bytes: bool,
    stopped: bool,
}

/// The text that a row was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratedText {
    /// The text, without special tokens, stop token and stop string.
    pub text: String,
    /// All tokens, also those of the stop token or stop string.
    pub tokens: Vec<u32>,
    /// Why there is no more.
    pub ended: Ended,
}

impl<'a> TextStream<'a> {
    /// An empty text that ends before the first of `stop_strings`.
    pub fn new(tokenizer: &'a TextTokenizer, stop_strings: &'a [String]) -> Self {
        Self {
            tokenizer,
            stop_strings,
            ids: Vec::new(),
            given: String::new(),
            in_bytes: false,
            stopped: false,
        }
    }

    /// Appends a token and gives what is certain of the text beyond what was given before; perhaps nothing.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) if the tokens cannot be decoded, or if with this one the text before it becomes another.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        self.in_bytes = match self.tokenizer.token_kind(id) {
            TokenKind::Byte => true,
            TokenKind::Text => false,
            TokenKind::Skipped => self.in_bytes,
        };
        let rest = self.rest()?;
        if self.in_bytes && !self.stopped {
            return Ok(String::new());
        }
        Ok(self.give(&rest[..self.certain(&rest)]))
    }

    /// Gives the rest: no token follows.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(&mut self) -> Result<String> {
        let rest = self.rest()?;
        Ok(self.give(&rest))
    }

    /// All that was given.
    pub fn text(&self) -> &str {
        &self.given
    }

    /// The text that was not given yet, up to the first stop string.
    fn rest(&mut self) -> Result<String> {
        if self.stopped {
            return Ok(String::new());
        }
        let mut whole = self.tokenizer.decode(&self.ids)?;
        if !whole.starts_with(&self.given) {
            return Err(self.tokenizer.unusable(format!(
                "its decoder changed {:?}, after that had been given out, with token {:?}",
                self.given,
                self.ids.last()
            )));
        }
        let mut rest = whole.split_off(self.given.len());
        let stops = self.stop_strings.iter();
        if let Some(at) = stops.filter_map(|string| rest.find(string)).min() {
            rest.truncate(at);
            self.stopped = true;
        }
        Ok(rest)
    }

    /// Length of the part of `rest` that no later token changes or makes part of a stop string.
    fn certain(&self, rest: &str) -> usize {
        if self.stopped {
            return rest.len();
        }
        let rest = match self.tokenizer.cleans_up() {
            // Text to clean up begins with a blank and has at most one more (` ' `).
            true => rest
                .rmatch_indices(' ')
                .nth(1)
                .map_or("", |(at, _)| &rest[..at]),
            false => rest,
        };
        // A replacement character at the end may be a character whose other bytes are to come.
        let whole = rest.trim_end_matches(char::REPLACEMENT_CHARACTER);
        let begun = |at: &usize| {
            let end = &whole[*at..];
            self.stop_strings.iter().any(|stop| stop.starts_with(end))
        };
        let mut starts = whole.char_indices().map(|(at, _)| at);
        starts.find(begun).unwrap_or(whole.len())
    }

    fn give(&mut self, piece: &str) -> String {
        self.given.push_str(piece);
        piece.to_owned()
    }
}

/// Goes on with each prompt, as [`generate`](super::generate) does, and gives the text as it grows: row and piece.
///
/// A stop string is looked for in the new text alone, without special tokens; one that is itself a special token stops as that token.
/// A row that `on_text` breaks off has the text that was given.
///
/// # Errors
/// As [`generate`](super::generate), and tokens that cannot be decoded ([`TextStream::push`]).
pub fn generate_text(
    model: &mut impl NextToken,
    tokenizer: &TextTokenizer,
    prompts: &[&[u32]],
    config: &GenerationConfig,
    mut on_text: impl FnMut(usize, &str) -> ControlFlow<()>,
) -> Result<Vec<GeneratedText>> {
    let mut config = config.clone();
    let special = |string: &String| tokenizer.special_token_id(string);
    config
        .stop_tokens
        .extend(config.stop_strings.iter().filter_map(special));
    let mut streams: Vec<TextStream<'_>> = prompts
        .iter()
        .map(|_| TextStream::new(tokenizer, &config.stop_strings))
        .collect();
    let mut hand_out = |row: usize, piece: &str| match piece {
        "" => ControlFlow::Continue(()),
        piece => on_text(row, piece),
    };
    let generated = run(model, prompts, &config, Some(tokenizer), &mut |step| {
        let stream = &mut streams[step.row];
        let mut piece = String::new();
        if step.ended != Some(Ended::StopToken) {
            piece += &stream.push(step.token)?;
        }
        if step.ended.is_some() {
            piece += &stream.finish()?;
        }
        Ok(hand_out(step.row, &piece))
    })?;
    let rows = generated.into_iter().zip(&mut streams).enumerate();
    rows.map(|(row, (generated, stream))| {
        // A row without a token left ends without a step.
        if generated.ended == Ended::NothingLeft {
            let _ended_anyway = hand_out(row, &stream.finish()?);
        }
        Ok(GeneratedText {
            text: stream.given.clone(),
            tokens: generated.tokens,
            ended: generated.ended,
        })
    })
    .collect()
}

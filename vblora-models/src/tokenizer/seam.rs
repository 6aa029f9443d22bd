//! A prompt and its response as one text, and parts of a text as tokens.

use std::ops::Range;

use tokenizers::{Encoding, Token};

use super::TextTokenizer;
use crate::Result;

/// A prompt and its response, encoded as one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continued {
    /// Tokens of both, without those that the tokenizer puts before or after a text.
    pub ids: Vec<u32>,
    /// The first token with a character of the response.
    pub seam: usize,
}

/// A text as tokens, and where parts of it are among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// Tokens of the text, without those that the tokenizer puts before or after a text.
    pub ids: Vec<u32>,
    /// The byte range of each token.
    pub offsets: Vec<Range<usize>>,
}

impl Marked {
    /// The tokens that have a character of a part, also those that begin before it or end after it.
    pub fn tokens(&self, part: &Range<usize>) -> Range<usize> {
        let start = self.offsets.iter().position(|at| at.end > part.start);
        let start = start.unwrap_or(self.ids.len());
        let inside = self.offsets[start..].iter();
        start..start + inside.take_while(|at| at.start < part.end).count()
    }
}

impl TextTokenizer {
    /// Encodes texts with the byte range of each token, without special tokens before or after.
    ///
    /// # Errors
    /// As [`encode_plain`](Self::encode_plain).
    pub fn encode_marked(&self, texts: &[&str]) -> Result<Vec<Marked>> {
        let encoded = self.encode_all(texts.to_vec(), |tokenizer, text| {
            tokenizer.encode(text, false)
        })?;
        let marked = |encoding: &Encoding| {
            let offsets = encoding.get_offsets().iter();
            Ok(Marked {
                ids: self.known(encoding.get_ids().to_vec())?,
                offsets: offsets.map(|&(start, end)| start..end).collect(),
            })
        };
        encoded.iter().map(marked).collect()
    }

    /// The special tokens, longest first.
    pub fn special_texts(&self) -> Vec<String> {
        let added = self.tokenizer.get_added_tokens_decoder();
        let special = added.into_values().filter(|token| token.special);
        let mut texts: Vec<String> = special.map(|token| token.content).collect();
        texts.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        texts
    }

    /// Returns true if an id is that of a special token.
    pub fn is_special_id(&self, id: u32) -> bool {
        let token = self.tokenizer.id_to_token(id);
        token.is_some_and(|token| self.is_special(&token))
    }

    /// Encodes prompts and their responses, each pair as one text, as a model meets it. Many tokenizers give the response's first word other
    /// tokens if it stands alone.
    ///
    /// The seam lies before the first token that has a character of the response, even if the token begins in the prompt. (TRL counts the
    /// tokens of the prompt alone, which then would leave the token unlearned.)
    ///
    /// # Errors
    /// As [`encode_plain`](Self::encode_plain).
    pub fn encode_continued(&self, texts: &[(&str, &str)]) -> Result<Vec<Continued>> {
        let joined: Vec<String> = texts
            .iter()
            .map(|(prompt, response)| format!("{prompt}{response}"))
            .collect();
        let whole = joined.iter().map(String::as_str).collect();
        let encoded = self.encode_all(whole, |tokenizer, text| tokenizer.encode(text, false))?;
        encoded
            .iter()
            .zip(texts)
            .map(|(encoding, (prompt, _))| {
                let mut offsets = encoding.get_offsets().iter();
                let seam = offsets.position(|(_, end)| *end > prompt.len());
                Ok(Continued {
                    ids: self.known(encoding.get_ids().to_vec())?,
                    seam: seam.unwrap_or(encoding.len()),
                })
            })
            .collect()
    }

    /// Encodes prompts with their special tokens, as transformers does, with one exception. A prompt that already begins or ends with them,
    /// as a chat template writes it, does not get them twice.
    ///
    /// # Errors
    /// As [`encode_plain`](Self::encode_plain).
    pub fn encode_prompts(&self, prompts: &[&str]) -> Result<Vec<Vec<u32>>> {
        let (front, behind) = self.frame()?;
        let framed = |ids: Vec<u32>| {
            let front: &[u32] = if ids.starts_with(&front) { &[] } else { &front };
            let behind: &[u32] = if ids.ends_with(&behind) { &[] } else { &behind };
            [front, &ids, behind].concat()
        };
        Ok(self
            .encode_plain(prompts)?
            .into_iter()
            .map(framed)
            .collect())
    }

    /// The special tokens that the tokenizer puts before a text and after it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) if it has a post-processor that fails.
    pub fn frame(&self) -> Result<(Vec<u32>, Vec<u32>)> {
        let text = Encoding::from_tokens(vec![Token::new(0, String::new(), (0, 0))], 0);
        let whole = self.contained(|tokenizer| tokenizer.post_process(text, None, true))?;
        let is_text = |mask: &u32| *mask == 0;
        let at = whole.get_special_tokens_mask().iter().position(is_text);
        let (front, behind) = whole.get_ids().split_at(at.unwrap_or(0));
        Ok((front.to_vec(), behind.iter().skip(1).copied().collect()))
    }
}

//! Text to token ids, and token ids to padded batches.

mod batch;
mod byte_level;

pub use batch::{PaddedBatch, pad};

use tokenizers::models::ModelWrapper;
use tokenizers::utils::truncation::{TruncationParams, truncate_encodings};
use tokenizers::{Encoding, PostProcessor, Tokenizer};

use crate::{Error, ModelFiles, Result};

const WHOLE: &str = "tokenizer.json";
const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";

/// A model's tokenizer. Encodes without padding, and truncates only as asked: settings of that kind in the
/// file (MiniLM's pads everything to 128) are switched off.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    /// The file it came from, for messages.
    file: String,
    largest_id: u32,
    token_of_largest_id: String,
}

/// One encoded text or pair of texts, with special tokens and without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Token types: 1 in the second text of a BERT pair, else 0.
    pub type_ids: Vec<u32>,
    /// Whether tokens were cut off to fit the maximum length.
    pub truncated: bool,
}

/// What a token adds to a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// Text.
    Text,
    /// One byte, as SentencePiece writes characters that are not in its vocabulary.
    Byte,
    /// Nothing: a special token, or an id that is none.
    Skipped,
}

impl TextTokenizer {
    /// Reads `tokenizer.json`, or `vocab.json` and `merges.txt` as RoBERTa's byte-level BPE.
    ///
    /// # Errors
    /// [`Error::NoFile`] if neither is there; [`Error::Tokenizer`] or [`Error::Json`] if a file cannot be used.
    pub fn from_files(files: &ModelFiles) -> Result<Self> {
        if files.contains(WHOLE) {
            let file = files.describe(WHOLE);
            return match Tokenizer::from_bytes(&*files.read(WHOLE)?) {
                Ok(tokenizer) => Self::new(tokenizer, &file),
                Err(error) => Err(unusable(&file, error)),
            };
        }
        if !(files.contains(VOCAB) && files.contains(MERGES)) {
            return Err(files.no_file(&format!("{WHOLE}, and not both {VOCAB} and {MERGES}")));
        }
        Self::new(byte_level::from_files(files)?, &files.describe(VOCAB))
    }

    /// Wraps a tokenizer that was made in memory (just trained, for example); `file` stands for it in messages.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if it has no tokens.
    pub fn new(mut tokenizer: Tokenizer, file: &str) -> Result<Self> {
        tokenizer.with_padding(None);
        // Only a maximum length can be refused, and there is none.
        tokenizer
            .with_truncation(None)
            .map_err(|error| unusable(file, error))?;
        switch_merge_dropout_off(&mut tokenizer);
        let largest = tokenizer
            .get_vocab(true)
            .into_iter()
            .max_by_key(|(_, id)| *id);
        let Some((token_of_largest_id, largest_id)) = largest else {
            return Err(unusable(file, "it has no tokens"));
        };
        Ok(Self {
            tokenizer,
            file: file.to_owned(),
            largest_id,
            token_of_largest_id,
        })
    }

    /// Encodes texts, or pairs of texts, with special tokens, to at most `max_length` tokens each.
    ///
    /// A pair that is too long loses tokens from the end of the longer text until both are equally long, then
    /// from both ("longest first"; the same lengths as transformers' fast tokenizers).
    ///
    /// # Errors
    /// [`Error::MaxLength`] if the special tokens alone fill `max_length`.
    pub fn encode_batch(
        &self,
        texts: &[(&str, Option<&str>)],
        max_length: usize,
    ) -> Result<Vec<Encoded>> {
        let any_pair = texts.iter().any(|(_, second)| second.is_some());
        let special = self.special_tokens(any_pair);
        if max_length <= special {
            return Err(Error::MaxLength {
                max_length,
                special,
            });
        }
        let firsts = self.without_special_tokens(texts.iter().map(|(first, _)| *first))?;
        let seconds =
            self.without_special_tokens(texts.iter().filter_map(|(_, second)| *second))?;
        let mut seconds = seconds.into_iter();
        firsts
            .into_iter()
            .zip(texts)
            .map(|(first, (_, second))| {
                let second = second.and_then(|_| seconds.next());
                self.assemble(first, second, max_length)
            })
            .collect()
    }

    /// The token ids of texts, without special tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer refuses a text.
    pub fn encode_plain(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        let encoded = self.without_special_tokens(texts.iter().copied())?;
        Ok(encoded.iter().map(|e| e.get_ids().to_vec()).collect())
    }

    /// Special tokens that every text, or every pair, gets.
    pub fn special_tokens(&self, pair: bool) -> usize {
        let processor = self.tokenizer.get_post_processor();
        processor.map_or(0, |processor| processor.added_tokens(pair))
    }

    fn without_special_tokens<'a>(
        &self,
        texts: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<Encoding>> {
        self.tokenizer
            .encode_batch_fast(texts.collect(), false)
            .map_err(|error| self.unusable(error))
    }

    fn assemble(
        &self,
        first: Encoding,
        second: Option<Encoding>,
        max_length: usize,
    ) -> Result<Encoded> {
        let length = first.len() + second.as_ref().map_or(0, Encoding::len);
        let room = max_length - self.special_tokens(second.is_some());
        let params = TruncationParams {
            max_length: room,
            ..TruncationParams::default()
        };
        let (mut first, mut second) =
            truncate_encodings(first, second, &params).map_err(|error| self.unusable(error))?;
        first.take_overflowing();
        if let Some(second) = &mut second {
            second.take_overflowing();
            second.set_type_ids(vec![1; second.len()]);
        }
        let whole = self
            .tokenizer
            .post_process(first, second, true)
            .map_err(|error| self.unusable(error))?;
        Ok(Encoded {
            ids: whole.get_ids().to_vec(),
            type_ids: whole.get_type_ids().to_vec(),
            truncated: length > room,
        })
    }

    /// The text of token ids, without special tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the file's decoder cannot do it.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer
            .decode(ids, true)
            .map_err(|error| self.unusable(error))
    }

    /// The text of token ids with that of special tokens.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_with_special_tokens(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer
            .decode(ids, false)
            .map_err(|error| self.unusable(error))
    }

    /// What `decode` makes of a token.
    pub(crate) fn token_kind(&self, id: u32) -> TokenKind {
        let is_byte = |token: &str| {
            let digits = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
            digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
        };
        match self.tokenizer.id_to_token(id) {
            None => TokenKind::Skipped,
            Some(token) if self.is_special(&token) => TokenKind::Skipped,
            Some(token) if is_byte(&token) => TokenKind::Byte,
            Some(_) => TokenKind::Text,
        }
    }

    /// The id of a special token, which `decode` leaves out.
    pub(crate) fn special_token_id(&self, token: &str) -> Option<u32> {
        self.token_id(token).filter(|_| self.is_special(token))
    }

    fn is_special(&self, token: &str) -> bool {
        self.tokenizer
            .get_added_vocabulary()
            .is_special_token(token)
    }

    /// The id of a token, for special tokens such as `<mask>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The largest id of any token; ids run from 0 to it, perhaps with gaps.
    pub fn largest_id(&self) -> u32 {
        self.largest_id
    }

    /// Checks that the model has an embedding for every id.
    ///
    /// # Errors
    /// [`Error::TokenizerDoesNotFit`] naming the token with the largest id.
    pub fn check_fits(&self, vocab_size: usize) -> Result<()> {
        if (self.largest_id as usize) < vocab_size {
            return Ok(());
        }
        Err(Error::TokenizerDoesNotFit {
            file: self.file.clone(),
            token: self.token_of_largest_id.clone(),
            id: self.largest_id,
            vocab_size,
        })
    }

    /// The contents of a `tokenizer.json` for this tokenizer.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if it has a part that cannot be written.
    pub fn to_json(&self) -> Result<String> {
        self.tokenizer
            .to_string(true)
            .map_err(|error| self.unusable(error))
    }

    pub(crate) fn unusable(&self, problem: impl ToString) -> Error {
        unusable(&self.file, problem)
    }
}

fn unusable(file: &str, problem: impl ToString) -> Error {
    Error::Tokenizer {
        file: file.to_owned(),
        problem: problem.to_string(),
    }
}

/// BPE dropout draws from an ambient generator; encoding must repeat.
fn switch_merge_dropout_off(tokenizer: &mut Tokenizer) {
    if let ModelWrapper::BPE(model) = tokenizer.get_model()
        && model.dropout.is_some()
    {
        let mut model = model.clone();
        model.dropout = None;
        tokenizer.with_model(model);
    }
}

#[cfg(test)]
mod tests;

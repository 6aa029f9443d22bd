//! Text to token ids, and token ids to padded batches.

mod backtracking;
mod batch;
mod byte_level;
mod check;
mod pipeline;
mod seam;
mod word_piece;

pub use batch::{PaddedBatch, pad};
pub use seam::{Continued, Marked};

use rayon::prelude::*;
use tokenizers::models::ModelWrapper;
use tokenizers::utils::truncation::{TruncationDirection, TruncationParams, truncate_encodings};
use tokenizers::{Encoding, PostProcessor, Tokenizer};

use crate::config::{End, TokenizerClass, TokenizerSettings, ends};
use crate::contain::contain;
use crate::{DecoderConfig, EncoderConfig, Error, ModelFiles, Result, notice};
use backtracking::Backtracking;
use pipeline::Pipeline;

const WHOLE: &str = "tokenizer.json";
const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const WORDS: &str = "vocab.txt";
/// The names of SentencePiece models, which this crate does not read.
const SENTENCE_PIECE: [&str; 3] = ["spm.model", "sentencepiece.bpe.model", "tokenizer.model"];
const CONFIG: &str = "tokenizer_config.json";

/// A model's tokenizer. Encodes without padding, and truncates only as asked: settings of that kind in the
/// file (MiniLM's pads everything to 128) are switched off.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    /// Its patterns that could be given up.
    backtracking: Backtracking,
    /// The file it came from, for messages.
    file: String,
    largest_id: u32,
    token_of_largest_id: String,
    /// Tokens that end texts, the one that a text for training ends with first.
    ends: Vec<End>,
    /// Tokens that the model has, once it is known.
    vocab_size: Option<usize>,
    /// Token types that the model has, once it is known.
    token_types: Option<usize>,
    /// True if token types of a pair are told to the model.
    gives_types: bool,
    /// The end of long texts that is cut off.
    truncates: TruncationDirection,
    /// True if blanks before punctuation go when tokens become text.
    cleans_up: bool,
}

/// One encoded text or pair of texts, with special tokens and without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Token types: 1 in the second text of a BERT pair, else 0.
    pub type_ids: Vec<u32>,
    /// True if tokens were cut off to fit the maximum length.
    pub truncated: bool,
}

/// The effect of a token on a text.
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
    /// Reads `tokenizer.json`, or a vocabulary as the model's family has it: `vocab.txt` of BERT, `vocab.json` and `merges.txt` of RoBERTa and
    /// GPT-2. The settings and special tokens of `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` hold, as in
    /// transformers 5; those that contradict `tokenizer.json` are said.
    ///
    /// # Errors
    /// [`Error::NoFile`] if none is there; [`Error::Tokenizer`], [`Error::Json`] or [`Error::Config`] if a file cannot be used.
    pub fn from_files(files: &ModelFiles) -> Result<Self> {
        contain(|| Self::load(files)).unwrap_or_else(|panic| {
            let names = [WHOLE, VOCAB, WORDS];
            let name = names.into_iter().find(|name| files.contains(name));
            Err(unusable(
                &files.describe(name.unwrap_or(WHOLE)),
                fell(&panic),
            ))
        })
    }

    fn load(files: &ModelFiles) -> Result<Self> {
        let settings = TokenizerSettings::from_files(files)?;
        let (mut tokenizer, name) = read(files, &settings)?;
        let file = files.describe(name);
        let (padding, truncation) = (tokenizer.get_padding(), tokenizer.get_truncation());
        let pad = padding.map(|padding| padding.pad_token.clone());
        let direction = truncation.map(|truncation| truncation.direction);
        let pipeline = Pipeline {
            tokenizer: &mut tokenizer,
            settings: &settings,
            file: &file,
            is_vocabulary: name != WHOLE,
            config: &files.describe(CONFIG),
        };
        pipeline
            .complete(pad)
            .map_err(|error| unusable(&file, error))?;
        let mut tokenizer = Self::new(tokenizer, &file)?;
        tokenizer.gives_types = match &settings.inputs {
            Some(inputs) => inputs.iter().any(|input| input == "token_type_ids"),
            None => !matches!(
                settings.class,
                TokenizerClass::Roberta | TokenizerClass::Gpt2
            ),
        };
        tokenizer.truncates = match settings.truncates_left {
            Some(true) => TruncationDirection::Left,
            Some(false) => TruncationDirection::Right,
            None => direction.unwrap_or(TruncationDirection::Right),
        };
        // As in transformers 5, which leaves the text of BPE as it is.
        let is_bpe = matches!(tokenizer.tokenizer.get_model(), ModelWrapper::BPE(_));
        tokenizer.cleans_up = settings.clean_up && !is_bpe;
        if name == WHOLE {
            tokenizer.say_unframed(&settings, &files.describe(CONFIG))?;
        }
        tokenizer.ends = ends(files, &settings, |token| tokenizer.token_id(token))?;
        Ok(tokenizer)
    }

    /// Wraps a tokenizer that was made in memory (just trained, for example); `file` stands for it in messages.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if it has no tokens, adds ids that its vocabulary has not, or can make texts far longer.
    pub fn new(mut tokenizer: Tokenizer, file: &str) -> Result<Self> {
        tokenizer.with_padding(None);
        // Only a maximum length can be refused, and there is none.
        tokenizer
            .with_truncation(None)
            .map_err(|error| unusable(file, error))?;
        switch_merge_dropout_off(&mut tokenizer);
        check::parts(&tokenizer).map_err(|problem| unusable(file, problem))?;
        let largest = tokenizer
            .get_vocab(true)
            .into_iter()
            .max_by_key(|(_, id)| *id);
        let Some((token_of_largest_id, largest_id)) = largest else {
            return Err(unusable(file, "it has no tokens"));
        };
        Ok(Self {
            backtracking: Backtracking::of(&tokenizer),
            tokenizer,
            file: file.to_owned(),
            largest_id,
            token_of_largest_id,
            ends: Vec::new(),
            vocab_size: None,
            token_types: None,
            gives_types: true,
            truncates: TruncationDirection::Right,
            cleans_up: false,
        })
    }

    /// The tokenizer of an encoder: what a text becomes is checked against the model's vocabulary and token types from now on.
    ///
    /// # Errors
    /// As [`check_fits`](Self::check_fits).
    pub fn for_encoder(self, config: &EncoderConfig) -> Result<Self> {
        Ok(Self {
            token_types: Some(config.type_vocab_size),
            gives_types: self.gives_types && config.family.takes_types(config.type_vocab_size),
            ..self.within(config.vocab_size)?
        })
    }

    /// The tokenizer of a decoder: what a text becomes is checked against the model's vocabulary from now on.
    ///
    /// # Errors
    /// As [`check_fits`](Self::check_fits).
    pub fn for_decoder(self, config: &DecoderConfig) -> Result<Self> {
        self.within(config.vocab_size)
    }

    fn within(self, vocab_size: usize) -> Result<Self> {
        self.check_fits(vocab_size)?;
        if self.largest_id as usize >= vocab_size {
            notice::once(format!(
                "{}: token {:?} has id {}, beyond the model's vocabulary of {vocab_size}: texts with it are refused",
                self.file, self.token_of_largest_id, self.largest_id
            ));
        }
        for End { id, source } in &self.ends {
            if *id as usize >= vocab_size {
                notice::once(format!(
                    "{source}: not used: {id} is outside the vocabulary of {vocab_size}"
                ));
            }
        }
        Ok(Self {
            vocab_size: Some(vocab_size),
            ..self
        })
    }

    /// Says where `tokenizer.json` begins or ends texts otherwise than `tokenizer_config.json` asks for. The former counts, as in
    /// transformers 5.
    fn say_unframed(&self, settings: &TokenizerSettings, config: &str) -> Result<()> {
        let (front, behind) = self.frame()?;
        for (field, asked, token, found) in [
            ("add_bos_token", settings.add_bos_token, "bos_token", front),
            ("add_eos_token", settings.add_eos_token, "eos_token", behind),
        ] {
            let token = settings.token(token);
            let id = token.and_then(|token| self.token_id(&token.content));
            let adds = id.is_some_and(|id| found.contains(&id));
            if asked.is_some_and(|asked| asked != adds) {
                notice::once(format!(
                    "{config}: field {field:?}: not used: {} says which tokens texts begin and end with, as in transformers",
                    self.file
                ));
            }
        }
        Ok(())
    }

    /// Returns true if the model has a token; always where the model is not known.
    pub(crate) fn has_embedding(&self, id: u32) -> bool {
        self.vocab_size.is_none_or(|size| (id as usize) < size)
    }

    /// The token that a text for training ends with: the tokenizer's `eos_token`, or else the first end that `generation_config.json` or
    /// `config.json` names.
    pub fn end(&self) -> Option<u32> {
        let mut ends = self.ends.iter().map(|end| end.id);
        ends.find(|&id| self.has_embedding(id))
    }

    /// Returns true if blanks before punctuation go when tokens become text.
    pub(crate) fn cleans_up(&self) -> bool {
        self.cleans_up
    }

    /// Returns true if a token ends texts.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.iter().any(|end| end.id == id)
    }

    /// Encodes texts, or pairs of texts, with special tokens, to at most `max_length` tokens each.
    ///
    /// A pair that is too long loses tokens from the end of the longer text until both are equally long, then from both. This is "longest
    /// first", with the same lengths as transformers' fast tokenizers.
    ///
    /// # Errors
    /// [`Error::MaxLength`] if the special tokens alone fill `max_length`. [`Error::TokenBeyondVocabulary`] or [`Error::TokenType`] for a
    /// text that becomes what the model does not have, where the model is known.
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
    /// [`Error::Tokenizer`] if the tokenizer refuses a text; [`Error::TokenBeyondVocabulary`] for a token that the model does not have, where
    /// the model is known.
    pub fn encode_plain(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        let encoded = self.without_special_tokens(texts.iter().copied())?;
        encoded
            .iter()
            .map(|e| self.known(e.get_ids().to_vec()))
            .collect()
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
        self.encode_all(texts.collect(), |tokenizer, text| {
            tokenizer.encode_fast(text, false)
        })
    }

    /// Encodes texts by all threads, each apart: a panic in one is an error.
    fn encode_all(
        &self,
        texts: Vec<&str>,
        encode: impl Fn(&Tokenizer, &str) -> tokenizers::Result<Encoding> + Sync,
    ) -> Result<Vec<Encoding>> {
        let encoded = texts.into_par_iter();
        encoded
            .map(|text| {
                self.contained(|tokenizer| {
                    self.backtracking.check(tokenizer, text)?;
                    encode(tokenizer, text)
                })
            })
            .collect()
    }

    /// Calls the crate and turns its error or panic into a result.
    fn contained<T>(&self, work: impl FnOnce(&Tokenizer) -> tokenizers::Result<T>) -> Result<T> {
        match contain(|| work(&self.tokenizer)) {
            Ok(done) => done.map_err(|error| self.unusable(error)),
            Err(panic) => Err(self.unusable(fell(&panic))),
        }
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
            direction: self.truncates,
            ..TruncationParams::default()
        };
        let (mut first, mut second) =
            truncate_encodings(first, second, &params).map_err(|error| self.unusable(error))?;
        first.take_overflowing();
        if let Some(second) = &mut second {
            second.take_overflowing();
            second.set_type_ids(vec![1; second.len()]);
        }
        let whole = self.contained(|tokenizer| tokenizer.post_process(first, second, true))?;
        Ok(Encoded {
            ids: self.known(whole.get_ids().to_vec())?,
            type_ids: self.types(whole.get_type_ids())?,
            truncated: length > room,
        })
    }

    /// Token ids, if the model has them all.
    fn known(&self, ids: Vec<u32>) -> Result<Vec<u32>> {
        match (
            self.vocab_size,
            ids.iter().find(|id| !self.has_embedding(**id)),
        ) {
            (None, _) | (_, None) => Ok(ids),
            (Some(vocab_size), Some(&id)) => Err(Error::TokenBeyondVocabulary {
                file: self.file.clone(),
                token: self.tokenizer.id_to_token(id).unwrap_or_default(),
                id,
                vocab_size,
            }),
        }
    }

    /// Token types, if the model has them all.
    fn types(&self, types: &[u32]) -> Result<Vec<u32>> {
        if !self.gives_types {
            return Ok(vec![0; types.len()]);
        }
        let highest = types.iter().copied().max().unwrap_or(0);
        match self.token_types {
            Some(known) if highest as usize >= known => Err(Error::TokenType {
                file: self.file.clone(),
                found: highest,
                type_vocab_size: known,
            }),
            _ => Ok(types.to_vec()),
        }
    }

    /// The text of token ids, without special tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the file's decoder cannot do it.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let text = self.contained(|tokenizer| tokenizer.decode(ids, true))?;
        Ok(if self.cleans_up { cleaned(text) } else { text })
    }

    /// The text of token ids with that of special tokens.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_with_special_tokens(&self, ids: &[u32]) -> Result<String> {
        self.contained(|tokenizer| tokenizer.decode(ids, false))
    }

    /// The effect of a token in `decode`.
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

    /// Checks that the model has an embedding for every token that texts become. A token that was added to the vocabulary (for padding, say)
    /// comes up only where a text spells it, and is checked there.
    ///
    /// # Errors
    /// [`Error::TokenizerDoesNotFit`] naming the token with the largest id.
    pub fn check_fits(&self, vocab_size: usize) -> Result<()> {
        if (self.largest_id as usize) < vocab_size {
            return Ok(());
        }
        let beyond = |id: u32| id as usize >= vocab_size;
        let added = self.tokenizer.get_added_vocabulary().get_vocab();
        let mut words = self.tokenizer.get_vocab(false).into_iter();
        let words = words.any(|(token, id)| beyond(id) && !added.contains_key(&token));
        let (front, behind) = self.frame()?;
        if !words && !front.into_iter().chain(behind).any(beyond) {
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

/// The tokenizer of the first file that is there, before any setting, and the file's name.
fn read(files: &ModelFiles, settings: &TokenizerSettings) -> Result<(Tokenizer, &'static str)> {
    if files.contains(WHOLE) {
        let bytes = files.read(WHOLE)?;
        let unusable = |problem: String| unusable(&files.describe(WHOLE), problem);
        let tokenizer =
            Tokenizer::from_bytes(&*bytes).map_err(|error| unusable(error.to_string()))?;
        check::added_tokens(&tokenizer, &bytes).map_err(unusable)?;
        return Ok((tokenizer, WHOLE));
    }
    let merged = files.contains(VOCAB) && files.contains(MERGES);
    match settings.class {
        TokenizerClass::Bert if files.contains(WORDS) => {
            Ok((word_piece::from_files(files, settings)?, WORDS))
        }
        TokenizerClass::Gpt2 if merged => Ok((byte_level::gpt2(files, settings)?, VOCAB)),
        TokenizerClass::Roberta if merged => Ok((byte_level::roberta(files, settings)?, VOCAB)),
        TokenizerClass::Bert => Err(files.no_file(&format!("{WHOLE} or {WORDS}"))),
        _ if settings.model_type.is_none()
            || matches!(
                settings.class,
                TokenizerClass::Gpt2 | TokenizerClass::Roberta
            ) =>
        {
            Err(files.no_file(&format!("{WHOLE}, and not both {VOCAB} and {MERGES}")))
        }
        _ => Err(files.no_file(&format!(
            "{WHOLE}, and other files are not read for a model of type {:?}{}",
            settings.model_type.as_deref().unwrap_or_default(),
            conversion(files)
        ))),
    }
}

/// How a SentencePiece file becomes one that is read.
fn conversion(files: &ModelFiles) -> String {
    let mut known = SENTENCE_PIECE.into_iter();
    let found = known.find(|name| files.contains(name));
    found.map_or_else(String::new, |name| {
        format!(
            "; transformers makes it of {name}: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        )
    })
}

/// A panic of the crate, for a reader.
fn fell(panic: &str) -> String {
    format!("the tokenizers crate fell over it: {panic}")
}

fn unusable(file: &str, problem: impl ToString) -> Error {
    Error::Tokenizer {
        file: file.to_owned(),
        problem: problem.to_string(),
    }
}

/// Text without the blanks that come of words put side by side, as transformers cleans it up.
fn cleaned(text: String) -> String {
    let parts = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    parts
        .iter()
        .fold(text, |text, (from, to)| text.replace(from, to))
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

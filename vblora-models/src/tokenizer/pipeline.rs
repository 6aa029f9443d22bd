//! A tokenizer as transformers makes it of its file: the settings of `tokenizer_config.json` override those of `tokenizer.json`.
//!
//! Transformers 5 builds the tokenizers of some classes anew around the file's vocabulary. Here a file keeps every part that its class has
//! no setting for (GPT-2's class with digits apart, as SmolLM2 was trained with).

use serde_json::{Value, json};
use tokenizers::decoders::{
    DecoderWrapper, byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence as Decoders,
    strip::Strip,
};
use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::{BertNormalizer, NormalizerWrapper, Replace};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Model, Tokenizer};

use crate::config::{TokenizerClass, TokenizerSettings};
use crate::notice;

/// SentencePiece's character for a blank.
const BLANK: &str = "▁";

/// A tokenizer and the names of the files that it comes from, for messages.
pub(super) struct Pipeline<'a> {
    pub(super) tokenizer: &'a mut Tokenizer,
    pub(super) settings: &'a TokenizerSettings,
    /// `tokenizer.json`, or the vocabulary.
    pub(super) file: &'a str,
    /// True if it is a vocabulary.
    pub(super) is_vocabulary: bool,
    /// `tokenizer_config.json`.
    pub(super) config: &'a str,
}

impl Pipeline<'_> {
    /// Applies the settings and adds the special tokens; `pad` is the file's token of padding.
    pub(super) fn complete(mut self, pad: Option<String>) -> Result<(), String> {
        let is_bpe = matches!(self.tokenizer.get_model(), ModelWrapper::BPE(_));
        let is_word_piece = matches!(self.tokenizer.get_model(), ModelWrapper::WordPiece(_));
        match self.settings.class {
            TokenizerClass::Bert if is_word_piece => {
                self.name_unknown();
                self.normalize_as_bert();
            }
            TokenizerClass::Roberta | TokenizerClass::Gpt2 if is_bpe => self.prefix_byte_level(),
            TokenizerClass::Llama if is_bpe => self.prefix_pieces()?,
            _ => self.say_ignored(),
        }
        self.add_tokens(pad);
        match self.settings.class {
            TokenizerClass::Bert if is_word_piece => self.frame_as_bert(),
            TokenizerClass::Roberta if is_bpe => self.frame_as_roberta(),
            _ => self.frame_by_flags(),
        }
    }

    /// The token of words that WordPiece does not know.
    fn name_unknown(&mut self) {
        let ModelWrapper::WordPiece(model) = self.tokenizer.get_model() else {
            return;
        };
        let Some(token) = self.settings.token("unk_token") else {
            return;
        };
        if token.content != model.unk_token && model.token_to_id(&token.content).is_some() {
            let mut model = model.clone();
            model.unk_token.clone_from(&token.content);
            self.tokenizer.with_model(model);
        }
    }

    fn normalize_as_bert(&mut self) {
        let settings = self.settings;
        let (lower, chinese) = (
            settings.do_lower_case.unwrap_or(true),
            settings.tokenize_chinese_chars.unwrap_or(true),
        );
        let accents = settings.strip_accents;
        let new = BertNormalizer::new(true, chinese, accents, lower);
        let old = self.tokenizer.get_normalizer();
        if json(&old) == json(&Some(new)) {
            return;
        }
        if old.is_some() {
            let accents = accents.map_or("unset".to_owned(), |strip| strip.to_string());
            notice::once(format!(
                "{}: its normalizer gives way to {}, as in transformers: do_lower_case {lower}, strip_accents {accents}, tokenize_chinese_chars {chinese}",
                self.file, self.config
            ));
        }
        self.tokenizer
            .with_normalizer(Some(NormalizerWrapper::BertNormalizer(new)));
    }

    /// Puts a blank before the first word of byte-level BPE, or does not.
    fn prefix_byte_level(&mut self) {
        let wanted = self.settings.add_prefix_space.unwrap_or(false);
        let Some(old) = self.tokenizer.get_pre_tokenizer() else {
            return;
        };
        let mut changed = false;
        let new = with_byte_level(old, &mut |byte_level| {
            changed |= byte_level.add_prefix_space != wanted;
            byte_level.add_prefix_space(wanted)
        });
        if changed {
            self.say_overridden("add_prefix_space", wanted);
            self.tokenizer.with_pre_tokenizer(Some(new));
        }
    }

    /// Adds the blank that a Llama's text begins with.
    fn prefix_pieces(&mut self) -> Result<(), String> {
        let normalizer = json(&self.tokenizer.get_normalizer());
        let pre_tokenizer = self.tokenizer.get_pre_tokenizer();
        let prepends = normalizer == prepending() && pre_tokenizer.is_none();
        let is_metaspace = normalizer.is_null()
            && matches!(pre_tokenizer, Some(PreTokenizerWrapper::Metaspace(_)));
        if !prepends && !is_metaspace {
            self.say_ignored();
            return Ok(());
        }
        let scheme = match (self.settings.add_prefix_space, self.settings.legacy) {
            (Some(false), _) => PrependScheme::Never,
            (_, Some(true)) => PrependScheme::Always,
            (_, _) => PrependScheme::First,
        };
        let mut decoders = vec![
            DecoderWrapper::Replace(Replace::new(BLANK, " ").map_err(|e| e.to_string())?),
            DecoderWrapper::ByteFallback(ByteFallback::new()),
            DecoderWrapper::Fuse(Fuse::new()),
        ];
        if scheme != PrependScheme::Never {
            decoders.push(DecoderWrapper::Strip(Strip::new(' ', 1, 0)));
        }
        self.tokenizer
            .with_normalizer(None::<NormalizerWrapper>)
            .with_pre_tokenizer(Some(Metaspace::new('▁', scheme, false)))
            .with_decoder(Some(Decoders::new(decoders)));
        Ok(())
    }

    /// Adds the tokens that the side files name. Those that the vocabulary has keep their ids, others get the next ones.
    fn add_tokens(&mut self, pad: Option<String>) {
        let split = self.settings.split_special_tokens;
        self.tokenizer.set_encode_special_tokens(split);
        let is_named = |token: &AddedToken| {
            let mut named = self.settings.named.iter();
            named.any(|(_, known)| known.content == token.content)
        };
        let listed = self.settings.added.values();
        let listed: Vec<AddedToken> = listed
            .map(|token| token.clone().special(token.special || is_named(token)))
            .collect();
        self.tokenizer.add_tokens(&listed);
        let named = self.settings.named.iter().filter(|(name, token)| {
            // A default that the vocabulary does not have stays text, where transformers would give it an id beyond the model's.
            !self.settings.class.is_default(name, &token.content)
                || self.tokenizer.token_to_id(&token.content).is_some()
        });
        let named: Vec<&AddedToken> = named.map(|(_, token)| token).collect();
        let pad = pad.map(|token| AddedToken::from(token, true));
        for token in named.into_iter().chain(&self.settings.extra).chain(&pad) {
            let known = self.tokenizer.get_added_vocabulary().get_vocab();
            if !known.contains_key(&token.content) {
                self.tokenizer.add_tokens(&[token.clone().special(true)]);
            }
        }
    }

    fn frame_as_bert(&mut self) -> Result<(), String> {
        let Some((cls, sep)) = self.frame() else {
            return Ok(());
        };
        let (first, last) = (&cls.0, &sep.0);
        let frame = TemplateProcessing::builder()
            .try_single(vec![
                format!("{first}:0"),
                "$A:0".into(),
                format!("{last}:0"),
            ])?
            .try_pair(vec![
                format!("{first}:0"),
                "$A:0".into(),
                format!("{last}:0"),
                "$B:1".into(),
                format!("{last}:1"),
            ])?
            .special_tokens(vec![cls.clone(), sep.clone()])
            .build()
            .map_err(|error| error.to_string())?;
        self.tokenizer
            .with_post_processor(Some(PostProcessorWrapper::Template(frame)));
        Ok(())
    }

    fn frame_as_roberta(&mut self) -> Result<(), String> {
        let is_byte_level = has_byte_level(self.tokenizer.get_pre_tokenizer());
        if let Some((cls, sep)) = self.frame().filter(|_| is_byte_level) {
            let frame = RobertaProcessing::new(sep, cls)
                .trim_offsets(self.settings.trim_offsets.unwrap_or(true))
                .add_prefix_space(self.settings.add_prefix_space.unwrap_or(false));
            self.tokenizer.with_post_processor(Some(frame));
        }
        Ok(())
    }

    /// `add_bos_token` and `add_eos_token`, which count for a tokenizer that was made of its vocabulary. `tokenizer.json` says it itself.
    fn frame_by_flags(&mut self) -> Result<(), String> {
        let token = |name, wanted: Option<bool>| {
            let token = self.settings.token(name).filter(|_| wanted == Some(true));
            token.map(|token| token.content.clone())
        };
        let begin = token("bos_token", self.settings.add_bos_token);
        let end = token("eos_token", self.settings.add_eos_token);
        if !self.is_vocabulary || (begin.is_none() && end.is_none()) {
            return Ok(());
        }
        let part = |text: &str, kind: u8| {
            let begin = begin.iter().map(move |token| format!("{token}:{kind}"));
            let end = end.iter().map(move |token| format!("{token}:{kind}"));
            begin.chain([format!("${text}:{kind}")]).chain(end)
        };
        let ids = begin.iter().chain(&end);
        let ids = ids.filter_map(|token| Some((token.clone(), self.tokenizer.token_to_id(token)?)));
        let frame = TemplateProcessing::builder()
            .try_single(part("A", 0).collect::<Vec<_>>())?
            .try_pair(part("A", 0).chain(part("B", 1)).collect::<Vec<_>>())?
            .special_tokens(ids.collect::<Vec<_>>())
            .build()
            .map_err(|error| error.to_string())?;
        self.tokenizer
            .with_post_processor(Some(PostProcessorWrapper::Template(frame)));
        Ok(())
    }

    /// The tokens before a text and after it, with their ids.
    fn frame(&self) -> Option<((String, u32), (String, u32))> {
        let token = |name| {
            let token = &self.settings.token(name)?.content;
            Some((token.clone(), self.tokenizer.token_to_id(token)?))
        };
        Some((token("cls_token")?, token("sep_token")?))
    }

    /// Says which settings have no effect because the tokenizer's class does not look at them.
    fn say_ignored(&self) {
        let mut prefixes = None;
        if let Some(pre_tokenizer) = self.tokenizer.get_pre_tokenizer() {
            let _same = with_byte_level(pre_tokenizer, &mut |byte_level| {
                prefixes = Some(byte_level.add_prefix_space);
                byte_level
            });
        }
        let lowers = match self.tokenizer.get_normalizer() {
            Some(NormalizerWrapper::BertNormalizer(bert)) => Some(bert.lowercase),
            _ => None,
        };
        for (field, said, found) in [
            ("add_prefix_space", self.settings.add_prefix_space, prefixes),
            ("do_lower_case", self.settings.do_lower_case, lowers),
        ] {
            if let (Some(said), Some(found)) = (said, found)
                && said != found
            {
                notice::once(format!(
                    "{}: field {field:?}: {said} is not used: {} has {found}, and the tokenizer's class takes it as it is, as in transformers",
                    self.config, self.file
                ));
            }
        }
    }

    fn say_overridden(&self, field: &str, wanted: bool) {
        notice::once(format!(
            "{}: {field} is {}, but {} has {wanted}, which counts, as in transformers",
            self.file, !wanted, self.config
        ));
    }
}

/// `[Prepend(▁), Replace( , ▁)]`: Llama's normalizer in files of transformers 4.
fn prepending() -> Value {
    json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": BLANK},
        {"type": "Replace", "pattern": {"String": " "}, "content": BLANK},
    ]})
}

fn json(part: &Option<impl serde::Serialize>) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}

fn has_byte_level(pre_tokenizer: Option<&PreTokenizerWrapper>) -> bool {
    let mut found = false;
    if let Some(pre_tokenizer) = pre_tokenizer {
        let _same = with_byte_level(pre_tokenizer, &mut |byte_level| {
            found = true;
            byte_level
        });
    }
    found
}

/// A pre-tokenizer with its byte-level parts changed.
fn with_byte_level(
    pre_tokenizer: &PreTokenizerWrapper,
    change: &mut dyn FnMut(ByteLevel) -> ByteLevel,
) -> PreTokenizerWrapper {
    match pre_tokenizer {
        PreTokenizerWrapper::ByteLevel(byte_level) => {
            PreTokenizerWrapper::ByteLevel(change(*byte_level))
        }
        PreTokenizerWrapper::Sequence(parts) => {
            let parts = parts.as_ref().iter();
            let parts = parts.map(|part| with_byte_level(part, change)).collect();
            PreTokenizerWrapper::Sequence(Sequence::new(parts))
        }
        other => other.clone(),
    }
}

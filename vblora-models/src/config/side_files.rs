//! Reads the files beside `tokenizer.json` and `config.json` that describe a tokenizer, in the order of transformers 5.
//!
//! `tokenizer_config.json` comes first. If it has no `added_tokens_decoder`, `special_tokens_map.json` overrides its special tokens and
//! `added_tokens.json` names further ones. The tokenizer's class has a default for everything else.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;

use super::{FILE, Family, fields::Fields, tokens::read, wrong};
use crate::{ModelFiles, Result};

pub(super) const TOKENIZER: &str = "tokenizer_config.json";
const SPECIAL_MAP: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";
/// The names that transformers has for special tokens.
const SPECIAL: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];
const DECODER: &str = "added_tokens_decoder";

/// The class of transformers that a tokenizer belongs to, which decides what its settings and its defaults are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenizerClass {
    /// WordPiece with `[CLS]` and `[SEP]`.
    Bert,
    /// Byte-level BPE with `<s>` and `</s>`.
    Roberta,
    /// Byte-level BPE with `<|endoftext|>`.
    Gpt2,
    /// BPE over text whose blanks are `▁`, one of them in front.
    Llama,
    /// BPE over text whose blanks are `▁`.
    Gemma,
    /// Whatever `tokenizer.json` describes.
    AsFile,
}

/// The settings of a tokenizer from its side files.
#[derive(Debug, Clone)]
pub(crate) struct TokenizerSettings {
    /// Its class.
    pub(crate) class: TokenizerClass,
    /// `model_type` of `config.json`.
    pub(crate) model_type: Option<String>,
    /// Special tokens by name (`bos_token`): those of [`SPECIAL`] first, then a model's own.
    pub(crate) named: Vec<(String, AddedToken)>,
    /// Special tokens without a name.
    pub(crate) extra: Vec<AddedToken>,
    /// Tokens that `added_tokens_decoder` or `added_tokens.json` lists, by their ids there.
    pub(crate) added: BTreeMap<u32, AddedToken>,
    /// BERT: true if text is lower-cased.
    pub(crate) do_lower_case: Option<bool>,
    /// BERT: true if accents are removed. The default is that of lower-casing.
    pub(crate) strip_accents: Option<bool>,
    /// BERT: true if each Chinese character is a word.
    pub(crate) tokenize_chinese_chars: Option<bool>,
    /// True if a blank is put before the text.
    pub(crate) add_prefix_space: Option<bool>,
    /// RoBERTa: true if offsets leave blanks out.
    pub(crate) trim_offsets: Option<bool>,
    /// Llama: true if the blank comes before every piece of text between special tokens, not only the first.
    pub(crate) legacy: Option<bool>,
    /// True if texts begin with `bos_token`.
    pub(crate) add_bos_token: Option<bool>,
    /// True if texts end with `eos_token`.
    pub(crate) add_eos_token: Option<bool>,
    /// True if blanks before punctuation go when tokens become text.
    pub(crate) clean_up: bool,
    /// True if special tokens in a text are text.
    pub(crate) split_special_tokens: bool,
    /// True if long texts lose their beginning.
    pub(crate) truncates_left: Option<bool>,
    /// The names of the model's inputs, `token_type_ids` perhaps among them.
    pub(crate) inputs: Option<Vec<String>>,
}

impl TokenizerClass {
    /// The class by its name in `tokenizer_config.json`.
    fn from_name(name: &str) -> Self {
        match name.strip_suffix("Fast").unwrap_or(name) {
            "BertTokenizer" | "DistilBertTokenizer" | "ElectraTokenizer" => Self::Bert,
            "RobertaTokenizer" => Self::Roberta,
            "GPT2Tokenizer" => Self::Gpt2,
            "LlamaTokenizer" => Self::Llama,
            "GemmaTokenizer" => Self::Gemma,
            _ => Self::AsFile,
        }
    }

    /// The class that transformers has for a kind of model, and one that files name only where this is not fixed.
    fn of(model_type: Option<&str>, named: Option<&str>) -> Self {
        match (model_type, named) {
            (Some("mistral"), _) => Self::AsFile,
            (_, Some(named)) => Self::from_name(named),
            (Some("gpt2"), None) => Self::Gpt2,
            (Some("gemma"), None) => Self::Gemma,
            (Some(encoder), None) => {
                Family::from_model_type(encoder).map_or(Self::AsFile, Self::of_encoder)
            }
            (None, None) => Self::AsFile,
        }
    }

    fn of_encoder(family: Family) -> Self {
        match family {
            Family::Bert | Family::DistilBert | Family::Electra => Self::Bert,
            Family::Roberta => Self::Roberta,
            Family::XlmRoberta | Family::ModernBert | Family::DebertaV2 => Self::AsFile,
        }
    }

    /// Returns true if a special token is the class's own.
    pub(crate) fn is_default(self, name: &str, token: &str) -> bool {
        self.defaults().contains(&(name, token))
    }

    /// The special tokens of the class where files name none.
    fn defaults(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Bert => &[
                ("unk_token", "[UNK]"),
                ("sep_token", "[SEP]"),
                ("pad_token", "[PAD]"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Self::Roberta => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("sep_token", "</s>"),
                ("pad_token", "<pad>"),
                ("cls_token", "<s>"),
                ("mask_token", "<mask>"),
            ],
            Self::Gpt2 => &[
                ("bos_token", "<|endoftext|>"),
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
            ],
            Self::Llama => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
            ],
            Self::Gemma => &[
                ("bos_token", "<bos>"),
                ("eos_token", "<eos>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Self::AsFile => &[],
        }
    }
}

/// Special tokens by name; a name whose token is none has no default either.
type Named = Vec<(String, Option<AddedToken>)>;

impl TokenizerSettings {
    /// Reads the side files. Those that are not there say nothing.
    ///
    /// # Errors
    /// [`Error::Json`](crate::Error::Json) or [`Error::Config`](crate::Error::Config) for a file or field of another form.
    pub(crate) fn from_files(files: &ModelFiles) -> Result<Self> {
        let (model_type, of_model) = read(files, FILE, |fields| {
            Ok((
                fields.text_or_none("model_type")?,
                fields.text_or_none("tokenizer_class")?,
            ))
        })?;
        let has_merges = files.contains("merges.txt") && !files.contains("tokenizer.json");
        let (mut settings, mut named, lists_added) = read(files, TOKENIZER, |fields| {
            let class = fields.text_or_none("tokenizer_class")?.or(of_model);
            let mut class = TokenizerClass::of(model_type.as_deref(), class.as_deref());
            // Llama-3 and its kind: files often name the class of Llama-2.
            if class == TokenizerClass::Llama && is_byte_level(files) {
                class = TokenizerClass::AsFile;
            }
            // A folder that does not say what it is, with the files of RoBERTa.
            if class == TokenizerClass::AsFile && model_type.is_none() && has_merges {
                class = TokenizerClass::Roberta;
            }
            let settings = Self::read(fields, class, model_type)?;
            Ok((settings, named_tokens(fields)?, fields.mentions(DECODER)))
        })?;
        if !lists_added {
            read(files, SPECIAL_MAP, |fields| {
                for (name, token) in named_tokens(fields)? {
                    named.retain(|(known, _)| *known != name);
                    named.push((name, token));
                }
                settings.extra.extend(extra_tokens(fields)?);
                Ok(())
            })?;
            settings.added = read(files, ADDED, |fields| settings.listed(fields, &named))?;
        }
        settings.named = settings.class.complete(named, &settings.added);
        Ok(settings)
    }

    fn read(
        fields: &Fields<'_>,
        class: TokenizerClass,
        model_type: Option<String>,
    ) -> Result<Self> {
        let side = fields.text_or_none("truncation_side")?;
        if fields.has("auto_map") {
            fields.ignore("auto_map", "a tokenizer's own code is not run");
        }
        Ok(Self {
            class,
            model_type,
            named: Vec::new(),
            extra: extra_tokens(fields)?,
            added: decoder(fields)?,
            do_lower_case: fields.flag("do_lower_case")?,
            strip_accents: fields.flag("strip_accents")?,
            tokenize_chinese_chars: fields.flag("tokenize_chinese_chars")?,
            add_prefix_space: fields.flag("add_prefix_space")?,
            trim_offsets: fields.flag("trim_offsets")?,
            legacy: fields.flag("legacy")?,
            add_bos_token: fields.flag("add_bos_token")?,
            add_eos_token: fields.flag("add_eos_token")?,
            clean_up: fields.flag_or("clean_up_tokenization_spaces", false)?,
            split_special_tokens: fields.flag_or("split_special_tokens", false)?,
            truncates_left: side.map(|side| side == "left"),
            inputs: match fields.has("model_input_names") {
                true => Some(fields.texts("model_input_names")?),
                false => None,
            },
        })
    }

    /// The tokens of `added_tokens.json`, which has ids by token.
    fn listed(
        &self,
        fields: &Fields<'_>,
        named: &[(String, Option<AddedToken>)],
    ) -> Result<BTreeMap<u32, AddedToken>> {
        let is_named = |token: &str| {
            let mut known = named.iter().filter_map(|(_, token)| token.as_ref());
            known.any(|known| known.content == token)
        };
        let is_extra = |token: &str| self.extra.iter().any(|known| known.content == token);
        let names = fields.names().map(str::to_owned).collect::<Vec<_>>();
        let listed = names.into_iter().map(|token| {
            let missing = || {
                wrong(
                    fields.file,
                    &token,
                    "expected a token id, found null".into(),
                )
            };
            let id = fields.id(&token)?.ok_or_else(missing)?;
            let special = is_named(&token) || is_extra(&token);
            Ok((id, AddedToken::from(token, special)))
        });
        listed.collect()
    }

    /// A special token by its name.
    pub(crate) fn token(&self, name: &str) -> Option<&AddedToken> {
        let found = self.named.iter().find(|(known, _)| known == name);
        found.map(|(_, token)| token)
    }
}

impl TokenizerClass {
    /// The tokens that files name, in the order of [`SPECIAL`], with the defaults of the class.
    fn complete(
        self,
        named: Named,
        added: &BTreeMap<u32, AddedToken>,
    ) -> Vec<(String, AddedToken)> {
        let order = |name: &str| SPECIAL.iter().position(|known| *known == name);
        let missing = self.defaults().iter().filter(|(name, _)| {
            // RoBERTa's mask stands for a word and the blank before it, as in transformers 4.
            !named.iter().any(|(known, _)| known == name)
        });
        let default = |&(name, token): &(&str, &str)| {
            let lstrip = self == Self::Roberta && name == "mask_token";
            let token = AddedToken::from(token, true).lstrip(lstrip);
            (name.to_owned(), token)
        };
        let missing: Vec<_> = missing.map(default).collect();
        let said = named
            .into_iter()
            .filter_map(|(name, token)| Some((name, token?)));
        let described = |(name, token): (String, AddedToken)| {
            let known = added.values().find(|known| known.content == token.content);
            let token = known.map_or(token, |known| known.clone().special(true));
            (name, token)
        };
        let mut all: Vec<_> = said.chain(missing).map(described).collect();
        all.sort_by_key(|(name, _)| order(name).unwrap_or(SPECIAL.len()));
        all
    }
}

/// Returns true if `tokenizer.json` is of byte-level BPE.
fn is_byte_level(files: &ModelFiles) -> bool {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Parts {
        pre_tokenizer: Value,
        decoder: Value,
    }
    // A file that cannot be read is an error where it is.
    let bytes = files.read("tokenizer.json").unwrap_or_default();
    let parts: Parts = serde_json::from_slice(&bytes).unwrap_or_default();
    [parts.pre_tokenizer, parts.decoder]
        .iter()
        .any(|part| part.to_string().contains("\"ByteLevel\""))
}

/// The fields that name a special token, a model's own (`image_token`) among them.
fn named_tokens(fields: &Fields<'_>) -> Result<Named> {
    let is_own = |name: &str| {
        let is_token = |value: &Value| value.is_string() || value.get("content").is_some();
        name.ends_with("_token") && fields.value(name).is_some_and(is_token)
    };
    let names = fields
        .names()
        .filter(|name| SPECIAL.contains(name) || is_own(name));
    names
        .map(|name| {
            let token = fields
                .value(name)
                .map(|value| token(fields, name, value, true));
            Ok((name.to_owned(), token.transpose()?))
        })
        .collect()
}

/// Special tokens without a name: a list, or an object of a model's own names.
fn extra_tokens(fields: &Fields<'_>) -> Result<Vec<AddedToken>> {
    for name in ["extra_special_tokens", "additional_special_tokens"] {
        let values: Vec<&Value> = match fields.value(name) {
            None => continue,
            Some(Value::Array(values)) if values.is_empty() => continue,
            Some(Value::Array(values)) => values.iter().collect(),
            Some(Value::Object(values)) => values.values().collect(),
            Some(other) => {
                let problem = format!("expected a list of tokens, found {other}");
                return Err(wrong(fields.file, name, problem));
            }
        };
        let tokens = values
            .into_iter()
            .map(|value| token(fields, name, value, true));
        return tokens.collect();
    }
    Ok(Vec::new())
}

/// `added_tokens_decoder`: tokens by id.
fn decoder(fields: &Fields<'_>) -> Result<BTreeMap<u32, AddedToken>> {
    let Some(inner) = fields.object(DECODER)? else {
        return Ok(BTreeMap::new());
    };
    let entries = inner.names().filter_map(|id| Some((id, inner.value(id)?)));
    entries
        .map(|(id, value)| {
            let number = id.parse().map_err(|_| {
                let problem = format!("expected token ids as keys, found {id:?}");
                wrong(fields.file, DECODER, problem)
            })?;
            let special = value.get("special").and_then(Value::as_bool);
            let token = token(fields, DECODER, value, special.unwrap_or(false))?;
            Ok((number, token))
        })
        .collect()
}

/// A token, as its text or as an object with the text in `content`.
fn token(fields: &Fields<'_>, name: &str, value: &Value, special: bool) -> Result<AddedToken> {
    let content = value.as_str().or_else(|| value.get("content")?.as_str());
    let Some(content) = content else {
        let problem = format!("expected a token, found {value}");
        return Err(wrong(fields.file, name, problem));
    };
    let flag = |flag: &str, default| value.get(flag).and_then(Value::as_bool).unwrap_or(default);
    let token = AddedToken::from(content, special);
    let normalized = flag("normalized", token.normalized);
    Ok(token
        .single_word(flag("single_word", false))
        .lstrip(flag("lstrip", false))
        .rstrip(flag("rstrip", false))
        .normalized(normalized))
}

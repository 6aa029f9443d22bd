//! `config.json` of the encoders (RoBERTa, and BERT by other settings) and, in `decoder.rs`, of the decoders.

mod checks;
mod decoder;
mod family;
mod fields;
mod generation;
mod presets;
mod quantization;
mod side_files;
mod tokens;

pub(crate) use decoder::QK_NORMS;
pub use decoder::{
    AttentionScale, DecoderConfig, DecoderFamily, EmbeddingScale, LayerSet, Layout, Mlp, NormForm,
    QkNorm, RopeScaling, RotaryConfig,
};
pub use family::{ClassifierNames, Family, Positions};
pub use generation::GenerationDefaults;
pub(crate) use side_files::{TokenizerClass, TokenizerSettings};
pub use tokens::stop_tokens;
pub(crate) use tokens::{End, chat_template, ends, special_tokens};

use fields::Fields;
use serde_json::json;

use crate::{BaseDtype, Error, ModelFiles, Result};

const FILE: &str = "config.json";
const SUPPORTED: &str = "\"roberta\" and \"bert\"";
/// Over any published encoder (XLM-R XXL has width 4,096 and 48 layers); stops sizes that are typing errors.
pub const MAX_WIDTH: usize = 1 << 16;
/// The most layers.
pub const MAX_LAYERS: usize = 1 << 10;
/// The most rows of a table: words, positions, types.
pub const MAX_ROWS: usize = 1 << 24;
/// Values of the largest single weight, 4 GiB in f32: a wrong size is refused before it is allocated.
pub const MAX_WEIGHT_VALUES: usize = 1 << 30;

/// The non-linearity between the two linear maps of a feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x Φ(x)` with the exact normal distribution function (`gelu`).
    Gelu,
    /// Its approximation by tanh (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// `max(x, 0)` (`relu`).
    Relu,
}

/// Sizes and settings of an encoder. Checked: see [`EncoderConfig::check`].
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    /// RoBERTa or BERT.
    pub family: Family,
    /// Width of a token's representation.
    pub hidden_size: usize,
    /// Number of transformer blocks.
    pub num_layers: usize,
    /// Attention heads per block; divides `hidden_size`.
    pub num_heads: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Rows of the position embedding; see [`EncoderConfig::usable_positions`].
    pub max_positions: usize,
    /// Rows of the token-type embedding.
    pub type_vocab_size: usize,
    /// Added to the variance in every layer norm.
    pub layer_norm_eps: f64,
    /// Non-linearity of the feed-forward blocks.
    pub activation: Activation,
    /// Dropout probability of embeddings and block outputs, in [0, 1).
    pub hidden_dropout: f64,
    /// Dropout probability of attention weights, in [0, 1).
    pub attention_dropout: f64,
    /// Dropout probability of a classification head; `hidden_dropout` if not set.
    pub classifier_dropout: Option<f64>,
    /// Token id of padding.
    pub pad_token_id: u32,
    /// Standard deviation of initial weights, for a head that is made new.
    pub initializer_range: f64,
    /// Row of the position embedding that the first token gets: 0 for BERT, `pad_token_id + 1` for RoBERTa.
    pub position_offset: usize,
    /// The number type in which weights of linear maps are held and multiplied. It is a setting of this program; `dtype` in `config.json` is the
    /// file's.
    pub base_dtype: BaseDtype,
}

impl Activation {
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            "relu" => Some(Self::Relu),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_new",
            Self::Relu => "relu",
        }
    }
}

impl EncoderConfig {
    /// Reads and checks `config.json`, as transformers 4 or 5 writes it. Fields that older files leave out
    /// (layer-norm epsilon, dropout, activation, padding id, initial range) get transformers' defaults.
    ///
    /// # Errors
    /// [`Error::OtherArchitecture`] for another `model_type`; [`Error::Config`] for a field that is
    /// missing, of the wrong type or out of range; [`Error::Json`], [`Error::NoFile`].
    pub fn from_files(files: &ModelFiles) -> Result<Self> {
        Self::from_json(&files.read(FILE)?, &files.describe(FILE))
    }

    /// Reads and checks the text of a `config.json`, as [`from_files`](Self::from_files) does; `file` is named in errors.
    ///
    /// # Errors
    /// As [`from_files`](Self::from_files).
    pub fn from_json(bytes: &[u8], file: &str) -> Result<Self> {
        let fields = Fields::parse(bytes, file)?;
        let model_type = fields.text("model_type")?;
        let family =
            Family::from_model_type(&model_type).ok_or_else(|| Error::OtherArchitecture {
                file: file.to_owned(),
                found: model_type,
                supported: SUPPORTED.to_owned(),
            })?;
        refuse_other_forms(&fields)?;
        let vocab_size = fields.count("vocab_size")?;
        let (pad_token_id, position_offset) = padding(&fields, family, vocab_size)?;
        let config = Self {
            family,
            hidden_size: fields.count("hidden_size")?,
            num_layers: fields.count("num_hidden_layers")?,
            num_heads: fields.count("num_attention_heads")?,
            intermediate_size: fields.count("intermediate_size")?,
            vocab_size,
            max_positions: fields.count("max_position_embeddings")?,
            type_vocab_size: fields.count("type_vocab_size")?,
            layer_norm_eps: fields.number_or("layer_norm_eps", 1e-12)?,
            activation: activation(&fields)?,
            hidden_dropout: fields.number_or("hidden_dropout_prob", 0.1)?,
            attention_dropout: fields.number_or("attention_probs_dropout_prob", 0.1)?,
            classifier_dropout: fields.number("classifier_dropout")?,
            pad_token_id,
            initializer_range: fields.number_or("initializer_range", 0.02)?,
            position_offset,
            base_dtype: quantization::read(&fields)?,
        };
        config.check(file)?;
        Ok(config)
    }

    /// The number of the encoder's parameters: embeddings and layers, no pooler, no head.
    pub fn parameters(&self) -> usize {
        let (d, inner) = (self.hidden_size, self.intermediate_size);
        let embeddings = (self.vocab_size + self.max_positions + self.type_vocab_size + 2) * d;
        let layer = 4 * (d + 1) * d + (d + 1) * inner + (inner + 1) * d + 4 * d;
        embeddings + self.num_layers * layer
    }

    /// Tokens that the position table has room for: `max_positions - position_offset`.
    pub fn usable_positions(&self) -> usize {
        self.max_positions.saturating_sub(self.position_offset)
    }

    /// Checks that the sizes fit together and are possible; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field at fault, as `config.json` calls it.
    pub fn check(&self, file: &str) -> Result<()> {
        self.check_sizes(file)?;
        self.check_fit(file)?;
        self.check_settings(file)
    }

    fn check_sizes(&self, file: &str) -> Result<()> {
        let sizes = [
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("intermediate_size", self.intermediate_size, MAX_WIDTH * 4),
            ("num_hidden_layers", self.num_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_heads, MAX_WIDTH),
            ("vocab_size", self.vocab_size, MAX_ROWS),
            ("max_position_embeddings", self.max_positions, MAX_ROWS),
            ("type_vocab_size", self.type_vocab_size, MAX_ROWS),
        ];
        for (field, size, limit) in sizes {
            checks::size(file, field, size, limit)?;
            checks::weight(file, field, size, self.hidden_size)?;
        }
        Ok(())
    }

    fn check_fit(&self, file: &str) -> Result<()> {
        let Self {
            hidden_size,
            num_heads,
            vocab_size,
            max_positions,
            pad_token_id,
            position_offset,
            ..
        } = *self;
        if !hidden_size.is_multiple_of(num_heads) {
            let problem =
                format!("{hidden_size} is not a multiple of num_attention_heads {num_heads}");
            return Err(wrong(file, "hidden_size", problem));
        }
        checks::token(file, "pad_token_id", pad_token_id, vocab_size)?;
        if max_positions <= position_offset {
            let problem = format!(
                "{max_positions} leaves no position, the first {position_offset} are not used for text"
            );
            return Err(wrong(file, "max_position_embeddings", problem));
        }
        Ok(())
    }

    fn check_settings(&self, file: &str) -> Result<()> {
        let dropouts = [
            ("hidden_dropout_prob", Some(self.hidden_dropout)),
            ("attention_probs_dropout_prob", Some(self.attention_dropout)),
            ("classifier_dropout", self.classifier_dropout),
        ];
        for (field, dropout) in dropouts {
            if let Some(p) = dropout {
                checks::probability(file, field, p)?;
            }
        }
        let eps = self.layer_norm_eps;
        if !(eps > 0.0 && eps < 1.0) {
            let problem = format!("expected a number between 0 and 1, found {eps}");
            return Err(wrong(file, "layer_norm_eps", problem));
        }
        let range = self.initializer_range;
        if !(range >= 0.0 && range.is_finite()) {
            let problem = format!("expected a number of at least 0, found {range}");
            return Err(wrong(file, "initializer_range", problem));
        }
        Ok(())
    }

    /// `config.json` as transformers reads it, for a masked language model with these settings.
    pub fn to_json(&self) -> String {
        let mut fields = json!({
            "architectures": [self.family.masked_lm()],
            "attention_probs_dropout_prob": self.attention_dropout,
            "classifier_dropout": self.classifier_dropout,
            "hidden_act": self.activation.name(),
            "hidden_dropout_prob": self.hidden_dropout,
            "hidden_size": self.hidden_size,
            "initializer_range": self.initializer_range,
            "intermediate_size": self.intermediate_size,
            "layer_norm_eps": self.layer_norm_eps,
            "max_position_embeddings": self.max_positions,
            "model_type": self.family.name(),
            "num_attention_heads": self.num_heads,
            "num_hidden_layers": self.num_layers,
            "pad_token_id": self.pad_token_id,
            "position_embedding_type": "absolute",
            "tie_word_embeddings": true,
            "type_vocab_size": self.type_vocab_size,
            "vocab_size": self.vocab_size,
        });
        if self.family.positions() == Positions::Tokens {
            // Positions are counted from it, also where it is -1.
            fields["pad_token_id"] = json!(self.position_offset as i64 - 1);
            // <s> and </s> of RoBERTa's vocabularies; transformers writes them for every RoBERTa.
            fields["bos_token_id"] = json!(0);
            fields["eos_token_id"] = json!(2);
        }
        format!("{fields:#}\n")
    }
}

/// Settings under which the same tensors would compute something else.
fn refuse_other_forms(fields: &Fields<'_>) -> Result<()> {
    let positions = fields.text_or("position_embedding_type", "absolute")?;
    if positions != "absolute" {
        let problem = format!("expected \"absolute\", found {positions:?}");
        return Err(wrong(fields.file, "position_embedding_type", problem));
    }
    for field in ["is_decoder", "add_cross_attention"] {
        if fields.flag_or(field, false)? {
            let problem = "expected false, found true (only encoders are supported)".to_owned();
            return Err(wrong(fields.file, field, problem));
        }
    }
    Ok(())
}

/// The token that fills rows, and the row of the position table that the first token gets.
///
/// As in transformers, -1 is no token, and RoBERTa's positions are counted from it all the same. Rows are then filled with token 0,
/// which no token sees.
fn padding(fields: &Fields<'_>, family: Family, vocab_size: usize) -> Result<(u32, usize)> {
    let field = "pad_token_id";
    let Some(id) = fields.integer(field)? else {
        let id = family.default_pad();
        return Ok((id, family.position_offset(id)));
    };
    match u32::try_from(id) {
        Ok(id) => Ok((id, family.position_offset(id))),
        Err(_) if id < 0 && id >= family.lowest_pad(vocab_size) => {
            fields.ignore(field, &format!("{id} is no token"));
            Ok((0, 0))
        }
        Err(_) => {
            let problem = format!("expected a token id, found {id}");
            Err(wrong(fields.file, field, problem))
        }
    }
}

fn activation(fields: &Fields<'_>) -> Result<Activation> {
    let name = fields.text_or("hidden_act", "gelu")?;
    Activation::from_name(&name).ok_or_else(|| {
        let problem = format!(
            "expected \"gelu\", \"gelu_new\", \"gelu_pytorch_tanh\" or \"relu\", found {name:?}"
        );
        wrong(fields.file, "hidden_act", problem)
    })
}

fn wrong(file: &str, field: &str, problem: String) -> Error {
    Error::Config {
        file: file.to_owned(),
        field: field.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// As transformers 5 writes it (and 4, but for `dtype`).
    fn roberta() -> Value {
        json!({
            "add_cross_attention": false, "architectures": ["RobertaForSequenceClassification"],
            "attention_probs_dropout_prob": 0.25, "bos_token_id": 0, "classifier_dropout": null,
            "dtype": "float32", "eos_token_id": 2, "hidden_act": "gelu", "hidden_dropout_prob": 0.5,
            "hidden_size": 64, "initializer_range": 0.125, "intermediate_size": 128, "is_decoder": false,
            "layer_norm_eps": 1e-5, "max_position_embeddings": 40, "model_type": "roberta",
            "num_attention_heads": 4, "num_hidden_layers": 2, "pad_token_id": 1, "type_vocab_size": 1,
            "use_cache": true, "vocab_size": 1000,
        })
    }

    fn read(value: &Value) -> Result<EncoderConfig> {
        EncoderConfig::from_json(value.to_string().as_bytes(), "dir/config.json")
    }

    fn with(field: &str, value: Value) -> String {
        let mut config = roberta();
        config[field] = value;
        read(&config).unwrap_err().to_string()
    }

    #[test]
    fn roberta_fields_are_read() {
        let config = read(&roberta()).unwrap();
        let expected = EncoderConfig {
            family: Family::Roberta,
            hidden_size: 64,
            num_layers: 2,
            num_heads: 4,
            intermediate_size: 128,
            vocab_size: 1000,
            max_positions: 40,
            type_vocab_size: 1,
            layer_norm_eps: 1e-5,
            activation: Activation::Gelu,
            hidden_dropout: 0.5,
            attention_dropout: 0.25,
            classifier_dropout: None,
            pad_token_id: 1,
            initializer_range: 0.125,
            position_offset: 2,
            base_dtype: BaseDtype::F32,
        };
        assert_eq!(config, expected);
        assert_eq!(config.usable_positions(), 38);
    }

    #[test]
    fn an_old_bert_gets_the_defaults() {
        let bert = json!({
            "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu_new", "hidden_size": 128,
            "intermediate_size": 512, "max_position_embeddings": 512, "model_type": "bert",
            "num_attention_heads": 2, "num_hidden_layers": 2, "type_vocab_size": 2, "vocab_size": 30522,
            "classifier_dropout": 0.3,
        });
        let config = read(&bert).unwrap();
        assert_eq!(config.family, Family::Bert);
        assert_eq!(
            (config.position_offset, config.usable_positions()),
            (0, 512)
        );
        assert_eq!((config.pad_token_id, config.layer_norm_eps), (0, 1e-12));
        assert_eq!(
            (config.hidden_dropout, config.classifier_dropout),
            (0.1, Some(0.3))
        );
        assert_eq!(config.activation, Activation::GeluTanh);
    }

    #[test]
    fn writing_and_reading_gives_the_same_settings() {
        let mut config = read(&roberta()).unwrap();
        for (family, activation) in [
            (Family::Roberta, Activation::Relu),
            (Family::Bert, Activation::GeluTanh),
        ] {
            config.family = family;
            config.activation = activation;
            config.position_offset = family.position_offset(config.pad_token_id);
            let text = config.to_json();
            assert_eq!(
                EncoderConfig::from_json(text.as_bytes(), "x").unwrap(),
                config
            );
        }
        config.family = Family::Roberta;
        assert!(config.to_json().contains("RobertaForMaskedLM"));
    }

    #[test]
    fn another_architecture_is_named() {
        for model in ["gpt2", "xlm-roberta", "distilbert"] {
            let error = with("model_type", json!(model));
            assert!(
                error.contains("dir/config.json: config of another architecture"),
                "{error}"
            );
            assert!(error.contains(model) && error.contains("\"roberta\" and \"bert\""));
        }
    }

    #[test]
    fn missing_and_wrongly_typed_fields_are_named() {
        for field in [
            "model_type",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "vocab_size",
            "max_position_embeddings",
            "type_vocab_size",
        ] {
            let mut config = roberta();
            config.as_object_mut().unwrap().remove(field);
            let error = read(&config).unwrap_err().to_string();
            assert!(
                error.contains(field) && error.contains("missing"),
                "{error}"
            );
            assert!(with(field, json!([1])).contains(&format!("field {field:?}: expected")));
        }
        for (field, value) in [
            ("hidden_size", json!(-1)),
            ("vocab_size", json!(1.5)),
            ("vocab_size", json!("1000")),
            ("layer_norm_eps", json!("small")),
            ("hidden_act", json!(3)),
            ("pad_token_id", json!(-2)),
            ("pad_token_id", json!([1])),
            ("is_decoder", json!("no")),
        ] {
            let error = with(field, value);
            assert!(
                error.contains("dir/config.json") && error.contains(field),
                "{error}"
            );
        }
    }

    /// As in transformers: RoBERTa counts positions from it, and no token is it.
    #[test]
    fn a_padding_of_minus_one_is_no_token() {
        let mut config = roberta();
        config["pad_token_id"] = json!(-1);
        let read_once = read(&config).unwrap();
        assert_eq!((read_once.pad_token_id, read_once.position_offset), (0, 0));
        let again = EncoderConfig::from_json(read_once.to_json().as_bytes(), "x").unwrap();
        assert_eq!(again, read_once);
        config["model_type"] = json!("bert");
        assert_eq!(read(&config).unwrap().position_offset, 0);
    }

    #[test]
    fn impossible_values_are_named() {
        let cases = [
            (
                "hidden_size",
                json!(66),
                "not a multiple of num_attention_heads 4",
            ),
            ("hidden_size", json!(0), "expected 1 to"),
            ("num_hidden_layers", json!(0), "expected 1 to"),
            ("type_vocab_size", json!(0), "expected 1 to"),
            ("vocab_size", json!(u64::MAX), "expected 1 to"),
            ("intermediate_size", json!(1_000_000), "expected 1 to"),
            ("hidden_act", json!("swish"), "found \"swish\""),
            (
                "position_embedding_type",
                json!("relative_key"),
                "found \"relative_key\"",
            ),
            ("is_decoder", json!(true), "only encoders"),
            (
                "pad_token_id",
                json!(1000),
                "outside the vocabulary of 1000",
            ),
            ("max_position_embeddings", json!(2), "leaves no position"),
            ("hidden_dropout_prob", json!(1.0), "[0, 1)"),
            ("classifier_dropout", json!(-0.1), "[0, 1)"),
            ("layer_norm_eps", json!(0.0), "between 0 and 1"),
            ("initializer_range", json!(-1), "at least 0"),
        ];
        for (field, value, expected) in cases {
            let error = with(field, value);
            assert!(error.contains(field) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_weight_too_large_to_allocate_is_named() {
        let mut config = roberta();
        config["hidden_size"] = json!(65536);
        config["vocab_size"] = json!(1 << 20);
        let error = read(&config).unwrap_err().to_string();
        assert!(error.contains("over the limit"), "{error}");
    }

    #[test]
    fn broken_json_is_named() {
        for text in ["", "{", "[]", "null"] {
            let error = EncoderConfig::from_json(text.as_bytes(), "d/config.json").unwrap_err();
            assert!(matches!(error, Error::Json { .. }), "{text}");
            assert!(error.to_string().contains("d/config.json"));
        }
    }

    #[test]
    #[allow(clippy::print_stderr)] // The reason for a skip.
    fn fixture_configs_of_roberta_load_and_others_are_refused() {
        let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/fixtures");
        let root = std::env::var("VBLORA_FIXTURES").unwrap_or_else(|_| default.to_owned());
        let models = std::path::Path::new(&root).join("models");
        let Ok(entries) = std::fs::read_dir(&models) else {
            eprintln!("skipped: no fixtures in {}", models.display());
            return;
        };
        for entry in entries {
            let base = entry.unwrap().path().join("base");
            let Ok(files) = ModelFiles::open(&base) else {
                continue;
            };
            let found = EncoderConfig::from_files(&files);
            match found {
                Ok(config) => assert_eq!((config.hidden_size, config.num_layers), (64, 2)),
                Err(error) => {
                    assert!(matches!(error, Error::OtherArchitecture { .. }), "{error}");
                    assert!(!base.to_string_lossy().contains("roberta"));
                }
            }
        }
    }
}

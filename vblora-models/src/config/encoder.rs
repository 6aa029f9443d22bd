//! `config.json` of the encoders to a description of features.

mod family;
mod features;
mod layout;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use family::{ClassifierNames, Family, Positions};
pub use features::{
    EncoderPositions, HeadActivation, HeadForm, Pooling, RelativeBuckets, RotaryLayers,
};
pub(crate) use layout::{EncoderLayout, FINAL_NORM, POSITION, PROJECT, RELATIVE, TOKEN_TYPE};

use super::{Activation, FILE, MAX_LAYERS, MAX_ROWS, MAX_WIDTH, checks, fields::Fields, wrong};
use crate::{BaseDtype, Checkpoint, ModelFiles, Result};

/// Sizes and settings of an encoder. Checked: see [`EncoderConfig::check`].
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    /// The kind of model.
    pub family: Family,
    /// Width of a token's representation.
    pub hidden_size: usize,
    /// Width of the embeddings, if it is not `hidden_size`. A map leads from one to the other (ELECTRA).
    pub embedding_size: Option<usize>,
    /// Number of transformer blocks.
    pub num_layers: usize,
    /// Attention heads per block; divides `hidden_size`.
    pub num_heads: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Rows of the position embedding, or the most tokens of a text; see [`EncoderConfig::usable_positions`].
    pub max_positions: usize,
    /// Rows of the token-type embedding; 0 where there is none.
    pub type_vocab_size: usize,
    /// Added to the variance in every layer norm.
    pub layer_norm_eps: f64,
    /// Non-linearity of the feed-forward blocks.
    pub activation: Activation,
    /// Dropout probability of embeddings and block outputs, in [0, 1).
    pub hidden_dropout: f64,
    /// Dropout probability of attention weights, in [0, 1).
    pub attention_dropout: f64,
    /// Dropout probability of a classification head, as the file says it. Training takes the recipe's.
    pub classifier_dropout: Option<f64>,
    /// Token id of padding.
    pub pad_token_id: u32,
    /// Standard deviation of initial weights, for a head that is made new.
    pub initializer_range: f64,
    /// Row of the position embedding that the first token gets: 0 for BERT, `pad_token_id + 1` for RoBERTa.
    pub position_offset: usize,
    /// How the model knows where a token stands.
    pub positions: EncoderPositions,
    /// True if the maps of the attention have biases.
    pub attention_bias: bool,
    /// True if the maps of the feed-forward blocks have biases.
    pub mlp_bias: bool,
    /// True if layer norms have biases.
    pub norm_bias: bool,
    /// What a classification head reads.
    pub pooling: Pooling,
    /// The function after the head's first map.
    pub head_activation: HeadActivation,
    /// True if the head's first map has a bias.
    pub head_bias: bool,
    /// True if the head's first map is a frozen part of the base, which an adapter may act on. Else it is trained with the head.
    pub head_in_base: bool,
    /// The number type in which weights of linear maps are held and multiplied. It is a setting of this program; `dtype` in `config.json` is the
    /// file's.
    pub base_dtype: BaseDtype,
}

impl EncoderConfig {
    /// Reads and checks `config.json`, as transformers 4 or 5 writes it. Fields that older files leave out
    /// (layer-norm epsilon, dropout, activation, padding id, initial range) get transformers' defaults.
    ///
    /// DeBERTa's checkpoints are looked at for the first map of the head. Published ones lack it, and a head then trains it.
    ///
    /// # Errors
    /// [`Error::OtherArchitecture`](crate::Error::OtherArchitecture) for another `model_type`;
    /// [`Error::Config`](crate::Error::Config) for a field that is missing, of the wrong type or out of range;
    /// [`Error::Json`](crate::Error::Json), [`Error::NoFile`](crate::Error::NoFile).
    pub fn from_files(files: &ModelFiles) -> Result<Self> {
        let config = Self::from_json(&files.read(FILE)?, &files.describe(FILE))?;
        let Some((head, _)) = config.layout().head.filter(|_| !config.head_in_base) else {
            return Ok(config);
        };
        // What is wrong with a checkpoint is said where it is loaded.
        let weight = format!("{head}.weight");
        let head_in_base = Checkpoint::open(files).is_ok_and(|file| file.contains(&weight));
        Ok(Self {
            head_in_base,
            ..config
        })
    }

    /// Reads and checks the text of a `config.json`, as [`from_files`](Self::from_files) does; `file` is named in errors.
    ///
    /// # Errors
    /// As [`from_files`](Self::from_files).
    pub fn from_json(bytes: &[u8], file: &str) -> Result<Self> {
        let config = read::config(&Fields::parse(bytes, file)?)?;
        config.check(file)?;
        Ok(config)
    }

    /// `config.json` as transformers reads it, for a masked language model with these settings.
    pub fn to_json(&self) -> String {
        write::json(self)
    }

    pub(crate) fn layout(&self) -> EncoderLayout {
        self.family.layout()
    }

    /// The names in transformers of the encoder with a classification head.
    pub fn classifier(&self) -> ClassifierNames {
        let names = self.family.classifier();
        match self.head_in_base {
            true => ClassifierNames {
                modules: &["classifier"],
                has_dense: false,
                ..names
            },
            false => names,
        }
    }

    /// The map of the head that would be a site if the checkpoint held it (DeBERTa's pooler). It is trained with the head.
    pub fn optional_site(&self) -> Option<&'static str> {
        let head = self.layout().head.filter(|_| !self.head_in_base);
        head.map(|(name, _)| name)
    }

    /// The form of the family's classification head.
    pub fn head_form(&self) -> HeadForm {
        HeadForm {
            activation: self.head_activation,
            has_dense: !self.head_in_base,
            drops_input: self.family.drops_head_input(),
        }
    }

    /// The number of the encoder's parameters: embeddings and layers, no pooler, no head.
    pub fn parameters(&self) -> usize {
        let (d, e, inner) = (
            self.hidden_size,
            self.embedding_width(),
            self.intermediate_size,
        );
        let layout = self.layout();
        let map = |d_in: usize, d_out: usize, has_bias| (d_in + usize::from(has_bias)) * d_out;
        let norm = |d: usize| d * (1 + usize::from(self.norm_bias));
        let positions = match self.positions {
            EncoderPositions::Learned => self.max_positions * e,
            EncoderPositions::Rotary(_) => 0,
            EncoderPositions::Relative(buckets) => buckets.rows() * d + norm(d),
        };
        let embeddings = (self.vocab_size + self.type_vocab_size) * e + norm(e) + positions;
        let project = self.embedding_size.map_or(0, |e| map(e, d, true));
        let units = if layout.gated { 2 * inner } else { inner };
        let attention = map(d, 3 * d, self.attention_bias) + map(d, d, self.attention_bias);
        let mlp = map(d, units, self.mlp_bias) + map(inner, d, self.mlp_bias);
        let layers = self.num_layers * (attention + mlp + 2 * norm(d));
        // Of pre-norm layers the first lacks a norm, and one follows the last.
        embeddings + project + layers
    }

    /// Width of the embeddings.
    pub(crate) fn embedding_width(&self) -> usize {
        self.embedding_size.unwrap_or(self.hidden_size)
    }

    /// Tokens that the position table has room for: `max_positions - position_offset`.
    pub fn usable_positions(&self) -> usize {
        self.max_positions.saturating_sub(self.position_offset)
    }

    /// Checks that the sizes fit together and are possible; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the first field at fault, as `config.json` calls it.
    pub fn check(&self, file: &str) -> Result<()> {
        self.check_sizes(file)?;
        self.check_fit(file)?;
        self.check_positions(file)?;
        self.check_settings(file)
    }

    fn check_sizes(&self, file: &str) -> Result<()> {
        let keys = self.family.keys();
        let sizes = [
            (keys.hidden_size, self.hidden_size, MAX_WIDTH),
            ("embedding_size", self.embedding_width(), MAX_WIDTH),
            (
                keys.intermediate_size,
                self.intermediate_size,
                MAX_WIDTH * 4,
            ),
            (keys.num_layers, self.num_layers, MAX_LAYERS),
            (keys.num_heads, self.num_heads, MAX_WIDTH),
            ("vocab_size", self.vocab_size, MAX_ROWS),
            ("max_position_embeddings", self.max_positions, MAX_ROWS),
        ];
        for (field, size, limit) in sizes {
            checks::size(file, field, size, limit)?;
            checks::weight(file, field, size, self.hidden_size)?;
        }
        let layout = self.layout();
        let units = if layout.gated { 2 } else { 1 };
        let inner = units * self.intermediate_size;
        checks::weight(file, keys.intermediate_size, inner, self.hidden_size)?;
        let qkv = 3 * self.hidden_size / layout.qkv.len();
        checks::weight(file, keys.hidden_size, qkv, self.hidden_size)?;
        // Families that may have no types say so by 0.
        if self.type_vocab_size > 0 || self.family.default_types() != Some(0) {
            checks::size(file, "type_vocab_size", self.type_vocab_size, MAX_ROWS)?;
        }
        checks::weight(
            file,
            "type_vocab_size",
            self.type_vocab_size,
            self.hidden_size,
        )
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
        let keys = self.family.keys();
        if !hidden_size.is_multiple_of(num_heads) {
            let problem = format!(
                "{hidden_size} is not a multiple of {} {num_heads}",
                keys.num_heads
            );
            return Err(wrong(file, keys.hidden_size, problem));
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

    fn check_positions(&self, file: &str) -> Result<()> {
        match &self.positions {
            EncoderPositions::Learned => Ok(()),
            EncoderPositions::Rotary(rotary) => {
                if !(self.hidden_size / self.num_heads).is_multiple_of(2) {
                    let problem = "heads of an odd size cannot turn".to_owned();
                    return Err(wrong(file, self.family.keys().num_heads, problem));
                }
                let thetas = rotary.thetas().into_iter();
                for (field, theta) in ["global_rope_theta", "local_rope_theta"].iter().zip(thetas) {
                    if !(theta > 0.0 && theta.is_finite()) {
                        let problem = format!("expected a number over 0, found {theta}");
                        return Err(wrong(file, field, problem));
                    }
                }
                Ok(())
            }
            EncoderPositions::Relative(RelativeBuckets { buckets, reach }) => {
                checks::size(file, "position_buckets", *buckets, MAX_ROWS / 2)?;
                checks::weight(file, "position_buckets", 2 * buckets, self.hidden_size)?;
                let middle = buckets / 2;
                if middle == 0 || *reach < middle + 2 {
                    let problem = format!(
                        "expected at least 2, and half of it at least 2 below the {reach} positions that it stands for, found {buckets}"
                    );
                    return Err(wrong(file, "position_buckets", problem));
                }
                Ok(())
            }
        }
    }

    fn check_settings(&self, file: &str) -> Result<()> {
        let keys = self.family.keys();
        let dropouts = [
            (keys.hidden_dropout, Some(self.hidden_dropout)),
            (keys.attention_dropout, Some(self.attention_dropout)),
            (keys.classifier_dropout, self.classifier_dropout),
        ];
        for (field, dropout) in dropouts {
            if let Some(p) = dropout {
                checks::probability(file, field, p)?;
            }
        }
        let eps = self.layer_norm_eps;
        if !(eps > 0.0 && eps < 1.0) {
            let problem = format!("expected a number between 0 and 1, found {eps}");
            return Err(wrong(
                file,
                keys.norm_eps.unwrap_or("layer_norm_eps"),
                problem,
            ));
        }
        let range = self.initializer_range;
        if !(range >= 0.0 && range.is_finite()) {
            let problem = format!("expected a number of at least 0, found {range}");
            return Err(wrong(file, "initializer_range", problem));
        }
        Ok(())
    }
}

//! A decoder by its features: sizes, norms, positions, MLP, factors, tensor names. `config.json` chooses them by the family.

mod family;
mod features;
mod layout;
mod presets;
mod read;
mod rope;
mod windows;
mod write;

use super::{FILE, MAX_LAYERS, MAX_ROWS, MAX_WIDTH, checks, fields::Fields, wrong};
use crate::{BaseDtype, ModelFiles, Result};

pub use family::DecoderFamily;
pub use features::{
    AttentionScale, EmbeddingScale, LayerSet, Mlp, NormForm, QkNorm, RopeScaling, RotaryConfig,
};
pub use layout::Layout;
pub(crate) use layout::QK_NORMS;

/// Sizes, features and settings of a decoder. Checked: see [`DecoderConfig::check`].
///
/// The model follows these features alone. [`family`](Self::family) says which `config.json` they are written to.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// The kind of model that files call it.
    pub family: DecoderFamily,
    /// Names and storage of its tensors.
    pub layout: &'static Layout,
    /// Width of a token's representation.
    pub hidden_size: usize,
    /// Number of transformer blocks.
    pub num_layers: usize,
    /// Attention heads of queries.
    pub num_heads: usize,
    /// Attention heads of keys and values; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of one head.
    pub head_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Tokens that a text can have.
    pub max_positions: usize,
    /// The normalisation of hidden states.
    pub norm: NormForm,
    /// Added to the variance or mean square in every normalisation.
    pub norm_eps: f64,
    /// RMS norms of queries and keys, before they turn.
    pub qk_norm: Option<QkNorm>,
    /// The MLP of a block.
    pub mlp: Mlp,
    /// Rotary positions; `None` where positions are learned.
    pub rotary: Option<RotaryConfig>,
    /// The rotary base of layers with a window, unscaled, where it is not that of `rotary` (Gemma 3).
    pub local_theta: Option<f64>,
    /// The layers whose queries and keys turn.
    pub rotated: LayerSet,
    /// Keys that a token sees at most, itself among them.
    pub window: Option<usize>,
    /// The layers with that window; in the others a token sees all keys before it.
    pub windowed: LayerSet,
    /// The factor on token embeddings.
    pub embedding_scale: EmbeddingScale,
    /// The factor on what attention and MLP add to their input.
    pub residual_scale: f64,
    /// The factor on the products of queries and keys.
    pub attention_scale: AttentionScale,
    /// The soft cap c of attention's scores s, `c tanh(s / c)`.
    pub score_cap: Option<f64>,
    /// The divisor of the logits.
    pub logits_divisor: f64,
    /// Their soft cap.
    pub logit_cap: Option<f64>,
    /// True if the head is the token embedding.
    pub tied: bool,
    /// True if the maps to query, key and value have biases.
    pub qkv_bias: bool,
    /// True if the map after the attention has a bias.
    pub output_bias: bool,
    /// True if the maps of the MLP have biases.
    pub mlp_bias: bool,
    /// Dropout probability of embeddings, in [0, 1).
    pub embedding_dropout: f64,
    /// Dropout probability of what a block adds, in [0, 1).
    pub residual_dropout: f64,
    /// Dropout probability of attention weights, in [0, 1).
    pub attention_dropout: f64,
    /// First token of a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Token of padding.
    pub pad_token_id: Option<u32>,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// The type that linear maps and token embeddings are held and multiplied in. This is a setting of the program: the `dtype` of
    /// `config.json` is that of the file.
    pub base_dtype: BaseDtype,
    /// True if one map for query, key and value counts as three sites, as in the paper (`c_attn.q`, `c_attn.k` and `c_attn.v`). In
    /// PEFT it is one site. This is a setting of the program.
    pub split_qkv: bool,
}

impl DecoderConfig {
    /// Reads and checks `config.json`, as transformers 4 or 5 writes it.
    ///
    /// # Errors
    /// [`Error::OtherArchitecture`](crate::Error::OtherArchitecture) for another `model_type`. [`Error::Config`](crate::Error::Config) for
    /// a field that is missing, of the wrong type, out of range or not implemented, such as another rope scaling.
    /// [`Error::Json`](crate::Error::Json) and [`Error::NoFile`](crate::Error::NoFile).
    pub fn from_files(files: &ModelFiles) -> Result<Self> {
        Self::from_json(&files.read(FILE)?, &files.describe(FILE))
    }

    /// The configuration with linear maps in the form that a user asks for, or in that of the model's files.
    ///
    /// # Errors
    /// As [`BaseDtype::settle_named`].
    pub fn held_as(self, asked: Option<BaseDtype>) -> Result<Self> {
        let base_dtype = match asked {
            Some(asked) => asked.settle_named(self.base_dtype)?,
            None => self.base_dtype,
        };
        Ok(Self { base_dtype, ..self })
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

    /// `config.json` as transformers reads it.
    pub fn to_json(&self) -> String {
        write::json(self)
    }

    /// The number of the model's parameters, a tied head counted once.
    pub fn parameters(&self) -> usize {
        let d = self.hidden_size;
        let tables = self.vocab_size * d * if self.tied { 1 } else { 2 };
        let positions = match self.layout.positions {
            Some(_) => self.max_positions * d,
            None => 0,
        };
        let block = self.num_layers * (crate::decoder::map_values(self) + self.block_norm_values());
        tables + positions + block + self.norm_values()
    }

    /// Values of one normalisation of hidden states.
    fn norm_values(&self) -> usize {
        match self.norm {
            NormForm::Layer => 2 * self.hidden_size,
            NormForm::Rms { .. } => self.hidden_size,
        }
    }

    fn block_norm_values(&self) -> usize {
        let norms = self.layout.block_norms().count();
        let qk: usize = self.qk_norm_sizes().into_iter().flatten().sum();
        norms * self.norm_values() + qk
    }

    /// Values of the norms of queries and keys.
    pub(crate) fn qk_norm_sizes(&self) -> Option<[usize; 2]> {
        let heads = match self.qk_norm? {
            QkNorm::Head => [1, 1],
            QkNorm::AllHeads => [self.num_heads, self.num_kv_heads],
        };
        Some(heads.map(|heads| heads * self.head_size))
    }

    /// The window of a layer.
    pub(crate) fn window_of(&self, layer: usize) -> Option<usize> {
        self.window.filter(|_| self.windowed.has(layer))
    }

    /// The different rotary settings of the layers: those of `rotary` and, where they are others, those of layers with a window.
    pub(crate) fn rotaries(&self) -> Vec<RotaryConfig> {
        let local = self.local_theta.map(RotaryConfig::plain);
        self.rotary.clone().into_iter().chain(local).collect()
    }

    /// The tokens of a text beyond which its positions turn by other frequencies.
    pub(crate) fn long_from(&self) -> Option<usize> {
        let RopeScaling::LongRope { original, .. } = self.rotary.as_ref()?.scaling else {
            return None;
        };
        Some(original)
    }

    /// The place of a layer's settings in [`rotaries`](Self::rotaries).
    pub(crate) fn rotary_of(&self, layer: usize) -> Option<usize> {
        let turns = self.rotary.is_some() && self.rotated.has(layer);
        let is_local = self.local_theta.is_some() && self.window_of(layer).is_some();
        turns.then_some(usize::from(is_local))
    }

    /// The factor of queries before their products with keys are divided by the root of the head's size.
    pub(crate) fn query_scale(&self) -> Option<f64> {
        let root = (self.head_size as f64).sqrt();
        match self.attention_scale {
            AttentionScale::RootOfHead => None,
            AttentionScale::RootOf(value) => Some(root / value.sqrt()),
            AttentionScale::By(factor) => Some(root * factor),
        }
    }

    /// Checks that the sizes fit together and are possible; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the first field at fault, as transformers calls it.
    pub fn check(&self, file: &str) -> Result<()> {
        self.check_sizes(file)?;
        self.check_heads(file)?;
        self.check_settings(file)
    }

    fn check_sizes(&self, file: &str) -> Result<()> {
        let sizes = [
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("intermediate_size", self.intermediate_size, MAX_WIDTH * 4),
            ("num_hidden_layers", self.num_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_heads, MAX_WIDTH),
            ("num_key_value_heads", self.num_kv_heads, MAX_WIDTH),
            ("head_dim", self.head_size, MAX_WIDTH),
            ("vocab_size", self.vocab_size, MAX_ROWS),
            ("max_position_embeddings", self.max_positions, MAX_ROWS),
        ];
        for (field, size, limit) in sizes {
            checks::size(file, field, size, limit)?;
            if field != "max_position_embeddings" || self.layout.positions.is_some() {
                checks::weight(file, field, size, self.hidden_size)?;
            }
        }
        Ok(())
    }

    fn check_heads(&self, file: &str) -> Result<()> {
        let Self {
            num_heads,
            num_kv_heads,
            head_size,
            hidden_size,
            ..
        } = *self;
        if num_heads.saturating_mul(head_size) > MAX_WIDTH {
            let problem = format!("{num_heads} heads of {head_size} are over {MAX_WIDTH} wide");
            return Err(wrong(file, "num_attention_heads", problem));
        }
        if !num_heads.is_multiple_of(num_kv_heads) {
            let problem = format!("{num_kv_heads} does not divide num_attention_heads {num_heads}");
            return Err(wrong(file, "num_key_value_heads", problem));
        }
        if self.family == DecoderFamily::Gpt2 && num_heads * head_size != hidden_size {
            let problem = format!("{hidden_size} is not a multiple of n_head {num_heads}");
            return Err(wrong(file, "n_embd", problem));
        }
        for rotary in self.rotaries() {
            let rotated = rotary.rotated(head_size);
            rotary.check_pairs(file, rotated / 2)?;
            if rotated == 0 || rotated > head_size || !rotated.is_multiple_of(2) {
                let problem = match rotary.share {
                    1.0 => format!("{head_size} is odd, and rotary positions turn pairs"),
                    share => format!("{share} of {head_size} is not an even number from 2 to it"),
                };
                return Err(wrong(file, "head_dim", problem));
            }
        }
        Ok(())
    }

    fn check_settings(&self, file: &str) -> Result<()> {
        for (field, p) in [
            ("embd_pdrop", self.embedding_dropout),
            ("resid_pdrop", self.residual_dropout),
            ("attention_dropout", self.attention_dropout),
        ] {
            checks::probability(file, field, p)?;
        }
        self.check_positive(file)?;
        self.check_layers(file)?;
        self.check_tokens(file)
    }

    fn check_positive(&self, file: &str) -> Result<()> {
        let mut over_0 = vec![
            ("rms_norm_eps", self.norm_eps, 1.0),
            ("initializer_range", self.initializer_range, f64::MAX),
            ("residual_multiplier", self.residual_scale, f64::MAX),
            ("logits_scaling", self.logits_divisor, f64::MAX),
        ];
        if let Some(rotary) = &self.rotary {
            over_0.push(("rope_theta", rotary.theta, f64::MAX));
            over_0.push(("partial_rotary_factor", rotary.share, 1.0));
            let scaling = rotary.scaling.numbers().into_iter();
            over_0.extend(scaling.map(|(field, value)| (field, value, f64::MAX)));
        }
        for (field, cap) in [
            (read::SCORE_CAP, self.score_cap),
            (read::LOGIT_CAP, self.logit_cap),
        ] {
            over_0.extend(cap.map(|cap| (field, cap, f64::MAX)));
        }
        let local = self.local_theta.into_iter();
        over_0.extend(local.map(|theta| ("rope_local_base_freq", theta, f64::MAX)));
        if let EmbeddingScale::By(factor) = self.embedding_scale {
            over_0.push(("embedding_multiplier", factor, f64::MAX));
        }
        match self.attention_scale {
            AttentionScale::RootOfHead => {}
            AttentionScale::RootOf(value) => {
                over_0.push(("query_pre_attn_scalar", value, f64::MAX));
            }
            AttentionScale::By(factor) => over_0.push(("attention_multiplier", factor, f64::MAX)),
        }
        for (field, value, most) in over_0 {
            if !(value > 0.0 && value <= most) {
                let problem = format!("expected a number over 0, found {value}");
                return Err(wrong(file, field, problem));
            }
        }
        Ok(())
    }

    fn check_layers(&self, file: &str) -> Result<()> {
        if self.window == Some(0) {
            return Err(wrong(
                file,
                "sliding_window",
                "a window of 0 sees nothing".into(),
            ));
        }
        for (field, set) in [
            ("layer_types", &self.windowed),
            ("no_rope_layers", &self.rotated),
        ] {
            if let LayerSet::Listed(listed) = set
                && listed.len() != self.num_layers
            {
                let problem = format!("{} entries for {} layers", listed.len(), self.num_layers);
                return Err(wrong(file, field, problem));
            }
        }
        Ok(())
    }

    fn check_tokens(&self, file: &str) -> Result<()> {
        let ids = self
            .eos_token_ids
            .iter()
            .map(|&id| ("eos_token_id", Some(id)));
        for (field, id) in ids.chain([
            ("bos_token_id", self.bos_token_id),
            ("pad_token_id", self.pad_token_id),
        ]) {
            if let Some(id) = id {
                checks::token(file, field, id, self.vocab_size)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! `config.json` of the decoders: GPT-2, Llama, Mistral and Gemma.

use serde_json::{Value, json};
use vblora::ops::Gate;

use super::{Activation, FILE, MAX_LAYERS, MAX_ROWS, MAX_WIDTH, checks, fields::Fields, wrong};
use crate::{BaseDtype, Error, ModelFiles, Result};

const SUPPORTED: &str = "\"gpt2\", \"llama\", \"mistral\" and \"gemma\"";

/// Which model the settings belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecoderFamily {
    /// GPT-2: learned positions, layer norms, a MLP with GELU, query, key and value in one map.
    Gpt2,
    /// Llama (arXiv 2302.13971, 2307.09288): rotary positions, RMS norms, a gated MLP.
    Llama,
    /// Mistral (arXiv 2310.06825): Llama with grouped queries and a sliding window.
    Mistral,
    /// Gemma (arXiv 2403.08295): Llama with scaled embeddings, norms that hold what is added to 1, and a GELU gate.
    Gemma,
}

/// Sizes and settings of a decoder. Checked: see [`DecoderConfig::check`].
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// The kind of model.
    pub family: DecoderFamily,
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
    /// Added to the variance or mean square in every normalisation.
    pub norm_eps: f64,
    /// The function of the MLP, GPT-2's.
    pub activation: Activation,
    /// The function of the MLP's gate, all others'.
    pub gate: Gate,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Keys that a token sees at most, itself among them.
    pub window: Option<usize>,
    /// Whether the head is the token embedding.
    pub tied: bool,
    /// Whether the maps of the attention have biases (GPT-2's always have).
    pub attention_bias: bool,
    /// Whether the maps of the MLP have biases (GPT-2's always have).
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
    /// What the weights of linear maps and the token embeddings are held and multiplied in; a setting of this program, not of `config.json`,
    /// whose `dtype` is the file's.
    pub base_dtype: BaseDtype,
    /// Whether GPT-2's fused `c_attn` is three sites, `c_attn.q`, `c_attn.k` and `c_attn.v`, as the paper counts, or one, as PEFT has it; a
    /// setting of this program.
    pub split_qkv: bool,
}

impl DecoderFamily {
    const ALL: [Self; 4] = [Self::Gpt2, Self::Llama, Self::Mistral, Self::Gemma];

    /// The `model_type` of its configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Gemma => "gemma",
        }
    }

    /// The name of the model's class in transformers, of which a configuration's `architectures` is.
    pub fn class(self) -> &'static str {
        match self {
            Self::Gpt2 => "GPT2LMHeadModel",
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Gemma => "GemmaForCausalLM",
        }
    }

    /// Whether the head is the token embedding where a file does not say.
    fn ties(self) -> bool {
        matches!(self, Self::Gpt2 | Self::Gemma)
    }
}

impl DecoderConfig {
    /// Reads and checks `config.json`, as transformers 4 or 5 writes it.
    ///
    /// # Errors
    /// [`Error::OtherArchitecture`] for another `model_type`; [`Error::Config`] for a field that is missing, of the wrong type, out of
    /// range, or that asks for what is not implemented (rope scaling, partial rotation, attention in both directions, quantised weights);
    /// [`Error::Json`], [`Error::NoFile`].
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
        let mut families = DecoderFamily::ALL.into_iter();
        let Some(family) = families.find(|family| family.name() == model_type) else {
            return Err(Error::OtherArchitecture {
                file: file.to_owned(),
                found: model_type,
                supported: SUPPORTED,
            });
        };
        refuse_other_forms(&fields)?;
        let config = match family {
            DecoderFamily::Gpt2 => read_gpt2(&fields)?,
            _ => read_gated(family, &fields)?,
        };
        config.check(file)?;
        Ok(config)
    }

    /// The number of the model's parameters, a tied head counted once.
    pub fn parameters(&self) -> usize {
        let d = self.hidden_size;
        let words = self.vocab_size * d * if self.tied { 1 } else { 2 };
        let positions = match self.family {
            DecoderFamily::Gpt2 => self.max_positions * d,
            _ => 0,
        };
        let sites = crate::decoder::sites(self);
        let maps: usize = sites.iter().map(|site| site.d_in * site.d_out).sum();
        let biases: usize = sites
            .iter()
            .filter(|site| self.has_bias(site.role()))
            .map(|site| site.d_out)
            .sum();
        let norm = if self.family == DecoderFamily::Gpt2 {
            2 * d
        } else {
            d
        };
        words + positions + maps + biases + (2 * self.num_layers + 1) * norm
    }

    /// Whether the map of this role has a bias.
    pub(crate) fn has_bias(&self, role: &str) -> bool {
        match role.starts_with("mlp") {
            true => self.mlp_bias,
            false => self.attention_bias,
        }
    }

    /// Checks that the sizes fit together and are possible; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field at fault, as transformers calls it.
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
            if field != "max_position_embeddings" || self.family == DecoderFamily::Gpt2 {
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
        if self.family != DecoderFamily::Gpt2 && !head_size.is_multiple_of(2) {
            let problem = format!("{head_size} is odd, and rotary positions turn pairs");
            return Err(wrong(file, "head_dim", problem));
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
        for (field, value, most) in [
            ("rms_norm_eps", self.norm_eps, 1.0),
            ("rope_theta", self.rope_theta, f64::MAX),
            ("initializer_range", self.initializer_range, f64::MAX),
        ] {
            if !(value > 0.0 && value <= most) {
                let problem = format!("expected a number over 0, found {value}");
                return Err(wrong(file, field, problem));
            }
        }
        if self.window == Some(0) {
            return Err(wrong(
                file,
                "sliding_window",
                "a window of 0 sees nothing".into(),
            ));
        }
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

    /// `config.json` as transformers reads it.
    pub fn to_json(&self) -> String {
        let mut fields = match self.family {
            DecoderFamily::Gpt2 => self.gpt2_json(),
            _ => self.gated_json(),
        };
        fields["model_type"] = json!(self.family.name());
        fields["architectures"] = json!([self.family.class()]);
        fields["vocab_size"] = json!(self.vocab_size);
        fields["initializer_range"] = json!(self.initializer_range);
        fields["tie_word_embeddings"] = json!(self.tied);
        fields["bos_token_id"] = json!(self.bos_token_id);
        fields["pad_token_id"] = json!(self.pad_token_id);
        fields["eos_token_id"] = match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            several => json!(several),
        };
        format!("{fields:#}\n")
    }

    fn gpt2_json(&self) -> Value {
        json!({
            "activation_function": self.activation.name(),
            "attn_pdrop": self.attention_dropout,
            "embd_pdrop": self.embedding_dropout,
            "resid_pdrop": self.residual_dropout,
            "layer_norm_epsilon": self.norm_eps,
            "n_embd": self.hidden_size,
            "n_head": self.num_heads,
            "n_inner": self.intermediate_size,
            "n_layer": self.num_layers,
            "n_positions": self.max_positions,
        })
    }

    fn gated_json(&self) -> Value {
        let act = match self.gate {
            Gate::Silu => "silu",
            Gate::GeluTanh => "gelu_pytorch_tanh",
        };
        let mut fields = json!({
            "attention_bias": self.attention_bias,
            "attention_dropout": self.attention_dropout,
            "head_dim": self.head_size,
            "hidden_act": act,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_positions,
            "mlp_bias": self.mlp_bias,
            "num_attention_heads": self.num_heads,
            "num_hidden_layers": self.num_layers,
            "num_key_value_heads": self.num_kv_heads,
            "rms_norm_eps": self.norm_eps,
            // Both, for readers of either age.
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_theta": self.rope_theta, "rope_type": "default"},
        });
        if self.family == DecoderFamily::Mistral {
            fields["sliding_window"] = json!(self.window);
        }
        fields
    }
}

/// Settings under which the same tensors would compute something else.
fn refuse_other_forms(fields: &Fields<'_>) -> Result<()> {
    let refused = [
        (
            "add_cross_attention",
            "only decoders without cross-attention",
        ),
        ("scale_attn_by_inverse_layer_idx", "not implemented"),
        ("use_bidirectional_attention", "only causal attention"),
        ("is_encoder_decoder", "only decoders"),
    ];
    for (field, why) in refused {
        if fields.flag_or(field, false)? {
            let problem = format!("expected false, found true ({why})");
            return Err(wrong(fields.file, field, problem));
        }
    }
    if !fields.flag_or("scale_attn_weights", true)? {
        let problem = "expected true, found false (not implemented)".to_owned();
        return Err(wrong(fields.file, "scale_attn_weights", problem));
    }
    if fields.has("quantization_config") {
        let problem = "quantised weights are not read; save the model in f32, f16 or bf16";
        return Err(wrong(fields.file, "quantization_config", problem.into()));
    }
    Ok(())
}

fn read_gpt2(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let (d, heads) = (fields.count("n_embd")?, fields.count("n_head")?);
    let name = fields.text_or("activation_function", "gelu_new")?;
    let activation = Activation::from_name(&name).ok_or_else(|| {
        let problem = format!(
            "expected \"gelu_new\", \"gelu\", \"gelu_pytorch_tanh\" or \"relu\", found {name:?}"
        );
        wrong(fields.file, "activation_function", problem)
    })?;
    let common = Common::read(DecoderFamily::Gpt2, fields)?;
    Ok(common.config(DecoderConfig {
        hidden_size: d,
        num_layers: fields.count("n_layer")?,
        num_heads: heads,
        num_kv_heads: heads,
        head_size: d / heads.max(1),
        intermediate_size: fields.count_or("n_inner", d.saturating_mul(4))?,
        max_positions: fields.count("n_positions")?,
        norm_eps: fields.number_or("layer_norm_epsilon", 1e-5)?,
        activation,
        attention_bias: true,
        mlp_bias: true,
        embedding_dropout: fields.number_or("embd_pdrop", 0.1)?,
        residual_dropout: fields.number_or("resid_pdrop", 0.1)?,
        attention_dropout: fields.number_or("attn_pdrop", 0.1)?,
        ..DecoderConfig::gpt2_medium()
    }))
}

fn read_gated(family: DecoderFamily, fields: &Fields<'_>) -> Result<DecoderConfig> {
    let (d, heads) = (
        fields.count("hidden_size")?,
        fields.count("num_attention_heads")?,
    );
    let default = match family {
        DecoderFamily::Gemma => DecoderConfig::gemma_7b(),
        _ => DecoderConfig::llama_2_7b(),
    };
    let common = Common::read(family, fields)?;
    Ok(common.config(DecoderConfig {
        hidden_size: d,
        num_layers: fields.count("num_hidden_layers")?,
        num_heads: heads,
        num_kv_heads: fields.count_or("num_key_value_heads", heads)?,
        head_size: head_size(family, fields, d, heads)?,
        intermediate_size: fields.count("intermediate_size")?,
        max_positions: fields.count("max_position_embeddings")?,
        norm_eps: fields.number_or("rms_norm_eps", 1e-6)?,
        gate: gate(family, fields)?,
        rope_theta: rope_theta(fields)?,
        window: window(family, fields)?,
        attention_bias: fields.flag_or("attention_bias", false)?,
        mlp_bias: fields.flag_or("mlp_bias", false)?,
        attention_dropout: fields.number_or("attention_dropout", 0.0)?,
        ..default
    }))
}

/// What all families write alike.
struct Common {
    family: DecoderFamily,
    vocab_size: usize,
    tied: bool,
    bos_token_id: Option<u32>,
    eos_token_ids: Vec<u32>,
    pad_token_id: Option<u32>,
    initializer_range: f64,
}

impl Common {
    fn read(family: DecoderFamily, fields: &Fields<'_>) -> Result<Self> {
        let vocab_size = fields.count("vocab_size")?;
        Ok(Self {
            family,
            vocab_size,
            tied: fields.flag_or("tie_word_embeddings", family.ties())?,
            bos_token_id: fields.id_below("bos_token_id", vocab_size)?,
            eos_token_ids: fields.ids_below("eos_token_id", vocab_size)?,
            pad_token_id: padding(family, fields, vocab_size)?,
            initializer_range: fields.number_or("initializer_range", 0.02)?,
        })
    }

    fn config(self, rest: DecoderConfig) -> DecoderConfig {
        DecoderConfig {
            family: self.family,
            vocab_size: self.vocab_size,
            tied: self.tied,
            bos_token_id: self.bos_token_id,
            eos_token_ids: self.eos_token_ids,
            pad_token_id: self.pad_token_id,
            initializer_range: self.initializer_range,
            ..rest
        }
    }
}

/// The token of padding. Transformers' token embeddings refuse one outside the vocabulary, counted from either end; GPT-2's does not look at it.
fn padding(family: DecoderFamily, fields: &Fields<'_>, vocab_size: usize) -> Result<Option<u32>> {
    let field = "pad_token_id";
    let Some(id) = fields.integer(field)? else {
        return Ok(None);
    };
    let size = vocab_size as i64;
    if (0..size).contains(&id) {
        return Ok(u32::try_from(id).ok());
    }
    if family != DecoderFamily::Gpt2 && !(-size..size).contains(&id) {
        let problem = format!("{id} is outside the vocabulary of {vocab_size}");
        return Err(wrong(fields.file, field, problem));
    }
    fields.ignore(field, &format!("{id} is no token"));
    Ok(None)
}

fn head_size(family: DecoderFamily, fields: &Fields<'_>, d: usize, heads: usize) -> Result<usize> {
    // Gemma's heads are 256 wide where nothing is said (transformers' GemmaConfig), the others' share the width.
    let default = match family {
        DecoderFamily::Gemma => 256,
        _ => d / heads.max(1),
    };
    fields.count_or("head_dim", default)
}

fn gate(family: DecoderFamily, fields: &Fields<'_>) -> Result<Gate> {
    let field = match fields.has("hidden_activation") {
        true => "hidden_activation",
        false => "hidden_act",
    };
    let default = if family == DecoderFamily::Gemma {
        "gelu_pytorch_tanh"
    } else {
        "silu"
    };
    let name = fields.text_or(field, default)?;
    match name.as_str() {
        "silu" | "swish" => Ok(Gate::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Gate::GeluTanh),
        // Gemma's first files say so and mean the approximation, which it was trained with.
        "gelu" if family == DecoderFamily::Gemma => Ok(Gate::GeluTanh),
        _ => {
            let problem = format!("expected \"silu\" or \"gelu_pytorch_tanh\", found {name:?}");
            Err(wrong(fields.file, field, problem))
        }
    }
}

/// `rope_theta` of transformers 4, or the one in `rope_parameters` of transformers 5.
fn rope_theta(fields: &Fields<'_>) -> Result<f64> {
    let mut theta = fields.number("rope_theta")?;
    for field in ["rope_scaling", "rope_parameters"] {
        let Some(inner) = fields.object(field)? else {
            continue;
        };
        let kind = match inner.has("rope_type") {
            true => inner.text("rope_type")?,
            false => inner.text_or("type", "default")?,
        };
        if kind != "default" {
            let problem = format!("rope scaling {kind:?} is not implemented; only \"default\" is");
            return Err(wrong(fields.file, field, problem));
        }
        if inner.number_or("partial_rotary_factor", 1.0)? != 1.0 {
            let problem = "partial_rotary_factor other than 1 is not implemented".to_owned();
            return Err(wrong(fields.file, field, problem));
        }
        theta = inner.number("rope_theta")?.or(theta);
    }
    if fields.number_or("partial_rotary_factor", 1.0)? != 1.0 {
        let problem = "only 1 is implemented".to_owned();
        return Err(wrong(fields.file, "partial_rotary_factor", problem));
    }
    Ok(theta.unwrap_or(10_000.0))
}

fn window(family: DecoderFamily, fields: &Fields<'_>) -> Result<Option<usize>> {
    let found = match family {
        // Transformers' default where nothing is said; `null` says that there is none.
        DecoderFamily::Mistral if !fields.mentions("sliding_window") => Some(4096),
        _ => fields.count_or_none("sliding_window")?,
    };
    let kinds = fields.texts("layer_types")?;
    let all = |kind: &str| kinds.iter().all(|found| found == kind);
    match (family, found) {
        (_, None) if all("full_attention") => Ok(None),
        (DecoderFamily::Mistral, Some(_)) if all("sliding_attention") => Ok(found),
        (DecoderFamily::Mistral, Some(_)) if all("full_attention") => Ok(None),
        (DecoderFamily::Mistral, _) => {
            let problem = "layers of different kinds of attention are not implemented".to_owned();
            Err(wrong(fields.file, "layer_types", problem))
        }
        (_, _) => {
            let problem = format!("not implemented for {}", family.name());
            let field = if found.is_some() {
                "sliding_window"
            } else {
                "layer_types"
            };
            Err(wrong(fields.file, field, problem))
        }
    }
}

#[cfg(test)]
mod tests;

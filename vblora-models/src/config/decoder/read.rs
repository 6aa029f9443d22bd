//! `config.json` to a decoder's features.

use vblora::ops::Gate;

use super::{
    family::{DecoderFamily, Keys},
    features::{AttentionScale, EmbeddingScale, LayerSet, Mlp},
    rope, windows,
};
use crate::{
    Activation, DecoderConfig, Error, Result,
    config::{MAX_LAYERS, checks, fields::Fields, quantization, wrong},
};

/// The limit of attention's scores.
pub(super) const SCORE_CAP: &str = "attn_logit_softcapping";

/// The limit of the logits.
pub(super) const LOGIT_CAP: &str = "final_logit_softcapping";

/// Reads what is said, and takes the family's defaults for what is not.
pub(super) fn config(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let family = family(fields)?;
    refuse_other_forms(fields)?;
    let template = common(family, fields)?;
    match family.keys() {
        Keys::Gpt2 => gpt2(fields, template),
        Keys::Llama => gated(fields, template),
    }
}

fn family(fields: &Fields<'_>) -> Result<DecoderFamily> {
    let model_type = fields.text("model_type")?;
    let mut families = DecoderFamily::ALL.into_iter();
    let found = families.find(|family| family.name() == model_type);
    found.ok_or_else(|| Error::OtherArchitecture {
        file: fields.file.to_owned(),
        found: model_type,
        supported: supported(),
    })
}

fn supported() -> String {
    let names = DecoderFamily::ALL.map(|family| format!("{:?}", family.name()));
    let (last, others) = names.split_last().expect("there are families");
    format!("{} and {last}", others.join(", "))
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
    Ok(())
}

/// The family's template with what all families write alike.
fn common(family: DecoderFamily, fields: &Fields<'_>) -> Result<DecoderConfig> {
    let template = family.template();
    let vocab_size = fields.count("vocab_size")?;
    Ok(DecoderConfig {
        base_dtype: quantization::read(fields)?,
        vocab_size,
        tied: fields.flag_or("tie_word_embeddings", template.tied)?,
        bos_token_id: fields.id_below("bos_token_id", vocab_size)?,
        eos_token_ids: fields.ids_below("eos_token_id", vocab_size)?,
        pad_token_id: padding(family, fields, vocab_size)?,
        initializer_range: fields.number_or("initializer_range", 0.02)?,
        ..template
    })
}

fn gpt2(fields: &Fields<'_>, template: DecoderConfig) -> Result<DecoderConfig> {
    let (d, heads) = (fields.count("n_embd")?, fields.count("n_head")?);
    let name = fields.text_or("activation_function", "gelu_new")?;
    let activation = Activation::from_name(&name).ok_or_else(|| {
        let problem = format!(
            "expected \"gelu_new\", \"gelu\", \"gelu_pytorch_tanh\" or \"relu\", found {name:?}"
        );
        wrong(fields.file, "activation_function", problem)
    })?;
    Ok(DecoderConfig {
        hidden_size: d,
        num_layers: fields.count("n_layer")?,
        num_heads: heads,
        num_kv_heads: heads,
        head_size: d / heads.max(1),
        intermediate_size: fields.count_or("n_inner", d.saturating_mul(4))?,
        max_positions: fields.count("n_positions")?,
        norm_eps: fields.number_or("layer_norm_epsilon", 1e-5)?,
        mlp: Mlp::Plain(activation),
        embedding_dropout: fields.number_or("embd_pdrop", 0.1)?,
        residual_dropout: fields.number_or("resid_pdrop", 0.1)?,
        attention_dropout: fields.number_or("attn_pdrop", 0.1)?,
        ..template
    })
}

fn gated(fields: &Fields<'_>, template: DecoderConfig) -> Result<DecoderConfig> {
    let family = template.family;
    let (d, heads) = (
        fields.count("hidden_size")?,
        fields.count("num_attention_heads")?,
    );
    let num_layers = fields.count("num_hidden_layers")?;
    // Lists of layers are made before the whole is checked.
    checks::size(fields.file, "num_hidden_layers", num_layers, MAX_LAYERS)?;
    let head_size = family.head_size().unwrap_or(d / heads.max(1));
    let rotary = template.rotary.expect("all but GPT-2 turn");
    let (rotary, local_theta) = rope::read(family, fields, rotary)?;
    let (window, windowed) = windows::read(family, fields, num_layers)?;
    let attention_bias = fields.flag_or("attention_bias", false)?;
    let config = DecoderConfig {
        hidden_size: d,
        num_layers,
        num_heads: heads,
        num_kv_heads: fields.count_or("num_key_value_heads", heads)?,
        head_size: fields.count_or("head_dim", head_size)?,
        intermediate_size: fields.count("intermediate_size")?,
        max_positions: fields.count("max_position_embeddings")?,
        norm_eps: fields.number_or("rms_norm_eps", template.norm_eps)?,
        mlp: Mlp::Gated(gate(family, fields)?),
        rotary: Some(rotary),
        local_theta,
        window,
        windowed,
        qkv_bias: attention_bias || template.qkv_bias,
        output_bias: attention_bias,
        mlp_bias: fields.flag_or("mlp_bias", false)?,
        attention_dropout: fields.number_or("attention_dropout", 0.0)?,
        ..template
    };
    own_settings(fields, config)
}

/// The settings that one family alone has.
fn own_settings(fields: &Fields<'_>, config: DecoderConfig) -> Result<DecoderConfig> {
    match config.family {
        DecoderFamily::Granite => Ok(DecoderConfig {
            embedding_scale: EmbeddingScale::By(fields.number_or("embedding_multiplier", 1.0)?),
            residual_scale: fields.number_or("residual_multiplier", 1.0)?,
            attention_scale: AttentionScale::By(fields.number_or("attention_multiplier", 1.0)?),
            logits_divisor: fields.number_or("logits_scaling", 1.0)?,
            ..config
        }),
        DecoderFamily::Gemma2 => Ok(DecoderConfig {
            attention_scale: query_scalar(fields)?,
            score_cap: cap(fields, SCORE_CAP, config.score_cap)?,
            logit_cap: cap(fields, LOGIT_CAP, config.logit_cap)?,
            ..config
        }),
        DecoderFamily::Gemma3 => {
            refuse_caps(fields)?;
            Ok(DecoderConfig {
                attention_scale: query_scalar(fields)?,
                ..config
            })
        }
        DecoderFamily::SmolLm3 => Ok(DecoderConfig {
            rotated: rotated(fields, config.num_layers)?,
            ..config
        }),
        DecoderFamily::Phi3 => Ok(DecoderConfig {
            embedding_dropout: fields.number_or("embd_pdrop", 0.0)?,
            residual_dropout: fields.number_or("resid_pdrop", 0.0)?,
            ..config
        }),
        DecoderFamily::Gpt2
        | DecoderFamily::Llama
        | DecoderFamily::Mistral
        | DecoderFamily::Gemma
        | DecoderFamily::Qwen2
        | DecoderFamily::Qwen3
        | DecoderFamily::Olmo2 => Ok(config),
    }
}

fn query_scalar(fields: &Fields<'_>) -> Result<AttentionScale> {
    let scalar = fields.number_or("query_pre_attn_scalar", 256.0)?;
    Ok(AttentionScale::RootOf(scalar))
}

/// A soft cap. `null` says that there is none.
fn cap(fields: &Fields<'_>, field: &str, default: Option<f64>) -> Result<Option<f64>> {
    match fields.mentions(field) {
        true => fields.number(field),
        false => Ok(default),
    }
}

/// Transformers' Gemma 3 reads one of the two and applies the other.
fn refuse_caps(fields: &Fields<'_>) -> Result<()> {
    for field in [SCORE_CAP, LOGIT_CAP] {
        if fields.has(field) {
            let problem = "expected null: soft caps are implemented for gemma2 alone".to_owned();
            return Err(wrong(fields.file, field, problem));
        }
    }
    Ok(())
}

/// The layers with rotary positions: 1 in `no_rope_layers`, or all but every `no_rope_layer_interval`-th.
pub(super) fn rotated(fields: &Fields<'_>, layers: usize) -> Result<LayerSet> {
    let listed = fields.counts("no_rope_layers")?;
    if !listed.is_empty() {
        if listed.len() != layers {
            let problem = format!("{} entries for {layers} layers", listed.len());
            return Err(wrong(fields.file, "no_rope_layers", problem));
        }
        return Ok(LayerSet::of(listed.iter().map(|&has| has != 0).collect()));
    }
    let interval = fields.count_or("no_rope_layer_interval", 4)?;
    if interval == 0 {
        let problem = "expected 1 or more, found 0".to_owned();
        return Err(wrong(fields.file, "no_rope_layer_interval", problem));
    }
    let listed = (1..=layers).map(|place| !place.is_multiple_of(interval));
    Ok(LayerSet::of(listed.collect()))
}

/// The token of padding. Transformers' token embeddings refuse one outside the vocabulary, counted from either end; GPT-2's does not look
/// at it.
fn padding(family: DecoderFamily, fields: &Fields<'_>, vocab_size: usize) -> Result<Option<u32>> {
    let field = "pad_token_id";
    let Some(id) = fields.token(field)? else {
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

fn gate(family: DecoderFamily, fields: &Fields<'_>) -> Result<Gate> {
    // Transformers' Gemma 2 and 3 have `hidden_act` in files and do not read it.
    let is_later_gemma = matches!(family, DecoderFamily::Gemma2 | DecoderFamily::Gemma3);
    let is_gemma = family == DecoderFamily::Gemma || is_later_gemma;
    let field = match is_later_gemma || fields.has("hidden_activation") {
        true => "hidden_activation",
        false => "hidden_act",
    };
    let default = match is_gemma {
        true => "gelu_pytorch_tanh",
        false => "silu",
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

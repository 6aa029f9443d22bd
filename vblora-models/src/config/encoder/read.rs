//! `config.json` to an encoder's features.

use super::{
    EncoderConfig, EncoderPositions, Family, HeadActivation, Pooling, Positions, RelativeBuckets,
    RotaryLayers,
};
use crate::{
    Activation, Error, Result,
    config::{LayerSet, MAX_LAYERS, checks, fields::Fields, quantization, wrong},
};

/// Reads what is said, and takes the family's defaults for what is not.
pub(super) fn config(fields: &Fields<'_>) -> Result<EncoderConfig> {
    let model_type = fields.text("model_type")?;
    let family = Family::from_model_type(&model_type).ok_or_else(|| Error::OtherArchitecture {
        file: fields.file.to_owned(),
        found: model_type,
        supported: Family::names(),
    })?;
    refuse_other_forms(fields)?;
    let config = common(family, fields)?;
    match family {
        Family::Roberta | Family::Bert | Family::XlmRoberta | Family::DistilBert => Ok(config),
        Family::Electra => electra(fields, config),
        Family::ModernBert => modernbert(fields, config),
        Family::DebertaV2 => deberta(fields, config),
    }
}

/// What all families have.
fn common(family: Family, fields: &Fields<'_>) -> Result<EncoderConfig> {
    let keys = family.keys();
    let vocab_size = fields.count("vocab_size")?;
    let (pad_token_id, position_offset) = padding(fields, family, vocab_size)?;
    let eps = family.default_eps();
    Ok(EncoderConfig {
        family,
        hidden_size: fields.count(keys.hidden_size)?,
        embedding_size: None,
        num_layers: fields.count(keys.num_layers)?,
        num_heads: fields.count(keys.num_heads)?,
        intermediate_size: fields.count(keys.intermediate_size)?,
        vocab_size,
        max_positions: fields.count("max_position_embeddings")?,
        type_vocab_size: types(family, fields)?,
        layer_norm_eps: match keys.norm_eps {
            Some(field) => fields.number_or(field, eps)?,
            None => eps,
        },
        activation: activation(fields, keys.activation)?,
        hidden_dropout: fields.number_or(keys.hidden_dropout, family.default_dropout())?,
        attention_dropout: fields.number_or(keys.attention_dropout, family.default_dropout())?,
        classifier_dropout: fields.number(keys.classifier_dropout)?,
        pad_token_id,
        initializer_range: fields.number_or("initializer_range", 0.02)?,
        position_offset,
        positions: EncoderPositions::Learned,
        attention_bias: true,
        mlp_bias: true,
        norm_bias: true,
        pooling: Pooling::First,
        head_activation: family.head_activation(),
        head_bias: true,
        head_in_base: false,
        base_dtype: quantization::read(fields)?,
    })
}

fn types(family: Family, fields: &Fields<'_>) -> Result<usize> {
    match family.default_types() {
        None => fields.count("type_vocab_size"),
        Some(default) if family.has_types() => fields.count_or("type_vocab_size", default),
        Some(default) => Ok(default),
    }
}

fn electra(fields: &Fields<'_>, config: EncoderConfig) -> Result<EncoderConfig> {
    let width = fields.count_or("embedding_size", 128)?;
    Ok(EncoderConfig {
        embedding_size: (width != config.hidden_size).then_some(width),
        ..config
    })
}

fn modernbert(fields: &Fields<'_>, config: EncoderConfig) -> Result<EncoderConfig> {
    let of_embeddings = fields.number_or("embedding_dropout", 0.0)?;
    if of_embeddings != config.hidden_dropout {
        let problem = format!(
            "expected that of mlp_dropout, {}, found {of_embeddings}: two dropouts are not implemented",
            config.hidden_dropout
        );
        return Err(wrong(fields.file, "embedding_dropout", problem));
    }
    for (field, effect) in [
        (
            "sparse_prediction",
            "it changes the masked language model only",
        ),
        (
            "deterministic_flash_attn",
            "attention here adds in its own order",
        ),
    ] {
        if fields.flag_or(field, false)? {
            fields.ignore(field, effect);
        }
    }
    let pooling = match fields.text_or("classifier_pooling", "cls")?.as_str() {
        "cls" => Pooling::First,
        "mean" => Pooling::Mean,
        other => {
            let problem = format!("expected \"cls\" or \"mean\", found {other:?}");
            return Err(wrong(fields.file, "classifier_pooling", problem));
        }
    };
    Ok(EncoderConfig {
        positions: EncoderPositions::Rotary(rotary_layers(fields, config.num_layers)?),
        attention_bias: fields.flag_or("attention_bias", false)?,
        mlp_bias: fields.flag_or("mlp_bias", false)?,
        norm_bias: fields.flag_or("norm_bias", false)?,
        pooling,
        head_activation: HeadActivation::Of(activation(fields, "classifier_activation")?),
        head_bias: fields.flag_or("classifier_bias", false)?,
        head_in_base: true,
        ..config
    })
}

/// ModernBERT's windows and bases, in the words of transformers 4 or 5.
fn rotary_layers(fields: &Fields<'_>, layers: usize) -> Result<RotaryLayers> {
    // The list of layers is made before the whole is checked.
    checks::size(fields.file, "num_hidden_layers", layers, MAX_LAYERS)?;
    refuse_scaled(fields, "rope_scaling")?;
    let theta = fields.number_or("global_rope_theta", 160_000.0)?;
    // Transformers 4 turns local layers as global ones where it is null.
    let default = match fields.mentions("local_rope_theta") {
        true => theta,
        false => 10_000.0,
    };
    let local_theta = fields.number_or("local_rope_theta", default)?;
    let [theta, local_theta] = match fields.object("rope_parameters")? {
        None => [theta, local_theta],
        Some(kinds) if !kinds.has("full_attention") && !kinds.has("sliding_attention") => {
            let problem = "expected full_attention and sliding_attention".to_owned();
            return Err(wrong(fields.file, "rope_parameters", problem));
        }
        Some(kinds) => [
            base(&kinds, "full_attention", theta)?,
            base(&kinds, "sliding_attention", local_theta)?,
        ],
    };
    let reach = fields.count_or("local_attention", 128)? / 2;
    if let Some(found) = fields
        .count_or_none("sliding_window")?
        .filter(|&w| w != reach)
    {
        let problem = format!("expected {reach}, half of local_attention, found {found}");
        return Err(wrong(fields.file, "sliding_window", problem));
    }
    Ok(RotaryLayers {
        theta,
        local_theta,
        reach,
        local: local_layers(fields, layers)?,
    })
}

fn base(kinds: &Fields<'_>, kind: &str, default: f64) -> Result<f64> {
    let Some(own) = kinds.object(kind)? else {
        return Ok(default);
    };
    let scaling = match own.has("rope_type") {
        true => own.text("rope_type"),
        false => own.text_or("type", "default"),
    }?;
    if scaling != "default" {
        let problem = format!("rope scaling {scaling:?} is not implemented for ModernBERT");
        return Err(wrong(own.file, "rope_parameters", problem));
    }
    own.number_or("rope_theta", default)
}

fn refuse_scaled(fields: &Fields<'_>, field: &str) -> Result<()> {
    match fields.object(field)? {
        None => Ok(()),
        Some(_) => {
            let problem = "expected null: scaled rotary positions are not implemented".to_owned();
            Err(wrong(fields.file, field, problem))
        }
    }
}

fn local_layers(fields: &Fields<'_>, layers: usize) -> Result<LayerSet> {
    let kinds = fields.texts("layer_types")?;
    if kinds.is_empty() {
        let every = fields.count_or("global_attn_every_n_layers", 3)?;
        checks::size(fields.file, "global_attn_every_n_layers", every, MAX_LAYERS)?;
        let local = (0..layers).map(|layer| !layer.is_multiple_of(every));
        return Ok(LayerSet::Listed(local.collect()));
    }
    if kinds.len() != layers {
        let problem = format!("{} entries for {layers} layers", kinds.len());
        return Err(wrong(fields.file, "layer_types", problem));
    }
    let local = kinds.iter().map(|kind| match kind.as_str() {
        "sliding_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => {
            let problem =
                format!("expected \"full_attention\" or \"sliding_attention\", found {other:?}");
            Err(wrong(fields.file, "layer_types", problem))
        }
    });
    Ok(LayerSet::Listed(local.collect::<Result<_>>()?))
}

fn deberta(fields: &Fields<'_>, config: EncoderConfig) -> Result<EncoderConfig> {
    for (field, expected) in [
        ("relative_attention", true),
        ("share_att_key", true),
        ("position_biased_input", false),
    ] {
        let default = field == "position_biased_input";
        if fields.flag_or(field, default)? != expected {
            let problem = format!(
                "expected {expected}, as in DeBERTa-v3, found {}: other forms are not implemented",
                !expected
            );
            return Err(wrong(fields.file, field, problem));
        }
    }
    position_scores(fields)?;
    let norm = fields.text_or("norm_rel_ebd", "none")?;
    if norm.trim() != "layer_norm" {
        let problem = format!("expected \"layer_norm\", found {norm:?}");
        return Err(wrong(fields.file, "norm_rel_ebd", problem));
    }
    for (field, expected) in [
        ("conv_kernel_size", 0),
        ("pooler_hidden_size", config.hidden_size),
        ("embedding_size", config.hidden_size),
        (
            "attention_head_size",
            config.hidden_size / config.num_heads.max(1),
        ),
    ] {
        let found = fields.count_or(field, expected)?;
        if found != expected {
            let problem = format!("expected {expected}, found {found}: not implemented");
            return Err(wrong(fields.file, field, problem));
        }
    }
    let dropout = fields.number_or("pooler_dropout", 0.0)?;
    if dropout != 0.0 {
        let problem = format!("expected 0, found {dropout}: a recipe sets the head's dropout");
        return Err(wrong(fields.file, "pooler_dropout", problem));
    }
    let reach = match fields.integer("max_relative_positions")? {
        Some(reach) if reach > 0 => usize::try_from(reach).unwrap_or(usize::MAX),
        Some(_) | None => config.max_positions,
    };
    Ok(EncoderConfig {
        positions: EncoderPositions::Relative(RelativeBuckets {
            buckets: buckets(fields)?,
            reach,
        }),
        head_activation: HeadActivation::Of(activation(fields, "pooler_hidden_act")?),
        ..config
    })
}

/// Both kinds of relative scores: a list, or one text with bars.
fn position_scores(fields: &Fields<'_>) -> Result<()> {
    let field = "pos_att_type";
    let as_text = fields.value(field).and_then(|value| value.as_str());
    let mut kinds: Vec<String> = match as_text {
        Some(text) => text
            .split('|')
            .map(|kind| kind.trim().to_lowercase())
            .collect(),
        None => fields.texts(field)?,
    };
    kinds.sort();
    if kinds != ["c2p", "p2c"] {
        let problem = format!("expected \"p2c\" and \"c2p\", found {kinds:?}: not implemented");
        return Err(wrong(fields.file, field, problem));
    }
    Ok(())
}

fn buckets(fields: &Fields<'_>) -> Result<usize> {
    let field = "position_buckets";
    match fields.integer(field)? {
        Some(buckets) if buckets > 0 => Ok(usize::try_from(buckets).unwrap_or(usize::MAX)),
        found => {
            let found = found.map_or("none".to_owned(), |found| found.to_string());
            let problem = format!(
                "expected a number over 0, found {found}: one row for each distance is not implemented"
            );
            Err(wrong(fields.file, field, problem))
        }
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
    let found = fields.token(field)?;
    if found.is_none() && fields.mentions(field) {
        return no_padding(fields, family, field);
    }
    let Some(id) = found else {
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

/// Where the field is null. Transformers then fills rows with the tokenizer's token. RoBERTa's positions are counted from the id, so there it
/// cannot go on.
fn no_padding(fields: &Fields<'_>, family: Family, field: &str) -> Result<(u32, usize)> {
    match family.positions() {
        Positions::Columns => Ok((0, 0)),
        Positions::Tokens => {
            let problem = "expected the token id that positions are counted from, found null";
            Err(wrong(fields.file, field, problem.into()))
        }
    }
}

fn activation(fields: &Fields<'_>, field: &str) -> Result<Activation> {
    let name = fields.text_or(field, "gelu")?;
    Activation::from_name(&name).ok_or_else(|| {
        let problem = format!(
            "expected \"gelu\", \"gelu_new\", \"gelu_pytorch_tanh\" or \"relu\", found {name:?}"
        );
        wrong(fields.file, field, problem)
    })
}

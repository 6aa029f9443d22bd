//! The rotary settings of `config.json`.

use serde_json::{Value, json};

use super::{
    family::DecoderFamily,
    features::{RopeScaling, RotaryConfig},
};
use crate::{
    DecoderConfig, Result,
    config::{fields::Fields, wrong},
};

/// The rotary settings of the layers without a window, and the base of those with one, where it is another.
pub(super) fn read(
    family: DecoderFamily,
    fields: &Fields<'_>,
    default: RotaryConfig,
) -> Result<(RotaryConfig, Option<f64>)> {
    // Transformers 5 writes Gemma 3's two settings apart.
    if let Some(kinds) = fields.object("rope_parameters")?
        && let Some(full) = kinds.object("full_attention")?
    {
        let local = kinds.object("sliding_attention")?;
        let theta = match local {
            Some(local) => {
                refuse_scaled(family, &local)?;
                local.number("rope_theta")?
            }
            None => None,
        };
        let config = read_object(family, &full, "rope_parameters", default)?;
        return Ok((config, theta.or(local_default(family))));
    }
    let mut config = RotaryConfig {
        theta: fields.number_or("rope_theta", default.theta)?,
        share: share(family, fields, "partial_rotary_factor", default.share)?,
        ..default
    };
    for field in ["rope_scaling", "rope_parameters"] {
        if let Some(inner) = fields.object(field)? {
            config = read_object(family, &inner, field, config)?;
        }
    }
    let local = match local_default(family) {
        Some(default) => Some(fields.number_or("rope_local_base_freq", default)?),
        None => None,
    };
    Ok((config, local))
}

/// The base of layers with a window, in families where it is another.
fn local_default(family: DecoderFamily) -> Option<f64> {
    (family == DecoderFamily::Gemma3).then_some(10_000.0)
}

/// `rope_scaling` of transformers 4, or `rope_parameters` of transformers 5.
fn read_object(
    family: DecoderFamily,
    inner: &Fields<'_>,
    field: &str,
    outer: RotaryConfig,
) -> Result<RotaryConfig> {
    let kind = kind(inner)?;
    if !family.rope_kinds().contains(&kind.as_str()) {
        let known: Vec<_> = family
            .rope_kinds()
            .iter()
            .map(|k| format!("{k:?}"))
            .collect();
        let verb = if known.len() == 1 { "is" } else { "are" };
        let known = known.join(" and ");
        let problem = format!("rope scaling {kind:?} is not implemented; only {known} {verb}");
        return Err(wrong(inner.file, field, problem));
    }
    Ok(RotaryConfig {
        theta: inner.number_or("rope_theta", outer.theta)?,
        scaling: match kind.as_str() {
            "linear" => RopeScaling::Linear {
                factor: required(inner, "factor")?,
            },
            "llama3" => RopeScaling::Llama3 {
                factor: required(inner, "factor")?,
                low: required(inner, "low_freq_factor")?,
                high: required(inner, "high_freq_factor")?,
                original: required(inner, "original_max_position_embeddings")?,
            },
            _ => RopeScaling::None,
        },
        share: share(family, inner, field, outer.share)?,
    })
}

fn kind(inner: &Fields<'_>) -> Result<String> {
    match inner.has("rope_type") {
        true => inner.text("rope_type"),
        false => inner.text_or("type", "default"),
    }
}

fn refuse_scaled(family: DecoderFamily, local: &Fields<'_>) -> Result<()> {
    let kind = kind(local)?;
    if kind != "default" {
        let problem = format!(
            "rope scaling {kind:?} of layers with a window is not implemented for {}",
            family.name()
        );
        return Err(wrong(local.file, "rope_parameters", problem));
    }
    Ok(())
}

fn required(inner: &Fields<'_>, field: &str) -> Result<f64> {
    inner.number(field)?.ok_or_else(|| {
        let problem = "missing; expected a number".to_owned();
        wrong(inner.file, field, problem)
    })
}

fn share(family: DecoderFamily, fields: &Fields<'_>, named: &str, default: f64) -> Result<f64> {
    let share = fields.number_or("partial_rotary_factor", default)?;
    if share != 1.0 && family != DecoderFamily::Phi3 {
        let problem = match named {
            "partial_rotary_factor" => "only 1 is implemented",
            _ => "partial_rotary_factor other than 1 is not implemented",
        };
        return Err(wrong(fields.file, named, problem.into()));
    }
    Ok(share)
}

/// Writes the fields of transformers 4 and those of transformers 5 side by side.
pub(super) fn write(config: &DecoderConfig, rotary: &RotaryConfig, fields: &mut Value) {
    let mut parameters = match rotary.scaling {
        RopeScaling::None => json!({"rope_type": "default"}),
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 {
            factor,
            low,
            high,
            original,
        } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original,
        }),
    };
    fields["rope_theta"] = json!(rotary.theta);
    if rotary.scaling != RopeScaling::None {
        fields["rope_scaling"] = parameters.clone();
    }
    parameters["rope_theta"] = json!(rotary.theta);
    if rotary.share != 1.0 {
        fields["partial_rotary_factor"] = json!(rotary.share);
        parameters["partial_rotary_factor"] = json!(rotary.share);
    }
    fields["rope_parameters"] = match config.local_theta {
        None => parameters,
        Some(local) => {
            fields["rope_local_base_freq"] = json!(local);
            json!({
                "full_attention": parameters,
                "sliding_attention": {"rope_type": "default", "rope_theta": local},
            })
        }
    };
}

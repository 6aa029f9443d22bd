//! The rotary settings of `config.json`.

use serde_json::{Value, json};

use super::{
    family::DecoderFamily,
    features::{ORIGINAL, RopeScaling, RotaryConfig},
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
        let config = read_object(family, fields, (&full, "rope_parameters"), default)?;
        return Ok((config, theta.or(local_default(family))));
    }
    let mut config = RotaryConfig {
        theta: fields.number_or("rope_theta", default.theta)?,
        share: share(family, fields, "partial_rotary_factor", default.share)?,
        ..default
    };
    for field in ["rope_scaling", "rope_parameters"] {
        if let Some(inner) = fields.object(field)? {
            config = read_object(family, fields, (&inner, field), config)?;
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

/// `rope_scaling` of transformers 4, or `rope_parameters` of transformers 5; and the fields around them.
fn read_object(
    family: DecoderFamily,
    fields: &Fields<'_>,
    (inner, field): (&Fields<'_>, &str),
    outer: RotaryConfig,
) -> Result<RotaryConfig> {
    let kind = kind(family, inner)?;
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
                original: required(inner, ORIGINAL)?,
            },
            "yarn" => yarn(fields, inner)?,
            "longrope" => long_rope(fields, inner)?,
            _ => RopeScaling::None,
        },
        share: share(family, inner, field, outer.share)?,
    })
}

fn kind(family: DecoderFamily, inner: &Fields<'_>) -> Result<String> {
    let kind = match inner.has("rope_type") {
        true => inner.text("rope_type"),
        false => inner.text_or("type", "default"),
    }?;
    Ok(match (family, kind.as_str()) {
        // The names in Phi-3's first files.
        (DecoderFamily::Phi3, "su" | "yarn") => "longrope".into(),
        _ => kind,
    })
}

/// YaRN as `_compute_yarn_parameters` of transformers 5 has it.
fn yarn(fields: &Fields<'_>, inner: &Fields<'_>) -> Result<RopeScaling> {
    let factor = required(inner, "factor")?;
    let grown = |share: f64| match factor > 1.0 {
        true => 0.1 * share * factor.ln() + 1.0,
        false => 1.0,
    };
    let given = |field: &str| -> Result<Option<f64>> {
        Ok(inner.number(field)?.filter(|&value| value != 0.0))
    };
    let attention = match (
        inner.number("attention_factor")?,
        given("mscale")?,
        given("mscale_all_dim")?,
    ) {
        (Some(factor), _, _) => factor,
        (None, Some(of_one), Some(of_all)) => grown(of_one) / grown(of_all),
        (None, _, _) => grown(1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        fast: given("beta_fast")?.unwrap_or(32.0),
        slow: given("beta_slow")?.unwrap_or(1.0),
        truncate: inner.flag_or("truncate", true)?,
        original: original(fields, inner)? as f64,
        attention,
    })
}

/// LongRoPE as `_compute_longrope_parameters` of transformers 5 has it.
fn long_rope(fields: &Fields<'_>, inner: &Fields<'_>) -> Result<RopeScaling> {
    let original = original(fields, inner)?;
    let grown = fields.count("max_position_embeddings")? as f64 / original as f64;
    let factor = inner.number_or("factor", grown)?;
    let default = match factor > 1.0 {
        true => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
        false => 1.0,
    };
    Ok(RopeScaling::LongRope {
        short: inner.numbers("short_factor")?,
        long: inner.numbers("long_factor")?,
        original,
        attention: inner.number_or("attention_factor", default)?,
    })
}

/// The tokens of a text in the first training.
fn original(fields: &Fields<'_>, inner: &Fields<'_>) -> Result<usize> {
    let found = match fields.count_or_none(ORIGINAL)? {
        None => inner.count_or_none(ORIGINAL)?,
        outer => outer,
    };
    match found {
        Some(0) => Err(wrong(
            fields.file,
            ORIGINAL,
            "expected 1 or more, found 0".into(),
        )),
        Some(found) => Ok(found),
        None => fields.count("max_position_embeddings"),
    }
}

fn refuse_scaled(family: DecoderFamily, local: &Fields<'_>) -> Result<()> {
    let kind = kind(family, local)?;
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
    let mut parameters = match &rotary.scaling {
        RopeScaling::None => json!({"rope_type": "default"}),
        RopeScaling::Yarn {
            factor,
            fast,
            slow,
            truncate,
            original,
            attention,
        } => json!({
            "rope_type": "yarn",
            "factor": factor,
            "beta_fast": fast,
            "beta_slow": slow,
            "truncate": truncate,
            ORIGINAL: *original as u64,
            "attention_factor": attention,
        }),
        RopeScaling::LongRope {
            short,
            long,
            original,
            attention,
        } => json!({
            "rope_type": "longrope",
            "short_factor": short,
            "long_factor": long,
            ORIGINAL: original,
            "attention_factor": attention,
        }),
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
            ORIGINAL: original,
        }),
    };
    fields["rope_theta"] = json!(rotary.theta);
    match &rotary.scaling {
        RopeScaling::None => {}
        // Transformers 4 refuses other fields beside these.
        RopeScaling::LongRope {
            short,
            long,
            original,
            ..
        } => {
            fields[ORIGINAL] = json!(original);
            fields["rope_scaling"] =
                json!({"type": "longrope", "short_factor": short, "long_factor": long});
        }
        RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. } | RopeScaling::Yarn { .. } => {
            fields["rope_scaling"] = parameters.clone();
        }
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

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
    let outer = RotaryConfig {
        theta: fields.number_or("rope_theta", default.theta)?,
        share: share(family, fields, "partial_rotary_factor", default.share)?,
        ..default
    };
    let of_field =
        |inner: &Fields<'_>, field| read_object(family, fields, (inner, field), outer.clone());
    let scaling = fields.object("rope_scaling")?;
    let scaling = scaling.map(|inner| of_field(&inner, "rope_scaling"));
    let parameters = fields.object("rope_parameters")?;
    // Transformers 5 writes Gemma 3's two settings apart.
    if let Some(kinds) = &parameters
        && KINDS.iter().any(|kind| kinds.has(kind))
    {
        let [full, local] = KINDS.map(|kind| kinds.object(kind));
        let theta = match local? {
            Some(local) => {
                refuse_scaled(family, &local)?;
                local.number("rope_theta")?
            }
            None => None,
        };
        let full = full?.map(|full| of_field(&full, "rope_parameters"));
        let config = agreed(fields, scaling.transpose()?, full.transpose()?)?;
        return Ok((config.unwrap_or(outer), theta.or(local_default(family))));
    }
    let parameters = parameters.map(|inner| of_field(&inner, "rope_parameters"));
    let config = agreed(fields, scaling.transpose()?, parameters.transpose()?)?;
    let local = match local_default(family) {
        Some(default) => Some(fields.number_or("rope_local_base_freq", default)?),
        None => None,
    };
    Ok((config.unwrap_or(outer), local))
}

/// The kinds of layers that have rotary settings of their own.
const KINDS: [&str; 2] = ["full_attention", "sliding_attention"];

/// The one of the two objects that is there. Transformers takes one of them, so they must not differ.
fn agreed(
    fields: &Fields<'_>,
    scaling: Option<RotaryConfig>,
    parameters: Option<RotaryConfig>,
) -> Result<Option<RotaryConfig>> {
    match (scaling, parameters) {
        (Some(scaling), Some(parameters)) if scaling != parameters => {
            let problem = "expected the settings of rope_parameters, found others".to_owned();
            Err(wrong(fields.file, "rope_scaling", problem))
        }
        (scaling, parameters) => Ok(scaling.or(parameters)),
    }
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
        let known = known.join(", ");
        let problem = format!("rope scaling {kind:?} is not implemented; expected {known}");
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
                original: match fields.count_or_none(ORIGINAL)? {
                    Some(outer) => outer as f64,
                    None => required(inner, ORIGINAL)?,
                },
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
    let default = default_attention(inner.number_or("factor", grown)?, original);
    Ok(RopeScaling::LongRope {
        short: inner.numbers("short_factor")?,
        long: inner.numbers("long_factor")?,
        original,
        attention: inner.number_or("attention_factor", default)?,
    })
}

/// LongRoPE's factor of cosine and sine for texts that are longer than the first ones by this factor.
fn default_attention(factor: f64, original: usize) -> f64 {
    match factor > 1.0 {
        true => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
        false => 1.0,
    }
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
        RopeScaling::LongRope {
            short,
            long,
            original,
            attention,
        } => {
            fields[ORIGINAL] = json!(original);
            let grown = config.max_positions as f64 / *original as f64;
            // Transformers 4 refuses other fields beside these, so it cannot be told another factor.
            if *attention == default_attention(grown, *original) {
                fields["rope_scaling"] =
                    json!({"type": "longrope", "short_factor": short, "long_factor": long});
            }
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

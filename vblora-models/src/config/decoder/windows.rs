//! The layers with a sliding window, by `config.json`.

use serde_json::{Value, json};

use super::{
    family::{DecoderFamily, WindowRule},
    features::LayerSet,
    read::rotated,
};
use crate::{
    DecoderConfig, Result,
    config::{fields::Fields, wrong},
};

const SLIDING: &str = "sliding_attention";
const FULL: &str = "full_attention";

/// The window, and the layers that have it.
pub(super) fn read(
    family: DecoderFamily,
    fields: &Fields<'_>,
    layers: usize,
) -> Result<(Option<usize>, LayerSet)> {
    let kinds = fields.texts("layer_types")?;
    let (window, listed) = match family.window_rule() {
        WindowRule::Never => return never(family, fields, &kinds),
        WindowRule::Every(default) => return every(family, fields, &kinds, default),
        WindowRule::Asked => asked(fields, layers)?,
        WindowRule::Unrotated => unrotated(fields, layers)?,
        WindowRule::Alternating => spared(fields, layers, 2)?,
        WindowRule::Pattern(default) => spared(fields, layers, pattern(fields, default)?)?,
    };
    let listed = match kinds.is_empty() {
        true => listed,
        false => of_kinds(fields, &kinds, layers)?,
    };
    let is_needed = matches!(
        family.window_rule(),
        WindowRule::Alternating | WindowRule::Pattern(_)
    );
    match (window, listed.contains(&true)) {
        (Some(_), true) => Ok((window, LayerSet::of(listed))),
        (None, true) if is_needed => {
            let problem = "expected the window of its sliding layers, found null".to_owned();
            Err(wrong(fields.file, "sliding_window", problem))
        }
        _ => Ok((None, LayerSet::All)),
    }
}

fn never(
    family: DecoderFamily,
    fields: &Fields<'_>,
    kinds: &[String],
) -> Result<(Option<usize>, LayerSet)> {
    let found = fields.count_or_none("sliding_window")?;
    if found.is_none() && kinds.iter().all(|kind| kind == FULL) {
        return Ok((None, LayerSet::All));
    }
    let problem = format!("not implemented for {}", family.name());
    let field = match found {
        Some(_) => "sliding_window",
        None => "layer_types",
    };
    Err(wrong(fields.file, field, problem))
}

/// One window for all layers. `null` says that there is none.
fn every(
    family: DecoderFamily,
    fields: &Fields<'_>,
    kinds: &[String],
    default: Option<usize>,
) -> Result<(Option<usize>, LayerSet)> {
    let found = window_or(fields, default)?;
    let all = |kind: &str| kinds.iter().all(|found| found == kind);
    match found {
        Some(_) if all(SLIDING) => Ok((found, LayerSet::All)),
        _ if all(FULL) => Ok((None, LayerSet::All)),
        _ => {
            let problem = format!(
                "layers of different kinds of attention are not implemented for {}",
                family.name()
            );
            Err(wrong(fields.file, "layer_types", problem))
        }
    }
}

fn asked(fields: &Fields<'_>, layers: usize) -> Result<(Option<usize>, Vec<bool>)> {
    let window = match fields.flag_or("use_sliding_window", false)? {
        true => window_or(fields, Some(4096))?,
        false => None,
    };
    let first = fields.count_or("max_window_layers", 28)?;
    Ok((window, (0..layers).map(|layer| layer >= first).collect()))
}

fn unrotated(fields: &Fields<'_>, layers: usize) -> Result<(Option<usize>, Vec<bool>)> {
    let window = match fields.flag_or("use_sliding_window", false)? {
        true => window_or(fields, None)?,
        false => None,
    };
    let rotated = rotated(fields, layers)?;
    Ok((
        window,
        (0..layers).map(|layer| !rotated.has(layer)).collect(),
    ))
}

/// `sliding_window`, or what transformers takes where the field is absent. `null` says that there is none.
fn window_or(fields: &Fields<'_>, absent: Option<usize>) -> Result<Option<usize>> {
    match fields.mentions("sliding_window") {
        true => fields.count_or_none("sliding_window"),
        false => Ok(absent),
    }
}

/// The number of layers of which the last has no window.
fn pattern(fields: &Fields<'_>, default: usize) -> Result<usize> {
    let field = match fields.has("sliding_window_pattern") {
        true => "sliding_window_pattern",
        false => "_sliding_window_pattern",
    };
    let pattern = fields.count_or(field, default)?;
    if pattern == 0 {
        let problem = "expected 1 or more, found 0".to_owned();
        return Err(wrong(fields.file, field, problem));
    }
    Ok(pattern)
}

/// A window in all layers but every `pattern`-th.
fn spared(
    fields: &Fields<'_>,
    layers: usize,
    pattern: usize,
) -> Result<(Option<usize>, Vec<bool>)> {
    let window = window_or(fields, Some(4096))?;
    let listed = (1..=layers).map(|place| !place.is_multiple_of(pattern));
    Ok((window, listed.collect()))
}

fn of_kinds(fields: &Fields<'_>, kinds: &[String], layers: usize) -> Result<Vec<bool>> {
    if kinds.len() != layers {
        let problem = format!("{} entries for {layers} layers", kinds.len());
        return Err(wrong(fields.file, "layer_types", problem));
    }
    let is_sliding = |kind: &String| match kind.as_str() {
        SLIDING => Ok(true),
        FULL => Ok(false),
        _ => {
            let problem = format!("expected {SLIDING:?} or {FULL:?}, found {kind:?}");
            Err(wrong(fields.file, "layer_types", problem))
        }
    };
    kinds.iter().map(is_sliding).collect()
}

/// Writes the fields that the family's reader understands.
pub(super) fn write(config: &DecoderConfig, fields: &mut Value) {
    let has = |layer| config.window.is_some() && config.windowed.has(layer);
    let kinds: Vec<_> = (0..config.num_layers)
        .map(|layer| if has(layer) { SLIDING } else { FULL })
        .collect();
    match config.family.window_rule() {
        WindowRule::Never => {}
        WindowRule::Every(_) => fields["sliding_window"] = json!(config.window),
        WindowRule::Asked | WindowRule::Unrotated => {
            fields["use_sliding_window"] = json!(config.window.is_some());
            fields["sliding_window"] = json!(config.window);
            fields["layer_types"] = json!(kinds);
        }
        WindowRule::Alternating | WindowRule::Pattern(_) => {
            fields["sliding_window"] = json!(config.window);
            fields["layer_types"] = json!(kinds);
        }
    }
}

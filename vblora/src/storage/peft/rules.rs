//! PEFT's rules: the modules that an adapter is on, and those of them with a rank or a scale of their own.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

use super::fields::{Fields, real_of, shown, shown_text, size_of, texts};
use crate::{Error, LoraConfig, Result, pattern::Pattern, site::has_suffix, storage::strict_json};

/// More patterns are refused: each of them is matched with each module. EVA writes one per module, a few thousand at most.
const MAX_PATTERNS: usize = 10_000;

/// Names of modules.
#[derive(Debug, Clone, PartialEq)]
enum Names {
    /// A regular expression for the whole name.
    Pattern(String),
    /// Whole names, or their endings after a dot.
    List(Vec<String>),
    /// `all-linear`
    Linear,
}

/// The fields that pick modules: `target_modules`, `exclude_modules`, `modules_to_save`, `layers_to_transform`, `layers_pattern`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rules {
    targets: Option<Names>,
    excluded: Option<Names>,
    saved: Vec<String>,
    layers: Vec<u64>,
    layers_pattern: Vec<String>,
}

impl Rules {
    pub(super) fn of(fields: &Fields, is_lora: bool) -> Result<Self, String> {
        let targets = names(fields, "target_modules")?.map(|names| match names {
            Names::Pattern(text) if text.to_lowercase() == "all-linear" => Names::Linear,
            names => names,
        });
        let layers = layers(fields)?;
        let layers_pattern = match names(fields, "layers_pattern")? {
            None | Some(Names::Linear) => Vec::new(),
            Some(Names::Pattern(pattern)) if pattern.is_empty() => Vec::new(),
            Some(Names::Pattern(pattern)) => vec![pattern],
            Some(Names::List(patterns)) => patterns,
        };
        // PEFT refuses these, too.
        let is_text = matches!(&targets, Some(Names::Pattern(_) | Names::Linear));
        let is_given = |key: &str| fields.get(key).is_some_and(|value| !value.is_null());
        for key in ["layers_to_transform", "layers_pattern"] {
            if is_lora && is_text && is_given(key) {
                return Err(format!(
                    "{key}: expected null beside a text as target_modules, found {}",
                    shown(&fields[key])
                ));
            }
        }
        if !layers_pattern.is_empty() && !is_given("layers_to_transform") {
            return Err(format!(
                "layers_pattern is {layers_pattern:?}, but layers_to_transform is null"
            ));
        }
        Ok(Self {
            targets,
            excluded: names(fields, "exclude_modules")?,
            saved: texts(fields, "modules_to_save")?.unwrap_or_default(),
            layers,
            layers_pattern,
        })
    }

    /// Compiles the rules. Returns `None` if PEFT chooses by the model's class.
    ///
    /// # Errors
    /// This library cannot follow a pattern. The text names the field, the pattern and the cause.
    pub(super) fn compile(&self) -> Result<Option<Picker>, String> {
        let excluded = match &self.excluded {
            // An empty text or list excludes nothing.
            Some(Names::Pattern(pattern)) if pattern.is_empty() => None,
            Some(names) => Some(Matcher::of("exclude_modules", names)?),
            None => None,
        };
        let saved = self.saved.iter().map(|name| {
            compile("modules_to_save", name, |name| {
                Pattern::beginning(&format!(r"(^|.*\.){name}($|\..*)"))
            })
        });
        let saved = saved.collect::<Result<Vec<_>, String>>()?;
        let layer = self.layer_patterns()?;
        let Some(targets) = &self.targets else {
            return Ok(None);
        };
        Ok(Some(Picker {
            targets: Matcher::of("target_modules", targets)?,
            excluded,
            saved,
            layers: self.layers.clone(),
            layer,
        }))
    }

    fn layer_patterns(&self) -> Result<Vec<Pattern>, String> {
        if self.layers.is_empty() && self.layers_pattern.is_empty() {
            // All layers count, so none is looked for.
            return Ok(Vec::new());
        }
        if self.layers_pattern.is_empty() {
            // The layer is the first numeric part of a name with at least two parts before it.
            let pattern = Pattern::beginning(r".*?\.[^.]*\.(?P<idx>\d+)\.");
            return Ok(vec![pattern.map_err(|error| error.to_string())?]);
        }
        let patterns = self.layers_pattern.iter().map(|part| {
            compile("layers_pattern", part, |part| {
                Pattern::beginning(&format!(r"(?:^|.*?\.){part}\.(?P<idx>\d+)\."))
            })
        });
        patterns.collect()
    }
}

/// Compiled [`Rules`].
pub(super) struct Picker {
    targets: Matcher,
    excluded: Option<Matcher>,
    saved: Vec<Pattern>,
    layers: Vec<u64>,
    layer: Vec<Pattern>,
}

impl Picker {
    /// True if the adapter is on the module of this name, by PEFT's `check_target_module_exists`.
    ///
    /// # Errors
    /// A pattern takes too many steps.
    pub(super) fn picks(&self, name: &str) -> Result<bool> {
        if let Some(excluded) = &self.excluded
            && excluded.matches(name)?
        {
            return Ok(false);
        }
        for saved in &self.saved {
            if saved.matches(name)? {
                return Ok(false);
            }
        }
        if !self.targets.matches(name)? {
            return Ok(false);
        }
        match &self.targets {
            // A module that is listed by its whole name counts on any layer.
            Matcher::List(list) if !list.iter().any(|whole| whole == name) => self.has_layer(name),
            _ => Ok(true),
        }
    }

    fn has_layer(&self, name: &str) -> Result<bool> {
        if self.layers.is_empty() {
            return Ok(true);
        }
        for pattern in &self.layer {
            if let Some(number) = pattern.group("idx", name)? {
                let number = number.parse().ok();
                return Ok(number.is_some_and(|number| self.layers.contains(&number)));
            }
        }
        Ok(false)
    }
}

enum Matcher {
    Pattern(Pattern),
    List(Vec<String>),
    Linear,
}

impl Matcher {
    fn of(field: &str, names: &Names) -> Result<Self, String> {
        Ok(match names {
            Names::Pattern(pattern) => Self::Pattern(compile(field, pattern, Pattern::whole)?),
            Names::List(list) => Self::List(list.clone()),
            Names::Linear => Self::Linear,
        })
    }

    fn matches(&self, name: &str) -> Result<bool> {
        match self {
            Self::Pattern(pattern) => pattern.matches(name),
            Self::List(list) => Ok(list.iter().any(|part| has_suffix(name, part))),
            // PEFT leaves the output layer out.
            Self::Linear => Ok(!has_suffix(name, "lm_head")),
        }
    }
}

/// Compiles the pattern of a field.
fn compile(
    field: &str,
    given: &str,
    compile: impl Fn(&str) -> Result<Pattern>,
) -> Result<Pattern, String> {
    compile(&as_here(given)).map_err(|error| {
        let reason = match error {
            Error::Pattern { reason, .. } => reason,
            other => other.to_string(),
        };
        format!(
            "{field}: expected names or a regular expression that this library can follow, found {:?}: {reason}",
            shown_text(given)
        )
    })
}

/// A pattern with Python's `\Z`, the very end of a text, as `\z`.
fn as_here(pattern: &str) -> String {
    let mut is_escaped = false;
    let letters = pattern.chars().map(|letter| {
        let is_end = is_escaped && letter == 'Z';
        is_escaped = letter == '\\' && !is_escaped;
        if is_end { 'z' } else { letter }
    });
    letters.collect()
}

fn names(fields: &Fields, key: &str) -> Result<Option<Names>, String> {
    match fields.get(key) {
        Some(Value::String(pattern)) => Ok(Some(Names::Pattern(pattern.clone()))),
        Some(Value::Null | Value::Array(_)) | None => {
            texts(fields, key).map(|list| list.map(Names::List))
        }
        Some(other) => Err(format!(
            "{key}: expected a text or a list of texts, found {}",
            shown(other)
        )),
    }
}

/// The layers; an empty list stands for all.
fn layers(fields: &Fields) -> Result<Vec<u64>, String> {
    let list = match fields.get("layers_to_transform") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    let number = |value: &Value| {
        let number = value.as_u64();
        number.ok_or_else(|| {
            format!(
                "layers_to_transform: expected whole numbers, found {}",
                shown(value)
            )
        })
    };
    list.iter().map(number).collect()
}

/// The keys of `rank_pattern` and `alpha_pattern` in the order of the file: the first that matches counts.
#[derive(Default, Deserialize)]
pub(super) struct Order {
    rank_pattern: Option<Keys>,
    alpha_pattern: Option<Keys>,
}

impl Order {
    /// The order in a configuration that has been read. It is empty if a pattern is no object; [`Patterns::of`] refuses that by name.
    pub(super) fn of(text: &[u8]) -> Self {
        serde_json::from_slice(strict_json::without_mark(text)).unwrap_or_default()
    }
}

#[derive(Default)]
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of names or patterns")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = entries.next_entry()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// LoRA's `rank_pattern` and `alpha_pattern`, in order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Patterns {
    ranks: Vec<(String, usize)>,
    alphas: Vec<(String, f64)>,
}

impl Patterns {
    /// `order` must be that of the same fields.
    pub(super) fn of(fields: &Fields, order: Order) -> Result<Self, String> {
        Ok(Self {
            ranks: entries(fields, "rank_pattern", order.rank_pattern, |value| {
                size_of(value).ok_or("a whole number from 1")
            })?,
            alphas: entries(fields, "alpha_pattern", order.alpha_pattern, real_of)?,
        })
    }

    /// The settings of each module, with its own rank and alpha if a pattern gives them.
    ///
    /// # Errors
    /// This library cannot follow a pattern.
    pub(super) fn settings(
        &self,
        default: &LoraConfig,
        modules: &[&str],
    ) -> Result<Vec<LoraConfig>> {
        let ranks = first_matches(&self.ranks, modules)?;
        let alphas = first_matches(&self.alphas, modules)?;
        let own = ranks.into_iter().zip(alphas);
        Ok(own
            .map(|(rank, alpha)| LoraConfig {
                rank: rank.unwrap_or(default.rank),
                alpha: alpha.unwrap_or(default.alpha),
                ..default.clone()
            })
            .collect())
    }
}

fn entries<T>(
    fields: &Fields,
    key: &str,
    order: Option<Keys>,
    read: impl Fn(&Value) -> Result<T, &'static str>,
) -> Result<Vec<(String, T)>, String> {
    let map = match fields.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(other) => return Err(format!("{key}: expected an object, found {}", shown(other))),
    };
    if map.len() > MAX_PATTERNS {
        return Err(format!(
            "{key} has {} patterns, over the limit of {MAX_PATTERNS}",
            map.len()
        ));
    }
    let Keys(order) = order.unwrap_or_default();
    let entry = |name: String| {
        let value = &map[&name];
        match read(value) {
            Ok(value) => Ok((name, value)),
            Err(expected) => Err(format!(
                "{key}, {name:?}: expected {expected}, found {}",
                shown(value)
            )),
        }
    };
    order.into_iter().map(entry).collect()
}

/// The value of the first pattern that a module's name ends in. Otherwise the value of the name itself as a key, as in PEFT's
/// `get_pattern_key`.
fn first_matches<T: Copy>(patterns: &[(String, T)], modules: &[&str]) -> Result<Vec<Option<T>>> {
    let mut found = vec![None; modules.len()];
    for (name, value) in patterns {
        let pattern = Pattern::beginning(&format!(r"(.*\.)?({})$", as_here(name)))?;
        for (module, found) in modules.iter().zip(&mut found) {
            if found.is_none() && pattern.matches(module)? {
                *found = Some(*value);
            }
        }
    }
    for (module, found) in modules.iter().zip(&mut found) {
        let whole = || patterns.iter().find(|(name, _)| name == module);
        *found = found.or_else(|| whole().map(|(_, value)| *value));
    }
    Ok(found)
}

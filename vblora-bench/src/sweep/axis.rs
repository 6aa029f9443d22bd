//! The keys that a sweep can vary: short names, the recipe's dotted keys, and the methods that take them.

use std::collections::BTreeMap;

use clap::ValueEnum;
use toml::{Table, Value};

use crate::{
    Error, Result,
    evaluate::{Benchmark, Evaluation},
    recipes::{Recipe, Size},
    tasks::Task,
    train::Method,
};

/// The recipe that a run starts from. It is no value of the run, which has all keys of the recipe instead.
const RECIPE: &str = "recipe";

/// The keys of a run that are not part of its recipe.
pub(super) const RUN_KEYS: [&str; 6] = [RECIPE, "model", "data", "task", "method", "seed"];

/// The keys of a run on texts that are not part of its recipe, beside those of benchmarks.
pub(super) const TEXT_KEYS: [&str; 4] = ["format", "held_out", "rows", "held_out_rows"];

/// The start of a benchmark's keys: `evaluate.gsm8k.limit`.
pub(super) const EVALUATE: &str = "evaluate.";

/// Returns true if a key is one of a run on texts and not of its recipe.
pub(super) fn is_text_key(key: &str) -> bool {
    TEXT_KEYS.contains(&key) || key.starts_with(EVALUATE)
}

/// The recipe's keys with a short name, except `r`, which is the rank of any method.
const SHORT: [(&str, &str); 4] = [
    ("k", "vblora.topk"),
    ("h", "vblora.bank"),
    ("b", "vblora.vector_length"),
    ("selection", "vblora.selection"),
];

/// Written for a key that a method does not take.
pub(crate) const NOT_TAKEN: &str = "-";

/// Finds a method by its name.
///
/// # Errors
/// There is no such method. The error lists all methods.
pub(crate) fn method(name: &str) -> Result<Method> {
    let found = <Method as ValueEnum>::from_str(name, false);
    found.map_err(|_| Error::UnknownName {
        what: "method",
        name: name.into(),
        expected: names(|_| true),
    })
}

/// The names of the methods that fulfil a condition, separated by commas.
fn names(fulfils: impl Fn(Method) -> bool) -> String {
    let methods = Method::value_variants().iter().copied();
    let names: Vec<_> = methods
        .filter(|method| fulfils(*method))
        .map(Method::name)
        .collect();
    names.join(", ")
}

/// The recipe's key for a short name.
pub(super) fn recipe_key(method: Method, key: &str) -> String {
    let short = SHORT.iter().find(|(short, _)| *short == key);
    match short {
        Some((_, long)) => (*long).into(),
        None if key == "r" => format!("{}.rank", method.name().replace('-', "_")),
        None => key.into(),
    }
}

fn has_adapter(method: Method) -> bool {
    !matches!(method, Method::Head | Method::Full)
}

/// The method whose adapter owns a table, or a group of parameters, of this name.
fn owner(table: &str) -> Option<Method> {
    let method = method(&table.replace('_', "-")).ok()?;
    Some(method).filter(|method| has_adapter(*method))
}

/// Returns true if a run of this method depends on a key of the recipe. LoRA does not depend on the bank's size, for example.
pub(super) fn takes(method: Method, key: &str) -> bool {
    let (table, rest) = key.split_once('.').unwrap_or((key, ""));
    match (table, rest) {
        ("targets", _) => has_adapter(method),
        ("bank", _) => method == Method::VbLora,
        // The model's name and the list of seeds are notes. The run uses other values.
        ("model" | "seeds" | "differs", _) => false,
        ("lr" | "weight_decay", "bank" | "logits") => method == Method::VbLora,
        ("lr" | "weight_decay", "adapter") => has_adapter(method) && method != Method::VbLora,
        ("lr" | "weight_decay", "base") => method == Method::Full,
        ("lr" | "weight_decay", group) => owner(group).is_none_or(|owner| owner == method),
        _ => owner(table).is_none_or(|owner| owner == method),
    }
}

/// The reason why a method cannot have a key, with the methods that can.
pub(super) fn not_taken(method: Method, key: &str) -> String {
    let takers = names(|method| takes(method, &recipe_key(method, key)) && has_key(method, key));
    format!(
        "method {} does not take \"{key}\", only: {takers}",
        method.name()
    )
}

/// `r` has no meaning without an adapter.
fn has_key(method: Method, key: &str) -> bool {
    key != "r" || has_adapter(method)
}

/// Returns true if a method can have a key of a sweep file.
pub(super) fn can_have(method: Method, key: &str) -> bool {
    has_key(method, key) && takes(method, &recipe_key(method, key))
}

/// Sets one key of the recipe through its TOML form, so that errors are the recipe's own.
///
/// # Errors
/// There is no such key, or the value has another type.
pub(super) fn set(
    recipe: &Recipe,
    key: &str,
    value: &Value,
) -> std::result::Result<Recipe, String> {
    let mut table = table(recipe);
    let mut parts = key.split('.').peekable();
    let mut place = &mut table;
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            place.insert(part.into(), value.clone());
            break;
        }
        let entry = place.entry(part).or_insert_with(|| Table::new().into());
        place = entry
            .as_table_mut()
            .ok_or_else(|| format!("\"{part}\" of \"{key}\" is not a table"))?;
    }
    let set: std::result::Result<Recipe, _> = Value::Table(table).try_into();
    set.map_err(|error| {
        let message = format!("\"{key}\": {}", one_line(&error));
        match message.contains("unknown field") && !key.contains('.') {
            true => {
                let names: Vec<_> = own().collect();
                format!("{message}; or one of {}", names.join(", "))
            }
            false => message,
        }
    })
}

/// The keys of a sweep file that are not recipe keys.
fn own() -> impl Iterator<Item = &'static str> {
    let short = SHORT.iter().map(|(short, _)| *short).chain(["r"]);
    RUN_KEYS.into_iter().chain(short)
}

/// Refuses a key of a table's rows or columns under which no run has a value.
///
/// # Errors
/// There is no such key. The message has the known names.
pub(super) fn check_table_key(key: &str) -> std::result::Result<(), String> {
    if key != RECIPE && own().chain(TEXT_KEYS).any(|known| known == key) {
        return Ok(());
    }
    if let Some(setting) = key.strip_prefix(EVALUATE) {
        return check_benchmark_key(setting).map_err(|problem| format!("\"{key}\": {problem}"));
    }
    let recipe = Recipe::builtin(Size::Demo, &Task::demo()).map_err(|error| error.to_string())?;
    let mut leaves = BTreeMap::new();
    flatten(&table(&recipe), "", &mut leaves);
    let below = format!("{key}.");
    let below = leaves.keys().filter(|leaf| leaf.starts_with(&below));
    let below: Vec<_> = below.map(String::as_str).collect();
    if !below.is_empty() {
        return Err(format!(
            "\"{key}\" is a table, expected one of its keys: {}",
            below.join(", ")
        ));
    }
    let known: Vec<_> = own()
        .filter(|key| *key != RECIPE)
        .chain(TEXT_KEYS)
        .collect();
    let known = format!("{}, {EVALUATE}BENCHMARK.KEY", known.join(", "));
    let mut methods = Method::value_variants().iter();
    match leaves.contains_key(key) {
        true if methods.any(|method| takes(*method, key)) => return Ok(()),
        true => {
            return Err(format!(
                "no run has a value of \"{key}\", expected one of {known}, or a key of the recipe"
            ));
        }
        false => {}
    }
    // A key that this recipe has no value of is known if its reader knows it.
    match set(&recipe, key, &Value::Boolean(true)) {
        Err(problem) if problem.contains("unknown field") || problem.contains("not a table") => {
            let problem = problem.split("; or one of ").next().unwrap_or_default();
            Err(format!("{problem}; or one of {known}"))
        }
        _ => Ok(()),
    }
}

/// Checks a benchmark and its setting, such as `gsm8k.limit`.
fn check_benchmark_key(key: &str) -> std::result::Result<(), String> {
    let (name, setting) = key.split_once('.').unwrap_or((key, ""));
    name.parse::<Benchmark>()
        .map_err(|error| error.to_string())?;
    let table = Table::from_iter([(setting.to_owned(), Value::Boolean(true))]);
    let read: std::result::Result<Evaluation, _> = Value::Table(table).try_into();
    match read.map_err(|error| one_line(&error)) {
        Err(problem) if problem.contains("unknown field") => Err(problem),
        _ => Ok(()),
    }
}

/// An error of the TOML reader without its line breaks.
pub(super) fn one_line(error: &impl ToString) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ")
}

fn table(recipe: &Recipe) -> Table {
    Table::try_from(recipe).expect("a recipe is a TOML table: it is read from one")
}

/// Every dotted key of a recipe that the method depends on, with its value as TOML.
pub(crate) fn effective(recipe: &Recipe, method: Method) -> BTreeMap<String, String> {
    let mut leaves = BTreeMap::new();
    flatten(&table(recipe), "", &mut leaves);
    leaves.retain(|key, _| takes(method, key));
    leaves
}

fn flatten(table: &Table, prefix: &str, leaves: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        match value {
            Value::Table(inner) => flatten(inner, &format!("{prefix}{key}."), leaves),
            Value::String(text) => {
                leaves.insert(format!("{prefix}{key}"), text.clone());
            }
            other => {
                leaves.insert(format!("{prefix}{key}"), other.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo() -> Recipe {
        Recipe::builtin(Size::Demo, &Task::demo()).unwrap()
    }

    #[test]
    fn short_names_are_keys_of_the_recipe() {
        for (key, value, method) in [
            ("k", 3, Method::VbLora),
            ("h", 24, Method::VbLora),
            ("b", 32, Method::VbLora),
            ("r", 2, Method::VbLora),
            ("r", 5, Method::Lora),
        ] {
            let long = recipe_key(method, key);
            let recipe = set(&demo(), &long, &Value::Integer(value)).unwrap();
            assert_ne!(recipe, demo(), "{long}");
            assert_eq!(effective(&recipe, method)[&long], value.to_string());
        }
    }

    #[test]
    fn an_unknown_key_or_type_is_refused_in_the_recipes_words() {
        let refused = |key: &str, value: Value| set(&demo(), key, &value).unwrap_err();
        let error = refused("vblora.top_k", Value::Integer(2));
        assert!(
            error.contains("`top_k`") && error.contains("`topk`"),
            "{error}"
        );
        let error = refused("epochs", Value::String("two".into()));
        assert!(
            error.contains("\"epochs\"") && error.contains("two"),
            "{error}"
        );
        let error = refused("kk", Value::Integer(2));
        assert!(
            error.ends_with("method, seed, k, h, b, selection, r"),
            "{error}"
        );
        assert!(refused("epochs.x", Value::Integer(1)).contains("not a table"));
    }

    #[test]
    fn a_table_has_keys_that_runs_have() {
        for key in [
            "method",
            "model",
            "data",
            "task",
            "seed",
            "k",
            "h",
            "b",
            "r",
            "selection",
            "targets",
            "lr.bank",
            "lr.adapter",
            "vblora.topk",
            "class_weights",
            "text.packing",
            "format",
            "rows",
            "held_out",
            "evaluate.gsm8k.limit",
            "epochs",
        ] {
            check_table_key(key).unwrap();
        }
        for (key, words) in [
            ("methods", "unknown field `methods`"),
            ("kk", "k, h, b, selection, r, format, held_out"),
            ("recipe", "; or one of model, data, task, method, seed, k"),
            ("vblora.top_k", "`topk`"),
            ("lr.banks", "`bank`"),
            ("lr", "lr.bank, "),
            (
                "seeds",
                "expected one of model, data, task, method, seed, k",
            ),
            ("epochs.x", "not a table"),
            ("evaluate.gsm.limit", "gsm8k"),
            ("evaluate.gsm8k.limits", "`limit`"),
            ("evaluate.gsm8k", "`limit`"),
            ("", "unknown field"),
        ] {
            let error = check_table_key(key).unwrap_err();
            assert!(
                error.contains(key) && error.contains(words),
                "{key}: {error}"
            );
        }
    }

    #[test]
    fn a_method_depends_on_its_own_keys_alone() {
        for (key, takers) in [
            ("k", "vblora"),
            ("lr.bank", "vblora"),
            ("lr.base", "full"),
            ("lora.alpha", "lora"),
        ] {
            let error = not_taken(Method::Head, key);
            assert!(error.ends_with(&format!("only: {takers}")), "{error}");
        }
        assert!(can_have(Method::Lora, "r") && !can_have(Method::Head, "r"));
        assert!(can_have(Method::Head, "lr.head") && can_have(Method::Full, "head.dropout"));
        assert!(can_have(Method::Lora, "lr.adapter") && !can_have(Method::VbLora, "lr.adapter"));
        assert!(!can_have(Method::Full, "targets") && can_have(Method::Full, "epochs"));
    }

    #[test]
    fn settings_of_other_methods_do_not_change_what_a_run_is() {
        let (mut other, recipe) = (demo(), demo());
        (other.vblora.bank, other.lr.logits, other.seeds) = (12, 0.5, vec![7]);
        assert_eq!(
            effective(&other, Method::Lora),
            effective(&recipe, Method::Lora)
        );
        let vblora = effective(&other, Method::VbLora);
        assert_ne!(vblora, effective(&recipe, Method::VbLora));
        assert!(vblora.contains_key("lr.logits") && !vblora.contains_key("lora.rank"));
    }
}

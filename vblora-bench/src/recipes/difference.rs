//! The first setting in which two recipes differ.

use std::collections::BTreeMap;

use super::Recipe;
use crate::Result;

/// A setting that two recipes have in two values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Its key, with the tables that it is in: `lr.head`.
    pub(crate) key: String,
    /// The first recipe's value.
    pub(crate) first: String,
    /// The second recipe's value.
    pub(crate) second: String,
}

/// The first setting in which two recipes differ: the task, the model, or another in the order of the alphabet.
///
/// # Errors
/// A recipe cannot be written as TOML.
pub(crate) fn first_difference(first: &Recipe, second: &Recipe) -> Result<Option<Difference>> {
    // Tasks of one name may differ in their columns and labels. Tasks of two names have nothing in common.
    let tasks = [&first.task, &second.task].map(|task| format!("{:?}", task.name()));
    let (first, second) = (settings(first)?, settings(second)?);
    let named = |key: &str, [first, second]: [String; 2]| Difference {
        key: key.to_owned(),
        first,
        second,
    };
    if tasks[0] != tasks[1] {
        return Ok(Some(named("task", tasks)));
    }
    let values = |key: &str| {
        let value = |of: &BTreeMap<String, String>| of.get(key).cloned();
        [&first, &second].map(|of| value(of).unwrap_or_else(|| "not set".into()))
    };
    let (model, all) = (["model".to_owned()], first.keys().chain(second.keys()));
    let mut keys: Vec<&String> = all.collect();
    keys.sort_unstable();
    let mut keys = model.iter().chain(keys).map(|key| (key, values(key)));
    Ok(keys
        .find(|(_, [first, second])| first != second)
        .map(|(key, values)| named(key, values)))
}

/// Every key of a recipe, with the tables that it is in, and its value.
fn settings(recipe: &Recipe) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    flatten("", recipe.to_table()?, &mut found);
    Ok(found)
}

fn flatten(place: &str, table: toml::Table, found: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let key = format!("{place}{key}");
        match value {
            toml::Value::Table(inner) => flatten(&format!("{key}."), inner, found),
            value => drop(found.insert(key, value.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{recipes::Size, tasks::Task};

    #[test]
    fn the_first_key_that_differs_is_named_with_both_values() {
        let recipe = || Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
        let found = |edit: &dyn Fn(&mut Recipe)| {
            let mut other = recipe();
            edit(&mut other);
            first_difference(&recipe(), &other)
                .unwrap()
                .map(|Difference { key, first, second }| [key, first, second].join(" "))
        };
        assert_eq!(found(&|_| ()), None);
        let rate = format!("lr.head {:?} 0.5", recipe().lr.head);
        type Edit = fn(&mut Recipe);
        let cases: [(Edit, &str); 3] = [
            (|r| r.lr.head = 0.5, &rate),
            (|r| r.max_steps = Some(7), "max_steps not set 7"),
            // The task is named before keys that come with it.
            (
                |r| (r.task, r.batch, r.model) = (Task::mrpc(), 1, "x".into()),
                "task \"demo\" \"mrpc\"",
            ),
        ];
        for (edit, expected) in cases {
            assert_eq!(found(&edit).as_deref(), Some(expected));
        }
    }
}

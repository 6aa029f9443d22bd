//! Sets of classes as text.

use super::example::Label;

/// The set of classes whose names the text lists; `None` if one of them is unknown. An empty text is the empty set. A class may be named
/// twice. Without a separator the whole text is one name.
pub(super) fn parse(text: &str, names: &[String], separator: Option<&str>) -> Option<Label> {
    let ids: Option<Vec<usize>> = split(text, separator)
        .map(|part| names.iter().position(|name| name == part))
        .collect();
    Some(set(ids?))
}

/// The label with these classes, in any order.
pub(super) fn set(mut ids: Vec<usize>) -> Label {
    ids.sort_unstable();
    ids.dedup();
    Label::Classes(ids)
}

/// The names that a text lists.
pub(super) fn split<'a>(
    text: &'a str,
    separator: Option<&'a str>,
) -> impl Iterator<Item = &'a str> {
    let parts = match separator {
        Some(separator) => text.split(separator).collect(),
        None => vec![text],
    };
    parts
        .into_iter()
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

/// The texts that a file may use for a set, for messages.
pub(super) fn expected(names: &[String], separator: Option<&str>) -> String {
    let names = names.join(", ");
    match separator {
        Some(separator) => format!("labels of {names}, separated by {separator:?}"),
        None => format!("a label of {names}"),
    }
}

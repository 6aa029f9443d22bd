//! Reads a row with a conversation: `messages` of roles and contents, or ShareGPT's `conversations`.

use serde_json::{Map, Value};
use vblora_models::Message;

use super::rows::{Row, shown};
use crate::Result;

/// The fields that hold the turns of a conversation.
pub(crate) const FIELDS: [&str; 2] = ["messages", "conversations"];
/// ShareGPT's field for a system prompt beside the turns.
const SYSTEM: &str = "system";
/// Fields of a row that change what the model reads. They are refused rather than left out.
const OF_ROWS: [&str; 8] = [
    "tools",
    "functions",
    "images",
    "image",
    "videos",
    "audios",
    "documents",
    "chat_template_kwargs",
];
/// Fields of a row with which other trainers choose the answers that are learned. They are refused rather than left out.
const OF_TRAINING: [&str; 2] = ["train", "mask_history"];
/// The weight of a row or a turn.
const WEIGHT: &str = "weight";
/// Roles by their names in both forms.
const ROLES: [(&str, &str); 5] = [
    ("system", "system"),
    ("user", "user"),
    ("human", "user"),
    ("assistant", "assistant"),
    ("gpt", "assistant"),
];
/// Roles of tools in both forms.
const TOOLS: [&str; 4] = ["tool", "function", "function_call", "observation"];

/// The turns of a row. None if there is nothing to learn: no turn of the assistant, or a turn of user or assistant that is blank.
///
/// # Errors
/// The row has no turns, or both fields, or a field that changes what the model reads or learns. A turn has an unknown role, no text, something
/// that is not a text, or another field: a chat template could write it. A turn of the assistant is the first.
pub(super) fn read(row: &Row<'_>) -> Result<Option<Vec<Message>>> {
    if let Some(field) = given(&row.values, &OF_ROWS) {
        return Err(row.error(
            "a conversation of texts alone",
            format!("a field \"{field}\""),
        ));
    }
    if let Some(field) = given(&row.values, &OF_TRAINING) {
        return Err(row.error(
            "no field that chooses what is learned, as each answer is learned",
            format!("a field \"{field}\""),
        ));
    }
    if let Some(weight) = other_weight(&row.values) {
        return Err(row.error(EACH, found(Some(weight))));
    }
    let (field, turns) = turns(row)?;
    let mut messages = Vec::with_capacity(turns.len() + 1);
    let has_system = row.values.get(SYSTEM).is_some_and(|value| !value.is_null());
    if has_system {
        messages.push(Message::new(SYSTEM, row.text(SYSTEM)?));
    }
    for (i, turn) in (1..).zip(turns) {
        let named = |problem: String| format!("{problem} in turn {i} of field \"{field}\"");
        let wrong = |expected: &str, found: String| row.error(named(expected.to_owned()), found);
        messages.push(message(turn, wrong)?);
    }
    let turn = |message: usize| {
        let number = message + usize::from(!has_system);
        format!("turn {number} of field \"{field}\"")
    };
    let is_later_system = |at: &usize| messages[*at].role == SYSTEM;
    if let Some(at) = (1..messages.len()).find(is_later_system) {
        return Err(match has_system {
            true => row.error(
                format!("one system prompt, in field \"{SYSTEM}\" or as the first turn"),
                format!("field \"{SYSTEM}\" and {}", turn(at)),
            ),
            false => row.error(
                "a system prompt in front of all other turns",
                format!("one in {}", turn(at)),
            ),
        });
    }
    let first = messages.iter().position(|m| m.role != SYSTEM);
    if let Some(at) = first.filter(|at| messages[*at].role == "assistant") {
        let expected = "a turn of the user before the first of the assistant";
        return Err(row.error(expected, format!("the assistant in {}", turn(at))));
    }
    let is_blank = |m: &Message| m.role != SYSTEM && m.content.trim().is_empty();
    let teaches = messages.iter().any(|m| m.role == "assistant") && !messages.iter().any(is_blank);
    Ok(teaches.then_some(messages))
}

/// The field with the turns, and the turns.
fn turns<'a>(row: &'a Row<'_>) -> Result<(&'static str, &'a Vec<Value>)> {
    let found: Vec<_> = FIELDS
        .into_iter()
        .filter(|field| row.values.contains_key(*field))
        .collect();
    let expected = "a conversation in a field \"messages\" or \"conversations\"";
    match found.as_slice() {
        [] => Err(row.error(expected, row.names())),
        [field] => match &row.values[*field] {
            Value::Array(turns) => Ok((field, turns)),
            other => Err(row.error(
                format!("a list of turns in field \"{field}\""),
                shown(&other.to_string()),
            )),
        },
        _ => Err(row.error(expected, "both")),
    }
}

fn message(turn: &Value, wrong: impl Fn(&str, String) -> crate::Error) -> Result<Message> {
    let Value::Object(turn) = turn else {
        return Err(wrong("an object", shown(&turn.to_string())));
    };
    let [role, content] = match turn.contains_key("from") && !turn.contains_key("role") {
        true => ["from", "value"],
        false => ["role", "content"],
    };
    let is_other = |name: &&String| ![role, content, WEIGHT].contains(&name.as_str());
    let mut others = turn.keys().filter(is_other);
    if let Some(other) = others.find(|name| is_given(turn.get(*name))) {
        return Err(wrong(
            &format!("no field but \"{role}\", \"{content}\" and \"{WEIGHT}\""),
            format!("a field \"{}\"", shown(other)),
        ));
    }
    let said = match turn.get(role) {
        Some(Value::String(said)) => said.as_str(),
        other => return Err(wrong(&format!("text as \"{role}\""), found(other))),
    };
    if TOOLS.contains(&said) {
        return Err(wrong("no tool", format!("the role \"{said}\"")));
    }
    let Some((_, role)) = ROLES.iter().find(|(name, _)| *name == said) else {
        let names = ROLES.map(|(name, _)| name).join(", ");
        return Err(wrong(
            &format!("one of the roles {names}"),
            format!("\"{}\"", shown(said)),
        ));
    };
    // SlimOrca's weights: what people and systems say counts for nothing anyway.
    if let Some(weight) = other_weight(turn).filter(|_| *role == "assistant") {
        return Err(wrong(EACH, found(Some(weight))));
    }
    let text = text(turn.get(content), |expected, found| {
        wrong(&format!("{expected} as \"{content}\""), found)
    })?;
    Ok(Message::new(*role, text))
}

/// A content: a text, or a list of parts that are all texts, which are joined.
fn text(content: Option<&Value>, wrong: impl Fn(&str, String) -> crate::Error) -> Result<String> {
    let parts = match content {
        Some(Value::String(text)) => return Ok(text.clone()),
        Some(Value::Array(parts)) => parts,
        other => return Err(wrong("text", found(other))),
    };
    let part = |part: &Value| match (&part["type"], &part["text"]) {
        (Value::String(kind), Value::String(text)) if kind == "text" => Ok(text.clone()),
        (Value::String(kind), _) => Err(wrong(
            "parts of type \"text\"",
            format!("\"{}\"", shown(kind)),
        )),
        _ => Err(wrong("parts of type \"text\"", shown(&part.to_string()))),
    };
    parts.iter().map(part).collect()
}

/// The first of these fields that is there and not empty.
fn given(object: &Map<String, Value>, fields: &[&'static str]) -> Option<&'static str> {
    let mut fields = fields.iter().copied();
    fields.find(|field| is_given(object.get(*field)))
}

/// Returns true if the value is there and not empty.
fn is_given(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(fields)) => !fields.is_empty(),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Bool(_) | Value::Number(_)) => true,
    }
}

/// The only weight, for messages.
const EACH: &str = "weight 1, as each answer is learned";

/// The weight of a row or a turn, if it has one other than 1.
fn other_weight(object: &Map<String, Value>) -> Option<&Value> {
    let weight = object.get(WEIGHT).filter(|weight| !weight.is_null());
    weight.filter(|weight| weight.as_f64() != Some(1.0))
}

fn found(value: Option<&Value>) -> String {
    value.map_or("none".to_owned(), |value| shown(&value.to_string()))
}

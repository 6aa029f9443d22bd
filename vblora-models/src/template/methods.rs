//! Python's methods of texts, dictionaries and lists.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, FormatStyle, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::budget::{invalid, spend};
use super::filters::{formatted, width};
use super::python;

pub(super) fn call(
    state: &State,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let known = match (value.as_str(), value.kind()) {
        (Some(text), _) => text_method(text, name, args)?,
        (None, ValueKind::Map) => match name {
            "items" => {
                let () = from_args(args)?;
                Some(items(value)?)
            }
            "copy" => Some(value.clone()),
            _ => None,
        },
        (None, ValueKind::Seq) => match name {
            "index" => {
                let (wanted,): (&Value,) = from_args(args)?;
                let place = value.try_iter()?.position(|entry| entry == *wanted);
                Some(Value::from(
                    place.ok_or_else(|| invalid("is not in the list"))?,
                ))
            }
            "copy" => Some(value.clone()),
            _ => None,
        },
        _ => None,
    };
    match known {
        Some(done) => Ok(done),
        None => unknown_method_callback(state, value, name, args),
    }
}

/// Keys and values, in the dictionary's order.
pub(super) fn items(value: &Value) -> Result<Value, Error> {
    if value.kind() != ValueKind::Map {
        return Err(invalid(format!("{} has no items", value.kind())));
    }
    let pair = |key: Value| Ok(python::tuple(vec![key.clone(), value.get_item(&key)?]));
    let pairs: Result<Vec<Value>, Error> = python::entries(value)?.into_iter().map(pair).collect();
    pairs.map(Value::from)
}

/// Methods that the engine's collection lacks or has otherwise. Returns `None` for its own.
fn text_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let one = || from_args::<(&str,)>(args).map(|(part,)| part);
    let padding = || {
        let (wide, fill): (usize, Option<&str>) = from_args(args)?;
        let fill = fill.unwrap_or(" ").chars().next().unwrap_or(' ');
        Ok::<_, Error>((wide, fill))
    };
    // Places are counted in characters.
    let place = |at: Option<usize>| at.map(|at| text[..at].chars().count() as i64);
    let found = |at: Option<usize>| place(at).map(Value::from);
    let missing = || invalid("the text is not in it");
    let all = |holds: fn(char) -> bool| {
        let () = from_args(args)?;
        Ok::<_, Error>(Value::from(!text.is_empty() && text.chars().all(holds)))
    };
    Ok(Some(match name {
        "find" => found(text.find(one()?)).unwrap_or(Value::from(-1)),
        "rfind" => found(text.rfind(one()?)).unwrap_or(Value::from(-1)),
        "index" => found(text.find(one()?)).ok_or_else(missing)?,
        "rindex" => found(text.rfind(one()?)).ok_or_else(missing)?,
        "count" => match one()? {
            "" => Value::from(text.chars().count() + 1),
            part => Value::from(text.matches(part).count()),
        },
        "removeprefix" => Value::from(text.strip_prefix(one()?).unwrap_or(text)),
        "removesuffix" => Value::from(text.strip_suffix(one()?).unwrap_or(text)),
        "partition" => {
            let part = separator(one()?)?;
            let (before, after) = text.split_once(part).unwrap_or((text, ""));
            let part = if text.contains(part) { part } else { "" };
            python::tuple([before, part, after].map(Value::from).to_vec())
        }
        "rpartition" => {
            let part = separator(one()?)?;
            let (before, after) = text.rsplit_once(part).unwrap_or(("", text));
            let part = if text.contains(part) { part } else { "" };
            python::tuple([before, part, after].map(Value::from).to_vec())
        }
        "split" | "rsplit" => split(text, args, name == "rsplit")?,
        "replace" => {
            let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
            Value::from(replace(text, old, new, count)?)
        }
        "join" => {
            let (values,): (&Value,) = from_args(args)?;
            let mut out = String::new();
            for (at, value) in values.try_iter()?.enumerate() {
                let part = value.as_str().ok_or_else(|| {
                    invalid(format!("expected texts to join, found {}", value.kind()))
                })?;
                let between = if at > 0 { text } else { "" };
                spend(between.len() + part.len())?;
                out.push_str(between);
                out.push_str(part);
            }
            Value::from(out)
        }
        "format" => formatted(FormatStyle::StrFormat, text, args)?,
        "zfill" => {
            let (wide,): (usize,) = from_args(args)?;
            let digits = text.trim_start_matches(['+', '-']);
            let sign = &text[..text.len() - digits.len()];
            let zeros = width(wide)?.saturating_sub(text.chars().count());
            Value::from(format!("{sign}{}{digits}", "0".repeat(zeros)))
        }
        "ljust" | "rjust" => {
            let (wide, fill) = padding()?;
            let missing = width(wide)?.saturating_sub(text.chars().count());
            let fill = fill.to_string().repeat(missing);
            Value::from(match name {
                "ljust" => format!("{text}{fill}"),
                _ => format!("{fill}{text}"),
            })
        }
        "center" => {
            let (wide, fill) = padding()?;
            Value::from(center(text, wide, fill)?)
        }
        "swapcase" => {
            let swap = |c: char| match c.is_uppercase() {
                true => c.to_lowercase().to_string(),
                false => c.to_uppercase().to_string(),
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "casefold" => Value::from(text.to_lowercase()),
        "isspace" => all(char::is_whitespace)?,
        "isdigit" | "isnumeric" | "isdecimal" => all(char::is_numeric)?,
        "isalnum" => all(char::is_alphanumeric)?,
        "isalpha" => all(char::is_alphabetic)?,
        "islower" => {
            Value::from(text == text.to_lowercase() && text.chars().any(char::is_lowercase))
        }
        "isupper" => {
            Value::from(text == text.to_uppercase() && text.chars().any(char::is_uppercase))
        }
        _ => return Ok(None),
    }))
}

fn separator(part: &str) -> Result<&str, Error> {
    match part.is_empty() {
        true => Err(invalid("an empty separator")),
        false => Ok(part),
    }
}

fn split(text: &str, args: &[Value], from_end: bool) -> Result<Value, Error> {
    let (part, most, named): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let part = part.or(named.get("sep")?).filter(|part| !part.is_none());
    let most = most
        .or(named.get("maxsplit")?)
        .and_then(|most| usize::try_from(most).ok());
    named.assert_all_used()?;
    let mut parts: Vec<&str> = Vec::new();
    match &part {
        Some(part) => {
            let no_text = || Error::new(ErrorKind::InvalidOperation, "a separator is a text");
            let part = separator(part.as_str().ok_or_else(no_text)?)?;
            let most = most.map_or(usize::MAX, |most| most.saturating_add(1));
            match from_end {
                true => {
                    parts.extend(text.rsplitn(most, part));
                    parts.reverse();
                }
                false => parts.extend(text.splitn(most, part)),
            }
        }
        None if from_end => {
            let mut rest = text.trim_end();
            while !rest.is_empty() {
                let cut = rest
                    .rfind(char::is_whitespace)
                    .filter(|_| Some(parts.len()) != most);
                let Some(at) = cut else {
                    parts.push(rest);
                    break;
                };
                parts.push(rest[at..].trim_start());
                rest = rest[..at].trim_end();
            }
            parts.reverse();
        }
        None => {
            let mut rest = text.trim_start();
            while !rest.is_empty() {
                let cut = rest
                    .find(char::is_whitespace)
                    .filter(|_| Some(parts.len()) != most);
                let Some(at) = cut else {
                    parts.push(rest);
                    break;
                };
                parts.push(&rest[..at]);
                rest = rest[at..].trim_start();
            }
        }
    }
    spend(text.len() + super::filters::list_bytes(parts.len()))?;
    Ok(parts
        .into_iter()
        .map(Value::from)
        .collect::<Vec<_>>()
        .into())
}

pub(super) fn replace(
    text: &str,
    old: &str,
    new: &str,
    count: Option<i64>,
) -> Result<String, Error> {
    let count = count
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(usize::MAX);
    let places = match old {
        "" => text.chars().count() + 1,
        old => text.matches(old).count(),
    };
    spend(
        text.len()
            .saturating_add(places.min(count).saturating_mul(new.len())),
    )?;
    Ok(text.replacen(old, new, count))
}

pub(super) fn center(text: &str, wide: usize, fill: char) -> Result<String, Error> {
    let missing = width(wide)?.saturating_sub(text.chars().count());
    // As Python shares out what is odd.
    let left = missing / 2 + (missing & wide & 1);
    let fill = |count: usize| fill.to_string().repeat(count);
    Ok(format!("{}{text}{}", fill(left), fill(missing - left)))
}

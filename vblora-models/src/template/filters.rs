//! Filters and tests where the engine's differ from Jinja's, or can ask for all memory.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{
    Environment, Error, ErrorKind, FormatStyle, Output, State, Value, escape_formatter,
};
use minijinja::{filters, format_filter};

use super::budget::{ENTRY, invalid, spend};
use super::{json, methods, python};

/// The widest field, the largest batch.
const MAX_WIDTH: usize = 10_000;

/// Writes a value as Python does.
pub(super) fn write(out: &mut Output, state: &State, value: &Value) -> Result<(), Error> {
    if value.as_str().is_some() {
        spend(value.as_str().map_or(0, str::len))?;
        return escape_formatter(out, state, value);
    }
    escape_formatter(out, state, &Value::from(python::text(value)?))
}

pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter("string", |value: &Value| match value.as_str() {
        Some(_) => Ok(value.clone()),
        None => python::text(value).map(Value::from),
    });
    environment.add_filter("tojson", json::filter);
    environment.add_filter("list", |value: &Value| {
        python::entries(value).map(Value::from)
    });
    for name in ["e", "escape", "forceescape"] {
        environment.add_filter(name, escape);
    }
    environment.add_filter("join", join);
    environment.add_filter("replace", replace);
    environment.add_filter("indent", indent);
    environment.add_filter("center", |text: String, width: Option<usize>| {
        methods::center(&text, width.unwrap_or(80), ' ').map(Value::from)
    });
    environment.add_filter("wordcount", |text: String| text.split_whitespace().count());
    environment.add_filter("format", |format: String, values: Rest<Value>| {
        formatted(FormatStyle::Printf, &format, &values)
    });
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("round", round);
    environment.add_filter("int", int);
    environment.add_filter("float", |value: &Value, default: Option<f64>| {
        match real(value) {
            Some(number) => number,
            None => default.unwrap_or(0.0),
        }
    });
    environment.add_filter("items", |value: &Value| methods::items(value));
    environment.add_filter("dictsort", |value: &Value, named: Kwargs| {
        let sorted = filters::dictsort(value, named)?;
        let pairs = python::entries(&sorted)?;
        let pairs = pairs
            .iter()
            .map(|pair| python::entries(pair).map(python::tuple));
        pairs.collect::<Result<Vec<_>, _>>().map(Value::from)
    });
    environment.add_filter(
        "batch",
        |state: &State, value: Value, size: usize, fill: Option<Value>| {
            filters::batch(state, value, width(size)?, fill)
        },
    );
    environment.add_filter(
        "slice",
        |state: &State, value: Value, size: usize, fill: Option<Value>| {
            filters::slice(state, value, width(size)?, fill)
        },
    );
    environment.add_test("number", |value: &Value| {
        matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
    });
    environment.add_test("sequence", |value: &Value| match value.kind() {
        ValueKind::Iterable => value.len().is_some(),
        kind => matches!(kind, ValueKind::Seq | ValueKind::String | ValueKind::Map),
    });
    environment.add_test("iterable", |value: &Value| {
        let kind = value.kind();
        python::is_list(value)
            || matches!(
                kind,
                ValueKind::String | ValueKind::Map | ValueKind::Undefined
            )
    });
}

pub(super) fn width(width: usize) -> Result<usize, Error> {
    match width {
        0..=MAX_WIDTH => Ok(width),
        _ => Err(invalid(format!(
            "a width of {width}, more than {MAX_WIDTH}"
        ))),
    }
}

/// `format % values`, or `format.format(values)`.
pub(super) fn formatted(
    style: FormatStyle,
    format: &str,
    values: &[Value],
) -> Result<Value, Error> {
    // Widths and precisions, or what may be one: a long number in the text itself is none.
    let marked = match style {
        FormatStyle::Printf => format.split('%').skip(1).collect::<Vec<_>>(),
        FormatStyle::StrFormat => format.split(['{', ':']).skip(1).collect(),
    };
    for part in marked {
        let field = part
            .split(|c: char| c.is_ascii_alphabetic() || c == '}')
            .next();
        for digits in field
            .unwrap_or_default()
            .split(|c: char| !c.is_ascii_digit())
        {
            if !digits.is_empty() {
                width(digits.parse().unwrap_or(usize::MAX))?;
            }
        }
        if field.is_some_and(|field| field.contains('*')) {
            for value in values.iter().filter_map(Value::as_i64) {
                width(usize::try_from(value.unsigned_abs()).unwrap_or(usize::MAX))?;
            }
        }
    }
    // As Python writes them, not as the engine does.
    let values: Result<Vec<Value>, Error> = values.iter().map(printed).collect();
    let text = format_filter(style, format, &values?)?;
    spend(text.len())?;
    Ok(Value::from(text))
}

fn printed(value: &Value) -> Result<Value, Error> {
    match python::is_list(value) {
        true => python::text(value).map(Value::from),
        false => Ok(value.clone()),
    }
}

/// As markupsafe does it.
fn escape(value: &Value) -> Result<Value, Error> {
    let text = python::text(value)?;
    // The longest mark.
    spend(text.len().saturating_mul("&#39;".len()))?;
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    Ok(Value::from_safe_string(out))
}

fn join(
    value: &Value,
    between: Option<String>,
    attribute: Option<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let between = match between {
        Some(between) => between,
        None => named.get::<Option<String>>("d")?.unwrap_or_default(),
    };
    let attribute = match attribute {
        Some(attribute) => Some(attribute),
        None => named.get::<Option<Value>>("attribute")?,
    };
    named.assert_all_used()?;
    if value.is_undefined() {
        return Ok(Value::from(""));
    }
    let mut out = String::new();
    for (at, entry) in value.try_iter()?.enumerate() {
        if at > 0 {
            spend(between.len())?;
            out.push_str(&between);
        }
        let entry = match &attribute {
            Some(attribute) => entry.get_item(attribute)?,
            None => entry,
        };
        out.push_str(&python::text(&entry)?);
    }
    Ok(Value::from(out))
}

fn replace(text: String, old: String, new: String, count: Option<i64>) -> Result<Value, Error> {
    methods::replace(&text, &old, &new, count).map(Value::from)
}

fn indent(
    text: String,
    by: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    named: Kwargs,
) -> Result<Value, Error> {
    let by = match by {
        Some(by) => Some(by),
        None => named.get::<Option<Value>>("width")?,
    };
    let first = first.or(named.get("first")?).unwrap_or(false);
    let blank = blank.or(named.get("blank")?).unwrap_or(false);
    named.assert_all_used()?;
    let by = match by {
        None => " ".repeat(4),
        Some(by) => match by.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(width(usize::try_from(by)?)?),
        },
    };
    spend(by.len().saturating_mul(text.matches('\n').count() + 1))?;
    let mut out = String::new();
    for (at, line) in text.split('\n').enumerate() {
        out.push_str(if at > 0 { "\n" } else { "" });
        if (at > 0 || first) && (blank || at == 0 || !line.is_empty()) {
            out.push_str(&by);
        }
        out.push_str(line);
    }
    Ok(Value::from(out))
}

fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    let none = || {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("{} has no length", value.kind()),
        )
    };
    match value.len() {
        Some(length) => Ok(length),
        None if python::is_list(value) => Ok(python::entries(value)?.len()),
        None => Err(none()),
    }
}

/// Python's `round`: halves go to the even neighbour.
fn round(
    value: &Value,
    precision: Option<i64>,
    method: Option<String>,
    named: Kwargs,
) -> Result<Value, Error> {
    let precision = precision.or(named.get("precision")?).unwrap_or(0);
    let method = method.or(named.get("method")?);
    named.assert_all_used()?;
    let number = match value.kind() {
        ValueKind::Number | ValueKind::Bool => real(value),
        _ => None,
    };
    let number = number.ok_or_else(|| invalid(format!("{} cannot be rounded", value.kind())))?;
    let places = precision.clamp(-400, 400) as i32;
    let scale = 10_f64.powi(places);
    Ok(Value::from(match method.as_deref() {
        Some("ceil") => (number * scale).ceil() / scale,
        Some("floor") => (number * scale).floor() / scale,
        None | Some("common") if places >= 0 => {
            // The decimal digits of the number as it is, not of a product.
            format!("{number:.*}", places as usize)
                .parse()
                .unwrap_or(number)
        }
        None | Some("common") => (number * scale).round_ties_even() / scale,
        Some(other) => return Err(invalid(format!("{other:?} is no way of rounding"))),
    }))
}

fn real(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some(text) => text.trim().replace('_', "").parse().ok(),
        None if value.kind() == ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        None => f64::try_from(value.clone()).ok(),
    }
}

fn int(
    value: &Value,
    default: Option<i64>,
    base: Option<u32>,
    named: Kwargs,
) -> Result<Value, Error> {
    let default = default.or(named.get("default")?).unwrap_or(0);
    let base = base.or(named.get("base")?).unwrap_or(10);
    named.assert_all_used()?;
    if let Some(text) = value.as_str() {
        let text = text.trim();
        let digits = match base {
            16 => text.trim_start_matches("0x"),
            8 => text.trim_start_matches("0o"),
            2 => text.trim_start_matches("0b"),
            _ => text,
        };
        if (2..=36).contains(&base)
            && let Ok(number) = i64::from_str_radix(digits, base)
        {
            return Ok(Value::from(number));
        }
    } else if value.is_integer() {
        return Ok(value.clone());
    }
    let number = real(value).filter(|number| number.is_finite() && number.abs() < 1e18);
    Ok(Value::from(number.map_or(default, |number| number as i64)))
}

/// Entries of a list in bytes.
pub(super) fn list_bytes(length: usize) -> usize {
    length.saturating_mul(ENTRY)
}

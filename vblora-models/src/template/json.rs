//! `tojson` as transformers has it: `json.dumps` with `ensure_ascii` off, and nothing escaped for HTML.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, Value};

use super::budget::{invalid, spend};
use super::python;

/// As deep as Python goes, about.
const MAX_DEPTH: usize = 500;
const MAX_INDENT: usize = 1000;

struct Writer {
    out: String,
    ascii: bool,
    sorted: bool,
    indent: Option<String>,
    comma: String,
    colon: String,
}

/// `value | tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`
pub(super) fn filter(
    value: &Value,
    ensure_ascii: Option<bool>,
    indent: Option<Value>,
    separators: Option<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let flag = |given: Option<bool>, name: &str| match given {
        Some(flag) => Ok(flag),
        None => Ok::<_, Error>(
            named
                .get::<Option<Value>>(name)?
                .is_some_and(|v| v.is_true()),
        ),
    };
    let value_of = |given: Option<Value>, name: &str| match given {
        Some(value) => Ok::<_, Error>(Some(value)),
        None => named.get::<Option<Value>>(name),
    };
    let ascii = flag(ensure_ascii, "ensure_ascii")?;
    let sorted = flag(None, "sort_keys")?;
    let indent = match value_of(indent, "indent")?.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => {
                let width = i64::try_from(indent)?.max(0);
                let width = usize::try_from(width)
                    .ok()
                    .filter(|width| *width <= MAX_INDENT);
                let wide = || invalid(format!("an indent of more than {MAX_INDENT}"));
                " ".repeat(width.ok_or_else(wide)?)
            }
        }),
    };
    let (comma, colon) = match value_of(separators, "separators")?.filter(|given| !given.is_none())
    {
        Some(pair) => match python::entries(&pair)?.as_slice() {
            [comma, colon] => (python::text(comma)?, python::text(colon)?),
            _ => return Err(invalid("separators are two texts")),
        },
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    named.assert_all_used()?;
    let mut writer = Writer {
        out: String::new(),
        ascii,
        sorted,
        indent,
        comma,
        colon,
    };
    writer.write(value, 0)?;
    spend(writer.out.len())?;
    Ok(Value::from(writer.out))
}

impl Writer {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid("a value is nested too deeply for JSON"));
        }
        spend(1)?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Number => {
                let number = number(value)?;
                self.out.push_str(&number);
            }
            ValueKind::Seq | ValueKind::Iterable => {
                self.out.push('[');
                let mut empty = true;
                for entry in value.try_iter()? {
                    self.next(empty, depth + 1)?;
                    empty = false;
                    self.write(&entry, depth + 1)?;
                }
                self.close(']', empty, depth)?;
            }
            ValueKind::Map => {
                self.out.push('{');
                let mut keys = python::entries(value)?;
                if self.sorted {
                    keys.sort();
                }
                for (at, key) in keys.iter().enumerate() {
                    self.next(at == 0, depth + 1)?;
                    let name = match key.kind() {
                        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
                        ValueKind::None => "null".to_owned(),
                        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
                        ValueKind::Number => number(key)?,
                        kind => return Err(invalid(format!("{kind} is no key of JSON"))),
                    };
                    self.text(&name);
                    self.out.push_str(&self.colon);
                    self.write(&value.get_item(key)?, depth + 1)?;
                }
                self.close('}', keys.is_empty(), depth)?;
            }
            kind => return Err(invalid(format!("{kind} is not JSON serializable"))),
        }
        Ok(())
    }

    fn next(&mut self, first: bool, depth: usize) -> Result<(), Error> {
        if !first {
            self.out.push_str(&self.comma);
        }
        self.line(depth)
    }

    fn line(&mut self, depth: usize) -> Result<(), Error> {
        if let Some(indent) = &self.indent {
            spend(indent.len().saturating_mul(depth))?;
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
        Ok(())
    }

    fn close(&mut self, bracket: char, empty: bool, depth: usize) -> Result<(), Error> {
        if !empty {
            self.line(depth)?;
        }
        self.out.push(bracket);
        Ok(())
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || self.ascii && !(' '..='~').contains(&c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    let number = f64::try_from(value.clone())?;
    Ok(match number {
        number if number.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        number => python::float(number),
    })
}

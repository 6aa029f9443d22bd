//! Values as Python writes them, and Python's operators.

use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, FormatStyle, State, UndefinedBehavior, Value};

use super::budget::{ENTRY, invalid, spend};
use super::filters::formatted;

/// As deep as Python prints values, about.
const MAX_DEPTH: usize = 500;

pub(super) fn add_operators(environment: &mut Environment<'static>) {
    environment.add_function("__math", math);
    environment.add_function("__slice", slice);
    environment.add_function("__each", each);
    environment.add_function("__tuple", |values: Rest<Value>| tuple(values.0));
}

/// Python's tuple: a list but for how it is printed.
#[derive(Debug)]
pub(super) struct Tuple(Vec<Value>);

impl Object for Tuple {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }
}

pub(super) fn tuple(values: Vec<Value>) -> Value {
    Value::from_object(Tuple(values))
}

fn as_tuple(value: &Value) -> Option<&Tuple> {
    value.downcast_object_ref()
}

/// The entries of a list, or of what stands for one.
pub(super) fn entries(value: &Value) -> Result<Vec<Value>, Error> {
    let mut entries = Vec::new();
    for entry in value.try_iter()? {
        spend(ENTRY)?;
        entries.push(entry);
    }
    Ok(entries)
}

pub(super) fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

/// Python's `str`.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::String => out.push_str(value.as_str().unwrap_or_default()),
        _ => write(value, &mut out, 0)?,
    }
    spend(out.len())?;
    Ok(out)
}

/// Python's `repr`.
fn write(value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(invalid("a value is nested too deeply to be printed"));
    }
    // Written text is paid for at the end; this is the least cost of one value inside another.
    spend(1)?;
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Number if !value.is_integer() => {
            out.push_str(&float(f64::try_from(value.clone())?));
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let tuple = as_tuple(value).map(|tuple| tuple.0.len());
            out.push_str(if tuple.is_some() { "(" } else { "[" });
            for (at, entry) in value.try_iter()?.enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                write(&entry, out, depth + 1)?;
            }
            out.push_str(match tuple {
                Some(1) => ",)",
                Some(_) => ")",
                None => "]",
            });
        }
        ValueKind::Map => {
            out.push('{');
            for (at, key) in value.try_iter()?.enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                write(&key, out, depth + 1)?;
                out.push_str(": ");
                write(&value.get_item(&key)?, out, depth + 1)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

fn quote(text: &str, out: &mut String) {
    let mark = match text.contains('\'') && !text.contains('"') {
        true => '"',
        false => '\'',
    };
    out.push(mark);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == mark => out.extend(['\\', c]),
            c if c.is_control() && (c as u32) < 0x100 => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push(mark);
}

/// The shortest digits that give the number back, with an exponent where Python writes one.
pub(super) fn float(number: f64) -> String {
    if !number.is_finite() {
        return match number.is_nan() {
            true => "nan".to_owned(),
            false if number > 0.0 => "inf".to_owned(),
            false => "-inf".to_owned(),
        };
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = number.to_string();
        return match plain.contains('.') {
            true => plain,
            false => plain + ".0",
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

#[derive(Clone, Copy)]
enum Number {
    Whole(i128),
    Real(f64),
}

impl Number {
    fn of(value: &Value) -> Option<Self> {
        match value.kind() {
            ValueKind::Bool => Some(Self::Whole(i128::from(value.is_true()))),
            ValueKind::Number if value.is_integer() => {
                i128::try_from(value.clone()).ok().map(Self::Whole)
            }
            ValueKind::Number => f64::try_from(value.clone()).ok().map(Self::Real),
            _ => None,
        }
    }

    fn real(self) -> f64 {
        match self {
            Self::Whole(number) => number as f64,
            Self::Real(number) => number,
        }
    }
}

/// `a op b op c ..` of operators of one precedence, a letter each (`rewrite::LEVELS`).
fn math(state: &State, letters: &str, values: Rest<Value>) -> Result<Value, Error> {
    let strict = state.env().undefined_behavior() == UndefinedBehavior::Strict;
    let undefined = values.iter().any(Value::is_undefined);
    if undefined && (strict || !letters.starts_with('~')) {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    if letters.starts_with('~') {
        let texts = values.iter().map(text).collect::<Result<Vec<_>, _>>()?;
        return Ok(Value::from(texts.concat()));
    }
    let mut values = values.0.into_iter();
    let first = values.next().unwrap_or_default();
    values
        .zip(letters.chars())
        .try_fold(first, |left, (right, letter)| apply(letter, &left, &right))
}

fn apply(letter: char, left: &Value, right: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (Number::of(left), Number::of(right)) {
        return numbers(letter, a, b);
    }
    match letter {
        '+' => match (left.as_str(), right.as_str()) {
            (Some(a), Some(b)) => {
                spend(a.len() + b.len())?;
                Ok(Value::from([a, b].concat()))
            }
            _ if is_list(left) && is_list(right) => {
                let joined = [entries(left)?, entries(right)?].concat();
                match as_tuple(left).is_some() && as_tuple(right).is_some() {
                    true => Ok(tuple(joined)),
                    false => Ok(Value::from(joined)),
                }
            }
            _ => Err(unsupported("+", left, right)),
        },
        '*' => match (Number::of(left), Number::of(right)) {
            (None, Some(Number::Whole(times))) => repeat(left, times, right),
            (Some(Number::Whole(times)), None) => repeat(right, times, left),
            _ => Err(unsupported("*", left, right)),
        },
        '%' => match left.as_str() {
            Some(format) => {
                let values = match as_tuple(right) {
                    Some(tuple) => tuple.0.clone(),
                    None => vec![right.clone()],
                };
                formatted(FormatStyle::Printf, format, &values)
            }
            None => Err(unsupported("%", left, right)),
        },
        '-' => Err(unsupported("-", left, right)),
        '/' => Err(unsupported("/", left, right)),
        'f' => Err(unsupported("//", left, right)),
        _ => Err(unsupported("**", left, right)),
    }
}

fn unsupported(operator: &str, left: &Value, right: &Value) -> Error {
    let (left, right) = (left.kind(), right.kind());
    invalid(format!("{operator} takes no {left} and {right}"))
}

fn repeat(value: &Value, times: i128, number: &Value) -> Result<Value, Error> {
    let times = usize::try_from(times.max(0)).map_err(|_| unsupported("*", value, number))?;
    if let Some(text) = value.as_str() {
        spend(text.len().saturating_mul(times))?;
        return Ok(Value::from(text.repeat(times)));
    }
    if !is_list(value) {
        return Err(unsupported("*", value, number));
    }
    let once = entries(value)?;
    spend(once.len().saturating_mul(times).saturating_mul(ENTRY))?;
    let repeated: Vec<Value> = (0..times).flat_map(|_| once.iter().cloned()).collect();
    Ok(match as_tuple(value) {
        Some(_) => tuple(repeated),
        None => Value::from(repeated),
    })
}

fn numbers(letter: char, left: Number, right: Number) -> Result<Value, Error> {
    let too_large = || invalid("a number is too large");
    let zero = || invalid("division by zero");
    if let (Number::Whole(a), Number::Whole(b)) = (left, right)
        && letter != '/'
        && !(letter == '^' && b < 0)
    {
        let rest = |a: i128, b: i128| match a.checked_rem(b) {
            Some(rest) if rest != 0 && (rest < 0) != (b < 0) => Some(rest + b),
            rest => rest,
        };
        let whole = match letter {
            '+' => a.checked_add(b),
            '-' => a.checked_sub(b),
            '*' => a.checked_mul(b),
            'f' | '%' if b == 0 => return Err(zero()),
            'f' => rest(a, b).and_then(|rest| a.checked_sub(rest)?.checked_div(b)),
            '%' => rest(a, b),
            _ => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
        };
        let whole = whole.ok_or_else(too_large)?;
        return Ok(i64::try_from(whole).map_or_else(|_| Value::from(whole), Value::from));
    }
    let (a, b) = (left.real(), right.real());
    if b == 0.0 && matches!(letter, '/' | 'f' | '%') || a == 0.0 && letter == '^' && b < 0.0 {
        return Err(zero());
    }
    let rest = || {
        let rest = a % b;
        if rest != 0.0 && (rest < 0.0) != (b < 0.0) {
            rest + b
        } else {
            rest
        }
    };
    Ok(Value::from(match letter {
        '+' => a + b,
        '-' => a - b,
        '*' => a * b,
        '/' => a / b,
        'f' => ((a - rest()) / b).round(),
        '%' => rest(),
        _ => a.powf(b),
    }))
}

/// `value[start:stop:step]`.
fn slice(value: &Value, start: Value, stop: Value, step: Value) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    let number = |bound: &Value| match Number::of(bound) {
        Some(Number::Whole(number)) => Ok(Some(number)),
        None if bound.is_none() => Ok(None),
        _ => Err(invalid(format!("a slice's bound is no {}", bound.kind()))),
    };
    let step = number(&step)?.unwrap_or(1);
    if step == 0 {
        return Err(invalid("a slice's step cannot be zero"));
    }
    let (start, stop) = (number(&start)?, number(&stop)?);
    let positions = |length: usize| {
        let length = length as i128;
        let (lowest, highest) = if step > 0 {
            (0, length)
        } else {
            (-1, length - 1)
        };
        let place = |bound: Option<i128>, open: i128| match bound {
            None => open,
            Some(at) if at < 0 => at.saturating_add(length).max(lowest),
            Some(at) => at.min(highest),
        };
        let (first, last) = if step > 0 {
            (lowest, highest)
        } else {
            (highest, lowest)
        };
        let (mut at, end) = (place(start, first), place(stop, last));
        std::iter::from_fn(move || {
            let inside = if step > 0 { at < end } else { at > end };
            let here = inside.then_some(at as usize);
            at = at.saturating_add(step);
            here
        })
    };
    if let Some(text) = value.as_str() {
        spend(text.len())?;
        let letters: Vec<char> = text.chars().collect();
        let cut: String = positions(letters.len()).map(|at| letters[at]).collect();
        return Ok(Value::from(cut));
    }
    if !is_list(value) {
        return Err(invalid(format!("{} has no slices", value.kind())));
    }
    let all = entries(value)?;
    let cut: Vec<Value> = positions(all.len()).map(|at| all[at].clone()).collect();
    Ok(match as_tuple(value) {
        Some(_) => tuple(cut),
        None => Value::from(cut),
    })
}

/// The values that a loop visits.
fn each(values: Rest<Value>) -> Result<Value, Error> {
    match values.as_slice() {
        [one] => match one.kind() {
            ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                Err(invalid(format!("{} is not iterable", one.kind())))
            }
            _ => Ok(one.clone()),
        },
        _ => Ok(tuple(values.0)),
    }
}

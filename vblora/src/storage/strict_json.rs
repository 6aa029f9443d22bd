//! JSON from untrusted files. A key given twice is an error, because readers disagree which of the two counts.

use std::{collections::BTreeMap, fmt, marker::PhantomData, path::Path};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use super::files::read_file;
use crate::Error;

/// Some editors put this mark in front of UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Parses one JSON value. A UTF-8 byte order mark in front is skipped.
///
/// # Errors
/// The cause alone, with line and column: no JSON, text after the value, an object with a key twice, more than 127 levels.
pub fn parse(text: &[u8]) -> Result<Value, String> {
    match serde_json::from_slice(without_mark(text)) {
        Ok(Strict(value)) => Ok(value),
        Err(error) => Err(error.to_string()),
    }
}

/// Parses a value of a type, with the rules of [`parse`].
///
/// # Errors
/// As [`parse`]; the value does not fit the type.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    // The type is read straight from the text. So errors tell the place, and a type that is read piece by piece refuses other values at
    // once.
    let value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    parse(text)?;
    Ok(value)
}

/// Reads a value of a type from a file, with the rules of [`parse`].
///
/// # Errors
/// The file is no regular one or has more than `limit` bytes; as [`from_slice`].
pub(super) fn read<T: DeserializeOwned>(path: &Path, limit: u64) -> crate::Result<T> {
    let text = read_file(path, limit).map_err(Error::io(path))?;
    from_slice(&text).map_err(|reason| Error::Format {
        path: path.to_owned(),
        reason,
    })
}

/// The entries of an object that has each key once, read without a [`Value`] in between.
pub(super) struct OnceEach<T>(pub(super) BTreeMap<String, T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OnceEach<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

struct Entries<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
    type Value = OnceEach<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<OnceEach<T>, A::Error> {
        let mut map = BTreeMap::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("key {key:?} is given twice")));
            }
            map.insert(key, entries.next_value()?);
        }
        Ok(OnceEach(map))
    }
}

/// A text without the byte order mark in front.
pub(crate) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// A value whose objects have each key once.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Values).map(Self)
    }
}

struct Values;

impl<'de> Visitor<'de> for Values {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("key {key:?} is given twice")));
            }
            let Strict(value) = entries.next_value()?;
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_each_key_once_is_what_serde_json_reads() {
        let text = r#" {"a": [1, -2, 1.5e3, 18446744073709551615, true, null, "\u00e9\n"], "b": {"a": {}}, "": []} "#;
        let expected: Value = serde_json::from_str(text).unwrap();
        assert_eq!(parse(text.as_bytes()).unwrap(), expected);
        let marked = [BYTE_ORDER_MARK, text.as_bytes()].concat();
        assert_eq!(parse(&marked).unwrap(), expected);
        let typed: Vec<u32> = from_slice(b"[1, 2]").unwrap();
        assert_eq!(typed, [1, 2]);
    }

    #[test]
    fn a_key_twice_is_named_at_any_depth() {
        for text in [
            r#"{"r": 4, "r": 8}"#,
            r#"{"a": [{"r": 1, "x": 2, "r": 1}]}"#,
            r#"{"r": 4, "\u0072": 8}"#,
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains("key \"r\" is given twice"), "{error}");
            assert!(error.contains("line 1 column"), "{error}");
        }
    }

    #[test]
    fn what_is_no_single_value_is_an_error() {
        let deep = "[".repeat(100_000);
        for text in [
            "",
            "{",
            "1 2",
            "{}{}",
            "NaN",
            "1e999",
            "\"\u{1}\"",
            deep.as_str(),
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text:.20}");
        }
        assert!(parse(b"\"\xff\"").is_err());
        assert!(from_slice::<Vec<u32>>(b"[-1]").is_err());
    }
}

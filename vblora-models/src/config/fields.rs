//! Typed access to the fields of a JSON object, with errors that name file and field.

use serde_json::{Map, Value};
use vblora::storage::strict_json;

use super::wrong;
use crate::{Error, Result, notice};

/// The fields of `config.json`. A field that is `null` counts as not there.
pub(super) struct Fields<'a> {
    pub(super) file: &'a str,
    values: Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn parse(bytes: &[u8], file: &'a str) -> Result<Self> {
        match strict_json::from_slice(bytes) {
            Ok(values) => Ok(Self { file, values }),
            Err(problem) => Err(Error::Json {
                file: file.to_owned(),
                problem,
            }),
        }
    }

    pub(super) fn text(&self, field: &str) -> Result<String> {
        self.required(field, "a text", |v| v.as_str().map(str::to_owned))
    }

    pub(super) fn text_or(&self, field: &str, default: &str) -> Result<String> {
        let found = self.optional(field, "a text", |v| v.as_str().map(str::to_owned))?;
        Ok(found.unwrap_or_else(|| default.to_owned()))
    }

    pub(super) fn text_or_none(&self, field: &str) -> Result<Option<String>> {
        self.optional(field, "a text", |v| v.as_str().map(str::to_owned))
    }

    pub(super) fn count(&self, field: &str) -> Result<usize> {
        self.required(field, "a whole number", |v| {
            v.as_u64().map(|n| usize::try_from(n).unwrap_or(usize::MAX))
        })
    }

    pub(super) fn count_or(&self, field: &str, default: usize) -> Result<usize> {
        Ok(self.count_or_none(field)?.unwrap_or(default))
    }

    pub(super) fn count_or_none(&self, field: &str) -> Result<Option<usize>> {
        self.optional(field, "a whole number", |v| {
            v.as_u64().map(|n| usize::try_from(n).unwrap_or(usize::MAX))
        })
    }

    /// The names of all fields, also of those that are `null`.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    pub(super) fn has(&self, field: &str) -> bool {
        self.value(field).is_some()
    }

    /// Returns true if the field is there, be it `null`.
    pub(super) fn mentions(&self, field: &str) -> bool {
        self.values.contains_key(field)
    }

    pub(super) fn id(&self, field: &str) -> Result<Option<u32>> {
        self.optional(field, "a token id", as_id)
    }

    /// A whole number, which may be below 0.
    pub(super) fn integer(&self, field: &str) -> Result<Option<i64>> {
        self.optional(field, "a whole number", Value::as_i64)
    }

    /// A whole number where a token id is expected.
    pub(super) fn token(&self, field: &str) -> Result<Option<i64>> {
        self.optional(field, "a token id", Value::as_i64)
    }

    /// One whole number or several; none if absent.
    pub(super) fn integers(&self, field: &str) -> Result<Vec<i64>> {
        let as_integers = |value: &Value| match value.as_array() {
            Some(several) => several.iter().map(Value::as_i64).collect(),
            None => value.as_i64().map(|id| vec![id]),
        };
        let found = self.optional(field, "a token id or a list of them", as_integers)?;
        Ok(found.unwrap_or_default())
    }

    /// The token ids among [`integers`](Self::integers). Others stand for no token and are said: transformers loads files with them too.
    pub(super) fn ids(&self, field: &str) -> Result<Vec<u32>> {
        self.ids_below(field, u32::MAX as usize)
    }

    /// The ids of a field that a vocabulary of `vocab_size` tokens has. Others are said and left out.
    pub(super) fn ids_below(&self, field: &str, vocab_size: usize) -> Result<Vec<u32>> {
        let ids = self.integers(field)?.into_iter();
        Ok(ids
            .filter_map(|id| self.known(field, id, vocab_size))
            .collect())
    }

    /// The id of a field, if a vocabulary of `vocab_size` tokens has it. Another is said.
    pub(super) fn id_below(&self, field: &str, vocab_size: usize) -> Result<Option<u32>> {
        let id = self.token(field)?;
        Ok(id.and_then(|id| self.known(field, id, vocab_size)))
    }

    fn known(&self, field: &str, id: i64, vocab_size: usize) -> Option<u32> {
        let known = u32::try_from(id).ok();
        let known = known.filter(|&id| (id as usize) < vocab_size);
        if id < 0 {
            self.ignore(field, &format!("{id} is no token"));
        } else if known.is_none() {
            let why = format!("{id} is outside the vocabulary of {vocab_size}");
            self.ignore(field, &why);
        }
        known
    }

    /// Says that something in a field is not used, and why.
    pub(super) fn ignore(&self, field: &str, why: &str) {
        notice::once(format!("{}: field {field:?}: not used: {why}", self.file));
    }

    /// A field that can have several types.
    pub(super) fn value(&self, field: &str) -> Option<&Value> {
        self.values.get(field).filter(|value| !value.is_null())
    }

    /// A list of texts; empty if absent.
    pub(super) fn texts(&self, field: &str) -> Result<Vec<String>> {
        let as_texts = |value: &Value| {
            let texts = value
                .as_array()?
                .iter()
                .map(|v| v.as_str().map(str::to_owned));
            texts.collect()
        };
        Ok(self
            .optional(field, "a list of texts", as_texts)?
            .unwrap_or_default())
    }

    /// A list of whole numbers; empty if absent.
    pub(super) fn counts(&self, field: &str) -> Result<Vec<u64>> {
        let as_counts = |value: &Value| value.as_array()?.iter().map(Value::as_u64).collect();
        Ok(self
            .optional(field, "a list of whole numbers", as_counts)?
            .unwrap_or_default())
    }

    /// A list of numbers; empty if absent.
    pub(super) fn numbers(&self, field: &str) -> Result<Vec<f64>> {
        let as_numbers = |value: &Value| value.as_array()?.iter().map(Value::as_f64).collect();
        Ok(self
            .optional(field, "a list of numbers", as_numbers)?
            .unwrap_or_default())
    }

    /// The fields of an object inside.
    pub(super) fn object(&self, field: &str) -> Result<Option<Fields<'a>>> {
        let values = self.optional(field, "an object", |v| v.as_object().cloned())?;
        let file = self.file;
        Ok(values.map(|values| Fields { file, values }))
    }

    pub(super) fn number(&self, field: &str) -> Result<Option<f64>> {
        self.optional(field, "a number", Value::as_f64)
    }

    pub(super) fn number_or(&self, field: &str, default: f64) -> Result<f64> {
        Ok(self.number(field)?.unwrap_or(default))
    }

    pub(super) fn flag(&self, field: &str) -> Result<Option<bool>> {
        self.optional(field, "true or false", Value::as_bool)
    }

    pub(super) fn flag_or(&self, field: &str, default: bool) -> Result<bool> {
        let found = self.optional(field, "true or false", Value::as_bool)?;
        Ok(found.unwrap_or(default))
    }

    fn required<T>(
        &self,
        field: &str,
        expected: &str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        self.optional(field, expected, convert)?
            .ok_or_else(|| wrong(self.file, field, format!("missing; expected {expected}")))
    }

    fn optional<T>(
        &self,
        field: &str,
        expected: &str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.value(field) {
            None => Ok(None),
            Some(value) => convert(value).map(Some).ok_or_else(|| {
                wrong(
                    self.file,
                    field,
                    format!("expected {expected}, found {value}"),
                )
            }),
        }
    }
}

fn as_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

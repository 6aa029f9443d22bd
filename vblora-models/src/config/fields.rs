//! Typed access to the fields of a JSON object, with errors that name file and field.

use serde_json::{Map, Value};
use vblora::storage::strict_json;

use super::wrong;
use crate::{Error, Result};

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

    pub(super) fn has(&self, field: &str) -> bool {
        self.value(field).is_some()
    }

    /// Whether the field is there, be it `null`.
    pub(super) fn mentions(&self, field: &str) -> bool {
        self.values.contains_key(field)
    }

    pub(super) fn id(&self, field: &str) -> Result<Option<u32>> {
        self.optional(field, "a token id", as_id)
    }

    /// One token id or several; none if absent.
    pub(super) fn ids(&self, field: &str) -> Result<Vec<u32>> {
        let as_ids = |value: &Value| match value.as_array() {
            Some(several) => several.iter().map(as_id).collect(),
            None => as_id(value).map(|id| vec![id]),
        };
        let found = self.optional(field, "a token id or a list of them", as_ids)?;
        Ok(found.unwrap_or_default())
    }

    /// A special token, as its text or as an object with the text in `content`.
    pub(super) fn token(&self, field: &str) -> Result<Option<String>> {
        self.optional(field, "a token", |value| {
            let text = value.as_str().or_else(|| value.get("content")?.as_str());
            text.map(str::to_owned)
        })
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

    /// The fields of an object inside.
    pub(super) fn object(&self, field: &str) -> Result<Option<Fields<'a>>> {
        let values = self.optional(field, "an object", |v| v.as_object().cloned())?;
        let file = self.file;
        Ok(values.map(|values| Fields { file, values }))
    }

    pub(super) fn id_or(&self, field: &str, default: u32) -> Result<u32> {
        Ok(self.id(field)?.unwrap_or(default))
    }

    pub(super) fn number(&self, field: &str) -> Result<Option<f64>> {
        self.optional(field, "a number", Value::as_f64)
    }

    pub(super) fn number_or(&self, field: &str, default: f64) -> Result<f64> {
        Ok(self.number(field)?.unwrap_or(default))
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

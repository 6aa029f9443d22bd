//! Typed access to the fields of a JSON object, with errors that name file and field.

use serde_json::{Map, Value};

use super::wrong;
use crate::{Error, Result};

/// The fields of `config.json`. A field that is `null` counts as not there.
pub(super) struct Fields<'a> {
    pub(super) file: &'a str,
    values: Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn parse(bytes: &[u8], file: &'a str) -> Result<Self> {
        match serde_json::from_slice(bytes) {
            Ok(values) => Ok(Self { file, values }),
            Err(error) => Err(Error::Json {
                file: file.to_owned(),
                problem: error.to_string(),
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

    pub(super) fn id_or(&self, field: &str, default: u32) -> Result<u32> {
        let as_id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        Ok(self
            .optional(field, "a token id", as_id)?
            .unwrap_or(default))
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
        match self.values.get(field).filter(|value| !value.is_null()) {
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

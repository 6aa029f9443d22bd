//! Prompts and responses from a user's template.

use std::path::Path;

use minijinja::Value;
use vblora::storage::read_text;
use vblora_models::template::{Problem, Style, Template};

use super::{
    blocks,
    rows::{Row, shown},
};
use crate::{Error, Result, limits::MAX_TEXT_BYTES, tasks::table::is_rounded};

/// The blocks that a template must have.
const BLOCKS: [&str; 2] = ["prompt", "response"];

/// A Jinja template with two blocks. The fields of a row are variables in it:
///
/// ```text
/// {% block prompt %}{{ question }} ({{ topic }}){% endblock %}
/// {% block response %} {{ answer }}{% endblock %}
/// ```
///
/// Outside the blocks there may be comments, and tags that write nothing, such as `set` and `macro`.
///
/// A field that a row does not have is an error, unless the template asks for it by `is defined` or gives it a default. So is a number that the
/// template uses and that lost digits, since it has more than 64 bits.
///
/// The template runs within the limits of [`vblora_models::template`].
#[derive(Debug, Clone)]
pub struct TextTemplate {
    template: Template,
    /// The names that it uses and does not set.
    names: Vec<String>,
    file: String,
}

impl TextTemplate {
    /// Reads a template file.
    ///
    /// # Errors
    /// The file does not exist; the template does not parse, has text outside of its blocks, or blocks of other names or inside each other.
    /// The error gives the line.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path, MAX_TEXT_BYTES).map_err(|e| Error::read(path, e))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses a template. Errors show `file` as its name.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let template = Template::parse(text, Style::Strict);
        let checked = template.and_then(|template| {
            blocks::check(text, BLOCKS)?;
            Ok(template)
        });
        let template = checked.map_err(|problem| Error::Template {
            file: file.to_owned(),
            line: problem.line.unwrap_or(1),
            message: problem.text,
        })?;
        Ok(Self {
            names: template.names(),
            template,
            file: file.to_owned(),
        })
    }

    /// Renders the prompt and the response of a row.
    pub(super) fn render(&self, row: &Row<'_>) -> Result<(String, String)> {
        for name in &self.names {
            if let Some(number) = row.values.get(name).and_then(rounded) {
                let expected = format!("at most 64 bits, or quotes, in field \"{}\"", shown(name));
                return Err(row.error(expected, format!("a number of about {number:e}")));
            }
        }
        let values = Value::from_serialize(&row.values);
        let texts = self.template.render_blocks(values, BLOCKS);
        let [prompt, response] = texts.map_err(|Problem { line, text }| {
            let line = line.map_or(String::new(), |line| format!(", line {line}"));
            let expected = format!("fields that the template {}{line} can use", self.file);
            row.error(expected, text + &self.missing(row))
        })?;
        Ok((prompt, response))
    }

    /// The names of the template's fields that the row lacks.
    fn missing(&self, row: &Row<'_>) -> String {
        let names = self.names.iter();
        let names = names.filter(|name| !row.values.contains_key(*name));
        let names: Vec<&str> = names.map(String::as_str).collect();
        match names.as_slice() {
            [] => String::new(),
            names => format!("; the row has no {}", names.join(", ")),
        }
    }
}

/// A number of the value, also inside it, whose last digits are lost.
fn rounded(value: &serde_json::Value) -> Option<f64> {
    match value {
        serde_json::Value::Number(number) => {
            let is_whole = number.is_u64() || number.is_i64();
            number
                .as_f64()
                .filter(|value| !is_whole && is_rounded(*value))
        }
        serde_json::Value::Array(items) => items.iter().find_map(rounded),
        serde_json::Value::Object(fields) => fields.values().find_map(rounded),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::String(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::causal::{Form, Text, parse_texts};

    const TEMPLATE: &str = "{# what is outside is not used #}{% set end = '' -%}
{% block prompt %}{{ q | upper }}{% if hint is defined %} <{{ hint }}>{% endif %}{% endblock %}
{%- block response -%}{{ ' ' }}{{ a }}{{ end }}{% endblock response %}";

    fn text(template: &str, row: &str) -> Result<Text> {
        let form = Form::Template(TextTemplate::parse(template, "mine.html")?);
        Ok(parse_texts(row, "jsonl", "data", &form)?.texts.remove(0))
    }

    #[test]
    fn blocks_give_prompt_and_response() {
        let found = text(TEMPLATE, r#"{"q": "why & how", "a": "so"}"#).unwrap();
        assert_eq!(
            (found.prompt.as_str(), found.response.as_str()),
            ("WHY & HOW", " so")
        );
        let found = text(TEMPLATE, r#"{"q": "why", "a": 3, "hint": "h"}"#).unwrap();
        assert_eq!(
            (found.prompt.as_str(), found.response.as_str()),
            ("WHY <h>", " 3")
        );
    }

    #[test]
    fn what_the_blocks_would_lose_is_refused_with_its_line() {
        let prompt = "{% block prompt %}{{ q }}{% endblock %}";
        let response = "{% block response %}{{ a }}{% endblock %}";
        let row = r#"{"q": "why", "a": "so"}"#;
        for (template, expected) in [
            (
                format!("{prompt}\n\nAnswer: {response}"),
                "mine.html, line 3: expected no text outside of the blocks prompt and response, found \"Answer:\"",
            ),
            (
                format!("{prompt}{response}\nEND"),
                "mine.html, line 2: expected no text outside of the blocks prompt and response, found \"END\"",
            ),
            (
                format!("{{{{ q }}}}{prompt}{response}"),
                "mine.html, line 1: expected no text outside of the blocks prompt and response, found \"{{ q }}\"",
            ),
            (
                format!("{{% if q %}}Say{{% endif %}}{prompt}{response}"),
                "found \"Say\"",
            ),
            (
                format!("{prompt}{response}{{% raw %}}{{{{ x }}}}{{% endraw %}}"),
                "found \"{{ x }}\"",
            ),
            (
                format!("{prompt}{response}\n{{%- block promt %}}typo{{% endblock -%}}"),
                "mine.html, line 2: expected a block prompt or response, found block promt",
            ),
            (
                format!("{{% block prompt %}}\n{{{{ q }}}}{response}{{% endblock %}}"),
                "mine.html, line 2: expected blocks outside of other tags, found block response inside block",
            ),
            (
                format!("{{% if q %}}{prompt}{{% endif %}}{response}"),
                "expected blocks outside of other tags, found block prompt inside if",
            ),
        ] {
            let error = text(&template, row).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}\nnot\n{expected}");
        }
        let around = "{# a {% block x %} #}{% set s %}a {{ q }}{% endset %}{% macro m(x) %}<{{ x }}>{% endmacro %}";
        let tags = "{% block prompt %}{{ '%} {% block x %}' }}{% raw %}{% block y %}{% endraw %}{{ m(s) }}{% endblock %}";
        let found = text(&format!("{around}\n{tags}\n{response}\n"), row).unwrap();
        let prompt = "%} {% block x %}{% block y %}<a why>";
        assert_eq!(
            (found.prompt.as_str(), found.response.as_str()),
            (prompt, "so")
        );
    }

    #[test]
    fn a_number_that_lost_digits_is_refused_where_the_template_uses_it() {
        let row = r#"{"q": "why", "a": {"n": [12345678901234567890123]}, "b": 1e30}"#;
        let error = text(TEMPLATE, row).unwrap_err().to_string();
        let expected = "data, line 1: expected at most 64 bits, or quotes, in field \"a\", found a number of about 1.2345678901234568e22";
        assert_eq!(error, expected);
        let row = r#"{"q": "why", "a": 18446744073709551615, "b": 12345678901234567890123}"#;
        let found = text(TEMPLATE, row).unwrap();
        assert_eq!(found.response, " 18446744073709551615");
    }

    #[test]
    fn a_template_that_does_not_parse_is_named_with_the_line() {
        let error = text("\n\n{% block prompt %}{{ q }\n", "{}")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("mine.html, line 3: syntax error: "),
            "{error}"
        );
    }

    #[test]
    fn a_missing_field_or_block_is_named() {
        let error = text(TEMPLATE, r#"{"q": "why"}"#).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "data, line 1: expected fields that the template mine.html, line 3 can use"
            ),
            "{error}"
        );
        assert!(
            error.contains("undefined value") && error.contains("the row has no a"),
            "{error}"
        );
        let error = text("{% block prompt %}x{% endblock %}", "{}")
            .unwrap_err()
            .to_string();
        assert!(error.contains("response"), "{error}");
        let error = text(TEMPLATE, r#"{"q": "why", "a": ""}"#)
            .unwrap_err()
            .to_string();
        assert!(error.contains("expected a response"), "{error}");
    }
}

//! Prompts and responses from a user's template.

use std::path::Path;

use minijinja::Value;
use vblora::storage::read_text;
use vblora_models::template::{Problem, Style, Template};

use super::rows::Row;
use crate::{Error, Result, limits::MAX_TEXT_BYTES};

/// The blocks that a template must have.
const BLOCKS: [&str; 2] = ["prompt", "response"];

/// A Jinja template with two blocks. The fields of a row are variables in it:
///
/// ```text
/// {% block prompt %}{{ question }} ({{ topic }}){% endblock %}
/// {% block response %} {{ answer }}{% endblock %}
/// ```
///
/// Text outside the blocks is not used. A field that a row does not have is an error, unless the template asks for it by `is defined` or
/// gives it a default.
///
/// The template runs within the limits of [`vblora_models::template`].
#[derive(Debug, Clone)]
pub struct TextTemplate {
    template: Template,
    file: String,
}

impl TextTemplate {
    /// Reads a template file.
    ///
    /// # Errors
    /// The file does not exist; the template does not parse, with the line.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path, MAX_TEXT_BYTES).map_err(|e| Error::read(path, e))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses a template. Errors show `file` as its name.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let template = Template::parse(text, Style::Strict).map_err(|problem| Error::Template {
            file: file.to_owned(),
            line: problem.line.unwrap_or(1),
            message: problem.text,
        })?;
        let file = file.to_owned();
        Ok(Self { template, file })
    }

    /// Renders the prompt and the response of a row.
    pub(super) fn render(&self, row: &Row<'_>) -> Result<(String, String)> {
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
        let mut names = self.template.names();
        names.retain(|name| !row.values.contains_key(name));
        match names.as_slice() {
            [] => String::new(),
            names => format!("; the row has no {}", names.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::causal::{Form, Text, parse_texts};

    const TEMPLATE: &str = "{# what is outside is not used #}
{% block prompt %}{{ q | upper }}{% if hint is defined %} <{{ hint }}>{% endif %}{% endblock %}
{% block response %} {{ a }}{% endblock %}";

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

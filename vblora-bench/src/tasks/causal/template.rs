//! Prompt and response by a template of the user's own.

use std::{fmt, path::Path, sync::Arc};

use minijinja::{Environment, UndefinedBehavior, Value};
use vblora::storage::read_text;

use super::rows::Row;
use crate::{Error, Result, limits::MAX_TEXT_BYTES};

/// The blocks that a template must have.
const BLOCKS: [&str; 2] = ["prompt", "response"];

/// A Jinja template with two blocks, which sees the fields of a row by their names:
///
/// ```text
/// {% block prompt %}{{ question }} ({{ topic }}){% endblock %}
/// {% block response %} {{ answer }}{% endblock %}
/// ```
///
/// What stands outside the blocks is not used. A field that a row does not have is an error, unless the template asks for it by
/// `is defined` or gives it a default.
#[derive(Clone)]
pub struct TextTemplate(Arc<Environment<'static>>);

impl fmt::Debug for TextTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TextTemplate").field(&self.file()).finish()
    }
}

impl TextTemplate {
    /// Reads a template file.
    ///
    /// # Errors
    /// No such file; a template that does not parse, with the line.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path, MAX_TEXT_BYTES).map_err(|e| Error::read(path, e))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses a template; `file` is the name that errors carry.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // The texts are for a model, whatever the file's name ends in.
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment
            .add_template_owned(file.to_owned(), text.to_owned())
            .map_err(|e| Error::Template {
                file: file.to_owned(),
                line: e.line().unwrap_or(1),
                message: message(&e),
            })?;
        Ok(Self(Arc::new(environment)))
    }

    fn file(&self) -> &str {
        let (name, _) = self.0.templates().next().expect("one was added");
        name
    }

    /// The prompt and the response of a row.
    pub(super) fn render(&self, row: &Row<'_>) -> Result<(String, String)> {
        let file = self.file();
        let failed = |e: minijinja::Error| {
            let line = e
                .line()
                .map_or(String::new(), |line| format!(", line {line}"));
            let expected = format!("fields that the template {file}{line} can use");
            row.error(expected, message(&e) + &self.missing(row))
        };
        let template = self.0.get_template(file).map_err(failed)?;
        let values = Value::from_serialize(&row.values);
        let mut whole = template.render_captured(values).map_err(failed)?;
        let [prompt, response] =
            BLOCKS.map(|block| whole.with_state_mut(|state| state.render_block(block)));
        Ok((prompt.map_err(failed)?, response.map_err(failed)?))
    }

    /// The template's fields that the row does not have.
    fn missing(&self, row: &Row<'_>) -> String {
        let Ok(template) = self.0.get_template(self.file()) else {
            return String::new();
        };
        let mut names: Vec<_> = template.undeclared_variables(false).into_iter().collect();
        names.retain(|name| !row.values.contains_key(name));
        names.sort_unstable();
        match names.as_slice() {
            [] => String::new(),
            names => format!("; the row has no {}", names.join(", ")),
        }
    }
}

/// The template engine's words, without the place, which is said apart.
fn message(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
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

//! HTML from templates, in which every name is shown as it is.

use minijinja::{Environment, UndefinedBehavior, escape_formatter};
use serde::Serialize;

use super::escape::visible;

/// A page of a template that is part of the program. All that the template does not call `safe` is escaped.
///
/// # Panics
/// The template and what it is given do not fit.
pub(crate) fn html(template: &str, context: impl Serialize) -> String {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    environment.set_formatter(|out, state, value| match value.as_str() {
        // HTML has no place for control characters, escaped or not.
        Some(text) if !value.is_safe() => escape_formatter(out, state, &visible(text).into()),
        _ => escape_formatter(out, state, value),
    });
    // By the ending of its name a template is HTML, and escaped.
    let page = environment.render_named_str("page.html", template, context);
    page.expect("tests fill every template")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_html_is_shown() {
        let shown = |text: &str| {
            html(
                "{{ text }}",
                [("text", text)]
                    .into_iter()
                    .collect::<std::collections::BTreeMap<_, _>>(),
            )
        };
        let expected = "&lt;b class=&quot;x&quot; id=&#x27;y&#x27;&gt;&amp;amp;";
        assert_eq!(shown("<b class=\"x\" id='y'>&amp;"), expected);
        assert_eq!(shown("a\u{1b}[31m\nb"), "a\\u{1b}[31m\nb");
    }
}

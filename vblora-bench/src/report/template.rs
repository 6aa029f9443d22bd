//! HTML from templates that escape every name.

use minijinja::{Environment, UndefinedBehavior, escape_formatter};
use serde::Serialize;

use super::escape::visible;

/// Renders a built-in template. Every value that the template does not mark `safe` is escaped.
///
/// # Panics
/// The template and its context do not fit together.
pub(crate) fn html(template: &str, context: impl Serialize) -> String {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    environment.set_formatter(|out, state, value| match value.as_str() {
        // HTML does not allow control characters, even escaped.
        Some(text) if !value.is_safe() => escape_formatter(out, state, &visible(text).into()),
        _ => escape_formatter(out, state, value),
    });
    // The name's extension makes the template HTML, so values are escaped.
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

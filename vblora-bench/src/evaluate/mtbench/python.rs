//! Python's rules in FastChat's files: `str.format`, and the lines of `json.dumps`.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Fills `{name}` in a template with values, as Python's `str.format` does for keyword arguments. `{{` and `}}` stand for braces.
///
/// The template is read once. So braces in a value stay as they are, also where they look like a field.
///
/// # Errors
/// The reason: an unknown field, or a brace that stands alone. Forms that no judge prompt of FastChat has are unknown fields: `{x!r}`,
/// `{x:>9}`, `{x.y}`, `{0}`.
pub(super) fn format(template: &str, values: &[(&str, &str)]) -> Result<String, String> {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(behind) = rest.strip_prefix(brace) {
            text.push_str(brace);
            rest = behind;
            continue;
        }
        let field = match brace {
            "{" => rest.split_once('}'),
            _ => return Err("a \"}\" that stands alone".into()),
        };
        let (name, behind) = field.ok_or("a \"{\" that stands alone")?;
        text.push_str(value(name, values)?);
        rest = behind;
    }
    text.push_str(rest);
    Ok(text)
}

fn value<'a>(name: &str, values: &[(&str, &'a str)]) -> Result<&'a str, String> {
    let found = values.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = values.iter().map(|(name, _)| *name).collect();
        format!("the field {{{name}}}, known are {}", names.join(", "))
    })
}

/// A value as one line of JSON without its line feed: blanks after `:` and `,`, and other characters than ASCII escaped. Python's readers
/// then need no agreement on an encoding.
///
/// # Errors
/// The value cannot be written as JSON.
pub(crate) fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, Python))?;
    Ok(String::from_utf8(bytes).expect("only ASCII is written"))
}

struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        separate(to, first)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        separate(to, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        to: &mut W,
        text: &str,
    ) -> io::Result<()> {
        let mut units = [0; 2];
        for letter in text.chars() {
            if letter.is_ascii() && letter != '\u{7f}' {
                to.write_all(&[letter as u8])?;
                continue;
            }
            for unit in letter.encode_utf16(&mut units) {
                write!(to, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

fn separate<W: ?Sized + Write>(to: &mut W, first: bool) -> io::Result<()> {
    match first {
        true => Ok(()),
        false => to.write_all(b", "),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_filled_in_one_pass() {
        let values = [
            ("question", "Why {answer}?"),
            ("answer", "{question} {{x}} {"),
        ];
        let text = format("{{q}}: {question}\na: {answer}}}", &values).unwrap();
        assert_eq!(text, "{q}: Why {answer}?\na: {question} {{x}} {}");
        assert_eq!(format("", &values).unwrap(), "");
    }

    #[test]
    fn what_python_refuses_or_prompts_do_not_have_is_refused() {
        for (template, reason) in [
            (
                "{ref_answer_1}",
                "the field {ref_answer_1}, known are question",
            ),
            ("{question", "a \"{\" that stands alone"),
            ("question}", "a \"}\" that stands alone"),
            ("{question!r}", "the field {question!r}"),
            ("{}", "the field {}"),
        ] {
            let found = format(template, &[("question", "q")]).unwrap_err();
            assert!(found.starts_with(reason), "{found}");
        }
    }

    #[test]
    fn a_line_is_what_python_writes() {
        let value = json!({"a": [1, 2.5, null], "b": {"c": "é\n\"🙂\u{2028}\u{1}"}});
        let expected = r#"{"a": [1, 2.5, null], "b": {"c": "\u00e9\n\"\ud83d\ude42\u2028\u0001"}}"#;
        assert_eq!(json_line(&value).unwrap(), expected);
    }
}

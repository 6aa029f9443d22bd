//! Templates and expressions recorded from transformers' `apply_chat_template`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Recorded {
    now: String,
    families: BTreeMap<String, Family>,
    expressions: Expressions,
}

#[derive(Deserialize)]
struct Family {
    bos_token: Option<String>,
    eos_token: Option<String>,
    template: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    #[serde(default)]
    template: String,
    #[serde(default)]
    messages: Value,
    #[serde(default)]
    arguments: BTreeMap<String, Value>,
    rendered: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Expressions {
    values: BTreeMap<String, Value>,
    cases: Vec<Case>,
}

const NOW: &str = "2026-03-05T14:07:09";

fn template(text: &str, tokens: Vec<(String, String)>) -> Result<ChatTemplate> {
    ChatTemplate::with_clock(text, tokens, "file".into(), || NOW.parse().unwrap())
}

/// The difference from the record, if there is one. For errors, only the text of `raise_exception` must be the same.
fn difference(template: &str, found: Result<String>, case: &Case) -> Option<String> {
    let raised = |expected: &str| {
        let own = expected.split(' ').next().unwrap_or_default();
        template.contains("raise_exception") && !own.ends_with(':') && !own.starts_with('\'')
    };
    match (found, &case.rendered, &case.error) {
        (Ok(found), Some(expected), _) if found == *expected => None,
        (Err(Error::ChatTemplate { problem, .. }), _, Some(expected))
            if !raised(expected) || problem.contains(expected.as_str()) =>
        {
            None
        }
        (found, rendered, error) => Some(format!(
            "{template}\n  found    {found:?}\n  expected {rendered:?} {error:?}"
        )),
    }
}

#[test]
#[allow(clippy::print_stderr)] // The reason for a skip.
fn fixture_templates_and_expressions_come_out_as_in_transformers() {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/fixtures");
    let root = std::env::var("VBLORA_FIXTURES").unwrap_or_else(|_| default.to_owned());
    let file = std::path::Path::new(&root).join("models2/chat_templates.json");
    let Ok(text) = std::fs::read_to_string(&file) else {
        eprintln!("skipped: no {}", file.display());
        return;
    };
    let recorded: Recorded = serde_json::from_str(&text).unwrap();
    assert_eq!(recorded.now, NOW);
    let mut differences = Vec::new();
    let mut checked = 0;
    for (name, family) in &recorded.families {
        let tokens = [
            ("bos_token", &family.bos_token),
            ("eos_token", &family.eos_token),
        ];
        let tokens = tokens.into_iter();
        let tokens = tokens.filter_map(|(name, token)| Some((name.to_owned(), token.clone()?)));
        let template = template(&family.template, tokens.collect()).unwrap();
        for case in &family.cases {
            let mut arguments = case.arguments.clone();
            let answer = "add_generation_prompt".to_owned();
            arguments.entry(answer).or_insert(Value::from(true));
            let found = template.render(case.messages.clone(), arguments);
            differences.extend(difference(name, found, case));
            checked += 1;
        }
    }
    for case in &recorded.expressions.cases {
        let found = template(&case.template, Vec::new()).and_then(|template| {
            template.render(Value::from(()), recorded.expressions.values.clone())
        });
        differences.extend(difference(&case.template, found, case));
        checked += 1;
    }
    assert!(
        checked > 0 && differences.is_empty(),
        "{}",
        differences.join("\n")
    );
}

#[test]
fn the_clock_is_the_local_one() {
    let template = ChatTemplate::new("{{ strftime_now('%Y') }}".into(), vec![], "file".into());
    let year: i32 = template.unwrap().apply(&[], true).unwrap().parse().unwrap();
    assert!(year >= 2024);
}

#[test]
fn tools_of_a_template_are_none_and_what_is_generated_is_only_marked() {
    let source = "{% generation %}\n{{ tools is none }} {{ tools is defined }}{% endgeneration %}!";
    let template = template(source, vec![]).unwrap();
    assert_eq!(template.apply(&[], true).unwrap(), "True True!");
    let error = super::tests::template("a\n{% generation %}b", vec![]).unwrap_err();
    assert!(error.to_string().contains("line 2"), "{error}");
}

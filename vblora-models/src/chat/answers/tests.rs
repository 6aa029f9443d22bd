//! The parts to learn are those that transformers records, with `{% generation %}` blocks and without.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Recorded {
    templates: BTreeMap<String, String>,
    conversations: Vec<Vec<Turn>>,
    spans: Vec<Case>,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    conversation: usize,
    text: String,
    spans: Vec<Range<usize>>,
}

/// As a pair of numbers.
fn recorded() -> Recorded {
    let text = include_str!("../../../tests/generation/chat/answers.json");
    let mut json: serde_json::Value = serde_json::from_str(text).unwrap();
    for case in json["spans"].as_array_mut().unwrap() {
        for span in case["spans"].as_array_mut().unwrap() {
            *span = serde_json::json!({"start": span[0], "end": span[1]});
        }
    }
    serde_json::from_value(json).unwrap()
}

fn template(text: &str) -> ChatTemplate {
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let tokens = tokens.map(|(name, token)| (name.to_owned(), token.to_owned()));
    let now = || "2026-03-05T14:07:09".parse().unwrap();
    ChatTemplate::with_clock(text, tokens.to_vec(), "file".into(), now).unwrap()
}

/// The same template without its blocks; white space control stays.
fn without_blocks(text: &str) -> String {
    let mut text = text.to_owned();
    for (tag, replacement) in [("endgeneration", "endwith"), ("generation", "with")] {
        for open in ["{%- ", "{%+ ", "{% "] {
            text = text.replace(&format!("{open}{tag}"), &format!("{open}{replacement}"));
        }
    }
    text
}

fn messages(turns: &[(&str, &str)]) -> Vec<Message> {
    turns
        .iter()
        .map(|(role, text)| Message::new(*role, *text))
        .collect()
}

fn ranges(rendered: &Rendered) -> Vec<Range<usize>> {
    rendered
        .answers
        .iter()
        .map(|answer| answer.range.clone())
        .collect()
}

#[test]
fn blocks_are_marked_as_in_transformers() {
    let recorded = recorded();
    for case in &recorded.spans {
        let template = template(&recorded.templates[&case.template]);
        let turns = &recorded.conversations[case.conversation];
        let turns: Vec<_> = turns
            .iter()
            .map(|t| Message::new(&t.role, &t.content))
            .collect();
        let found = template.apply_whole(&turns).unwrap();
        assert_eq!(found.text, case.text, "{}", case.template);
        assert_eq!(
            ranges(&found),
            case.spans,
            "{} {}",
            case.template,
            case.conversation
        );
    }
    assert!(recorded.spans.len() >= 30);
}

#[test]
fn prefixes_give_what_blocks_give() {
    let recorded = recorded();
    let mut compared = 0;
    for case in &recorded.spans {
        // Its blocks hold the header of a turn, which is given in generation, and a line break behind the end.
        if case.template == "wide" {
            continue;
        }
        let template = template(&without_blocks(&recorded.templates[&case.template]));
        assert!(!template.template.marks());
        let turns = &recorded.conversations[case.conversation];
        let turns: Vec<_> = turns
            .iter()
            .map(|t| Message::new(&t.role, &t.content))
            .collect();
        let found = template.apply_whole(&turns).unwrap();
        assert_eq!(found.text, case.text, "{}", case.template);
        for (answer, span) in found.answers.iter().zip(&case.spans) {
            assert_eq!(
                answer.range.start, span.start,
                "{} {turns:?}",
                case.template
            );
            // Behind a last turn some templates write the end of the text; the token of the turn's end then ends the part.
            // A line break behind an end may be in a block, and is in no prefix's part.
            let end = span.start + found.text[span.clone()].trim_end().len();
            let content_end = answer.content_end.unwrap();
            assert!(content_end <= end && end <= answer.range.end);
            let behind = &found.text[end..answer.range.end];
            assert!(behind.is_empty() || behind == "\n</s>", "{behind:?}");
            compared += 1;
        }
        assert_eq!(found.answers.len(), case.spans.len());
    }
    assert!(compared > 30);
}

fn error(text: &str, turns: &[(&str, &str)]) -> String {
    template(text)
        .apply_whole(&messages(turns))
        .unwrap_err()
        .to_string()
}

const TURNS: [(&str, &str); 5] = [
    ("system", "Be kind."),
    ("user", "One?"),
    ("assistant", "<think>\nhm\n</think>\n\nYes."),
    ("user", "Two?"),
    ("assistant", "No."),
];

#[test]
fn templates_that_drop_repeat_reorder_or_change_turns_are_refused() {
    let line = "{{ m.role ~ ': ' ~ m.content ~ '\n' }}";
    let ask = "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";
    let each = |body: &str| format!("{{% for m in messages %}}{body}{{% endfor %}}{ask}");
    for (template, expected) in [
        (
            each(&format!("{{% if m.role != 'system' %}}{line}{{% endif %}}")),
            "turn 1 (system): the template leaves it out",
        ),
        (
            each(&format!(
                "{{% if m.role == 'user' %}}{line}{{% endif %}}{line}"
            )),
            "turn 2 (user): the template writes it more than once",
        ),
        (
            format!("{{% for m in messages[::-1] %}}{line}{{% endfor %}}{ask}"),
            "turn 2 (user): the template writes it before the turns before it",
        ),
        (
            each("{{ m.role ~ ': ' ~ m.content.replace('?', '!') ~ '\n' }}"),
            "turn 2 (user): the template changes its content",
        ),
        // Qwen 3 drops the thoughts of earlier turns.
        (
            each(
                "{{ m.role ~ ': ' ~ (m.content if loop.last else m.content.split('</think>')[-1].lstrip('\n')) ~ '\n' }}",
            ),
            "turn 3 (assistant): the template writes it, or what stands before it, differently when turns follow",
        ),
        // Mistral's puts the system text into the last turn of the user.
        (
            format!("{{{{ messages | length }}}} {}", each(line)),
            "turn 3 (assistant): the template writes it, or what stands before it, differently when turns follow",
        ),
        (
            each(
                "{% if m.role == 'user' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}",
            ),
            "turn 2 (user): the template writes it in a {% generation %} block",
        ),
        (
            each(
                "{{ m.content }}{% if loop.last %}{% generation %}!{% endgeneration %}{% endif %}",
            ),
            "turn 3 (assistant): the template writes it outside its {% generation %} blocks",
        ),
        (
            each(
                "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% generation %} more{% endgeneration %}{% endif %}",
            ),
            "a {% generation %} block belongs to no turn of the assistant: \" more\"",
        ),
        (
            format!(
                "{{% macro w(m) %}}{{% generation %}}{{{{ m.content }}}}{{% endgeneration %}}{{% endmacro %}}{}",
                each("{{ w(m) }}")
            ),
            "a block in a macro is not seen",
        ),
        (
            each(
                "{% generation %}{% generation %}{{ m.content }}{% endgeneration %}{% endgeneration %}",
            ),
            "a generation block begins inside another",
        ),
    ] {
        let found = error(&template, &TURNS);
        assert!(found.contains(expected), "{template}\n{found}\n{expected}");
    }
}

/// Thoughts and content may have a block each.
#[test]
fn a_turn_may_have_several_blocks() {
    let text = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<think>{% endgeneration %}-{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}|{% endfor %}";
    let found = template(text).apply_whole(&messages(&TURNS[3..])).unwrap();
    let answers: Vec<_> = ranges(&found).into_iter().map(|r| &found.text[r]).collect();
    assert_eq!(answers, ["<think>", "No."]);
}

#[test]
fn short_contents_are_not_taken_for_other_parts_of_the_text() {
    let text = "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    let turns = [
        ("user", "s"),
        ("assistant", "s"),
        ("user", "user"),
        ("assistant", "end"),
    ];
    let found = template(text).apply_whole(&messages(&turns)).unwrap();
    let answers: Vec<_> = ranges(&found).into_iter().map(|r| &found.text[r]).collect();
    assert_eq!(answers, ["s<|im_end|>", "end<|im_end|>"]);
    assert_eq!(&found.text[found.contents[1].clone()], "s");
}

/// Each family's template takes a conversation, with parts that hold the answers alone, or refuses it by turn or by its own words.
#[test]
#[allow(clippy::print_stderr)] // The reason for a skip.
fn fixture_templates_of_every_family_are_marked_or_refused() {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/fixtures");
    let root = std::env::var("VBLORA_FIXTURES").unwrap_or_else(|_| default.to_owned());
    let file = std::path::Path::new(&root).join("models2/chat_templates.json");
    let Ok(json) = std::fs::read_to_string(&file) else {
        eprintln!("skipped: no {}", file.display());
        return;
    };
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let mut marked = 0;
    for (name, family) in json["families"].as_object().unwrap() {
        let text = family["template"].as_str().unwrap();
        let own = template(text);
        for turns in [
            &TURNS[1..3],
            &TURNS[3..],
            &TURNS[..3],
            &TURNS[1..],
            &TURNS[..],
        ] {
            let answers: Vec<_> = turns
                .iter()
                .filter(|(role, _)| *role == "assistant")
                .collect();
            let found = match own.apply_whole(&messages(turns)) {
                Ok(found) => found,
                Err(error) => {
                    let error = error.to_string();
                    assert!(
                        error.contains("turn ") || error.contains("rules are"),
                        "{name}: {error}"
                    );
                    continue;
                }
            };
            assert_eq!(found.answers.len(), answers.len(), "{name}");
            for (answer, (_, content)) in found.answers.iter().zip(answers) {
                assert!(
                    found.text[answer.range.clone()].contains(content.trim()),
                    "{name}"
                );
            }
            let bare = template(&without_blocks(text))
                .apply_whole(&messages(turns))
                .unwrap();
            assert_eq!(ranges(&bare), ranges(&found), "{name}");
            marked += 1;
        }
    }
    assert!(marked >= 20, "{marked}");
}

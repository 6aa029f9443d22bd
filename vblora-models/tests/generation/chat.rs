//! Chat templates give what transformers makes of them.
//!
//! `recorded.json` was written by `render_jinja_template` of transformers 5.23 with `bos_token` `<s>` and `eos_token` `</s>`: the text, or
//! the message with which the template refused the conversation.

use serde_json::{Value, json};
use tempfile::TempDir;
use vblora_models::{ChatTemplate, Error, Message, ModelFiles, TextTokenizer, stop_tokens};

use crate::{fixtures, models};

const TEMPLATES: [(&str, &str); 5] = [
    ("chatml", include_str!("chat/chatml.jinja")),
    ("llama2", include_str!("chat/llama2.jinja")),
    ("mistral", include_str!("chat/mistral.jinja")),
    ("gemma", include_str!("chat/gemma.jinja")),
    ("python", include_str!("chat/python.jinja")),
];

/// A model's folder with these files.
fn folder(files: &[(&str, &str)]) -> (TempDir, ModelFiles) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let files = ModelFiles::open(dir.path()).unwrap();
    (dir, files)
}

fn read(files: &[(&str, &str)]) -> Result<Option<ChatTemplate>, Error> {
    ChatTemplate::from_files(&folder(files).1)
}

/// The template in its own file, the special tokens in both their forms.
fn template(text: &str) -> Result<ChatTemplate, Error> {
    let tokens = json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "add_bos_token": true});
    let files = [
        ("chat_template.jinja", text),
        ("tokenizer_config.json", &tokens.to_string()),
    ];
    read(&files).map(Option::unwrap)
}

fn config(chat_template: Value) -> String {
    json!({"chat_template": chat_template, "bos_token": "<s>", "pad_token": null}).to_string()
}

#[test]
fn matches_transformers_on_templates_of_every_family() {
    let recorded: Value = serde_json::from_str(include_str!("chat/recorded.json")).unwrap();
    let mut checked = 0;
    for case in recorded.as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let (_, text) = TEMPLATES.iter().find(|(known, _)| *known == name).unwrap();
        let field = |m: &Value, name: &str| m[name].as_str().unwrap().to_owned();
        let message = |m: &Value| Message::new(field(m, "role"), field(m, "content"));
        let messages: Vec<Message> = case["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(message)
            .collect();
        let found = template(text)
            .unwrap()
            .apply(&messages, case["answer"] == true);
        match case["text"].as_str() {
            Some(expected) => assert_eq!(found.unwrap(), expected, "{name}"),
            None => {
                let (error, expected) = (
                    found.unwrap_err().to_string(),
                    case["error"].as_str().unwrap(),
                );
                assert!(
                    error.contains(expected) && error.contains("line "),
                    "{error}"
                );
            }
        }
        checked += 1;
    }
    assert_eq!(checked, 28);
}

#[test]
fn a_template_is_found_in_its_file_in_the_config_or_by_its_name() {
    let hello = [Message::new("user", "hello")];
    let of = |files: &[(&str, &str)]| read(files).unwrap().map(|t| t.apply(&hello, true).unwrap());
    let one = config(json!("{{ bos_token }}one"));
    let several = config(
        json!([{"name": "tool_use", "template": "tool"}, {"name": "default", "template": "{{ bos_token }}default"}]),
    );
    assert_eq!(
        of(&[("tokenizer_config.json", &one)]),
        Some("<s>one".into())
    );
    assert_eq!(
        of(&[("tokenizer_config.json", &several)]),
        Some("<s>default".into())
    );
    let both = [
        ("tokenizer_config.json", one.as_str()),
        ("chat_template.jinja", "{{ bos_token }}file"),
    ];
    assert_eq!(of(&both), Some("<s>file".into()));
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[("tokenizer_config.json", &config(Value::Null))]), None);
}

#[test]
fn what_cannot_be_used_is_named_with_file_and_line() {
    let broken = "{{ bos_token }}\n{% for m in messages %}\n{{ m.content }";
    let in_config = config(json!(broken));
    let nameless = config(json!([{"name": "tool_use", "template": "tool"}]));
    let number = config(json!(3));
    for (name, text, parts) in [
        (
            "chat_template.jinja",
            broken,
            [
                "chat_template.jinja: chat template, line 3: syntax error",
                "",
            ],
        ),
        (
            "tokenizer_config.json",
            &in_config,
            [
                "tokenizer_config.json: chat template, line 3: syntax error",
                "",
            ],
        ),
        (
            "tokenizer_config.json",
            "[]",
            ["tokenizer_config.json: not the JSON expected", ""],
        ),
        (
            "tokenizer_config.json",
            &nameless,
            [
                "field \"chat_template\"",
                "expected one named \"default\", found [\"tool_use\"]",
            ],
        ),
        (
            "tokenizer_config.json",
            &number,
            ["field \"chat_template\"", "found 3"],
        ),
    ] {
        let error = read(&[(name, text)]).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn a_template_that_wants_the_day_gets_it() {
    let text = template("{{ strftime_now('%d %b %Y|%-d|%e|%%') }}{{ strftime_now is defined }}");
    let text = text.unwrap().apply(&[], true).unwrap();
    assert!(
        text.ends_with("|%True") && text.matches('|').count() == 3,
        "{text}"
    );
}

/// SmolLM2 and what was recorded for it, where they are.
fn smollm2() -> Option<(ModelFiles, Value)> {
    let folder = models::smollm2()?;
    let golden = fixtures::folder("../models")?.join("golden_smollm2.json");
    let golden = fixtures::json(&golden)["smollm2"].clone();
    Some((ModelFiles::open(&folder).unwrap(), golden))
}

#[test]
fn smollm2_gets_the_recorded_prompt_and_its_stop_token() {
    let Some((files, golden)) = smollm2() else {
        return;
    };
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let tokenizer = TextTokenizer::from_files(&files).unwrap();
    let template = ChatTemplate::from_files(&files).unwrap().unwrap();
    let prompt = template
        .apply(
            &[Message::new("user", "What is the capital of France?")],
            true,
        )
        .unwrap();
    let encoded = tokenizer
        .encode_plain(&[&prompt, golden["text"].as_str().unwrap()])
        .unwrap();
    assert_eq!(
        encoded,
        [ids(&golden["chat_prompt_ids"]), ids(&golden["ids"])]
    );
    assert_eq!(stop_tokens(&files, &tokenizer).unwrap(), [2]);
    let answer = ids(&golden["chat_greedy_ids"]);
    let text = golden["chat_greedy_text"].as_str().unwrap();
    assert_eq!(tokenizer.decode_with_special_tokens(&answer).unwrap(), text);
    assert_eq!(tokenizer.decode(&answer).unwrap() + "<|im_end|>", text);
}

#[test]
fn stop_tokens_are_those_of_every_file_and_wrong_ones_are_named() {
    let vocabulary = json!({"a": 0, "</s>": 1, "<|end|>": 2});
    let tokenizer =
        json!({"model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"}}).to_string();
    let of = |files: &[(&str, &str)]| {
        let files = [&[("tokenizer.json", tokenizer.as_str())][..], files].concat();
        let (_dir, files) = folder(&files);
        TextTokenizer::from_files(&files).and_then(|tokenizer| stop_tokens(&files, &tokenizer))
    };
    let generation = ("generation_config.json", r#"{"eos_token_id": [7, 1]}"#);
    let config = ("config.json", r#"{"eos_token_id": 1}"#);
    let named = (
        "tokenizer_config.json",
        r#"{"eos_token": {"content": "<|end|>"}}"#,
    );
    assert_eq!(of(&[generation, config, named]).unwrap(), [1, 2, 7]);
    assert_eq!(of(&[config]).unwrap(), [1]);
    assert_eq!(
        of(&[("config.json", r#"{"eos_token_id": null}"#)]).unwrap(),
        [0u32; 0]
    );
    // No token, as in transformers.
    let none = ("generation_config.json", r#"{"eos_token_id": [-1]}"#);
    assert_eq!(of(&[none]).unwrap(), [0u32; 0]);
    // The end that the base once had is not the chat model's.
    let old = ("config.json", r#"{"eos_token_id": 0}"#);
    assert_eq!(of(&[generation, old, named]).unwrap(), [1, 2, 7]);
    assert_eq!(of(&[old, named]).unwrap(), [0, 2]);
    assert_eq!(of(&[none, old, named]).unwrap(), [2]);
    let error = of(&[("generation_config.json", r#"{"eos_token_id": "</s>"}"#)])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("generation_config.json: field \"eos_token_id\"")
            && error.contains("found \"</s>\""),
        "{error}"
    );
}

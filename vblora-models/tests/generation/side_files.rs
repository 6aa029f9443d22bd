//! Results of transformers for tokenizer files, the files beside them, and `generation_config.json`.
//!
//! `side_files/recorded.json` was written by `side_files/record.py` with transformers 5.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use serde::Deserialize;
use tempfile::TempDir;
use vblora_models::{
    ChatTemplate, DecoderConfig, ModelFiles, TextTokenizer,
    generate::{Decoding, GenerationDefaults, TextStream},
};

use crate::toy::{Toy, tokens};

#[derive(Deserialize)]
struct Recorded {
    texts: Vec<String>,
    pair: [String; 2],
    contents: Vec<String>,
    cases: Vec<Case>,
    prompts: Vec<Vec<u32>>,
    generated: Vec<Generated>,
}

#[derive(Deserialize)]
struct Generated {
    /// Texts by name.
    files: BTreeMap<String, String>,
    /// The new tokens of each prompt.
    tokens: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    /// Numbers of contents by name.
    files: BTreeMap<String, usize>,
    class: String,
    special: BTreeMap<String, String>,
    ids: Vec<Vec<u32>>,
    decoded: Vec<String>,
    pair: Vec<u32>,
    pair_types: Option<Vec<u32>>,
}

fn recorded() -> Recorded {
    serde_json::from_str(include_str!("side_files/recorded.json")).unwrap()
}

fn folder(recorded: &Recorded, case: &Case) -> (TempDir, ModelFiles) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in &case.files {
        std::fs::write(dir.path().join(name), &recorded.contents[*text]).unwrap();
    }
    let files = ModelFiles::open(dir.path()).unwrap();
    (dir, files)
}

#[test]
fn texts_become_the_tokens_that_transformers_gives_them() {
    let recorded = recorded();
    let mut wrong = Vec::new();
    for case in &recorded.cases {
        let (_dir, files) = folder(&recorded, case);
        let tokenizer = match TextTokenizer::from_files(&files) {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                wrong.push(format!("{}: {error}", case.name));
                continue;
            }
        };
        let mut check = |what: &str, found: String, expected: String| {
            if found != expected {
                wrong.push(format!("{}, {what}: {found}, not {expected}", case.name));
            }
        };
        for (i, text) in recorded.texts.iter().enumerate() {
            let ids = &tokenizer.encode_batch(&[(text, None)], 99).unwrap()[0].ids;
            check(text, format!("{ids:?}"), format!("{:?}", case.ids[i]));
            let decoded = tokenizer.decode(&case.ids[i]).unwrap();
            check(text, decoded, case.decoded[i].clone());
        }
        let [first, second] = &recorded.pair;
        let pair = tokenizer
            .encode_batch(&[(first, Some(second))], 99)
            .unwrap();
        check(
            "pair",
            format!("{:?}", pair[0].ids),
            format!("{:?}", case.pair),
        );
        let types = match (&case.pair_types, case.class.as_str()) {
            (Some(types), _) => types.clone(),
            (None, "RobertaTokenizer" | "GPT2Tokenizer" | "BertTokenizer") => {
                vec![0; case.pair.len()]
            }
            (None, _) => pair[0].type_ids.clone(),
        };
        check(
            "types",
            format!("{:?}", pair[0].type_ids),
            format!("{types:?}"),
        );
    }
    assert!(recorded.cases.len() > 50);
    assert!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn chat_templates_see_the_special_tokens_that_transformers_has() {
    let recorded = recorded();
    for case in &recorded.cases {
        let (dir, files) = folder(&recorded, case);
        let names: Vec<&String> = case.special.keys().collect();
        let template: Vec<String> = names
            .iter()
            .map(|name| format!("{{{{ {name} }}}}"))
            .collect();
        std::fs::write(dir.path().join("chat_template.jinja"), template.join("|")).unwrap();
        let template = ChatTemplate::from_files(&files).unwrap().unwrap();
        let expected: Vec<&str> = case.special.values().map(String::as_str).collect();
        assert_eq!(
            template.apply(&[], false).unwrap(),
            expected.join("|"),
            "{}",
            case.name
        );
    }
}

/// A folder with these files and a tokenizer of 40 words.
fn with_words(files: &BTreeMap<String, String>) -> (TempDir, ModelFiles) {
    let dir = tempfile::tempdir().unwrap();
    let vocabulary: BTreeMap<String, u32> = (0..40).map(|id| (format!("w{id}"), id)).collect();
    let tokenizer =
        serde_json::json!({"model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"}});
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let files = ModelFiles::open(dir.path()).unwrap();
    (dir, files)
}

fn defaults(files: &BTreeMap<String, String>) -> vblora_models::Result<GenerationDefaults> {
    let (_dir, files) = with_words(files);
    let tokenizer = TextTokenizer::from_files(&files)?;
    GenerationDefaults::from_files(&files, &tokenizer)
}

fn generation_config(text: &str) -> vblora_models::Result<GenerationDefaults> {
    let files = [
        ("config.json", r#"{"model_type": "llama"}"#),
        ("generation_config.json", text),
    ];
    defaults(
        &files
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .into(),
    )
}

#[test]
fn the_files_settings_generate_the_tokens_that_transformers_generates() {
    let recorded = recorded();
    for case in &recorded.generated {
        let mut config = defaults(&case.files).unwrap().config;
        // Here a model without a word on its ends in generation_config.json has those of config.json.
        if !case
            .files
            .get("generation_config.json")
            .is_none_or(|text| text.contains("eos_token_id\": ["))
            && case.files["config.json"].contains("eos_token_id")
        {
            assert_eq!(config.stop_tokens, [34]);
            config.stop_tokens.clear();
        }
        let found = tokens(&mut Toy::new(40), &recorded.prompts, &config);
        assert_eq!(found, case.tokens, "{:?}", case.files);
    }
    assert!(recorded.generated.len() > 15);
}

#[test]
fn draws_are_as_the_file_says_and_as_transformers_has_them_by_default() {
    let of = |text| generation_config(text).unwrap();
    let Decoding::Sample(sampling) = of(r#"{"do_sample": true, "temperature": 0.6}"#)
        .config
        .decoding
    else {
        panic!("no draws");
    };
    assert_eq!(
        (sampling.temperature, sampling.top_k, sampling.top_p),
        (0.6, 50, 1.0)
    );
    let silent = of(r#"{"temperature": 0.6, "top_p": 0.9}"#);
    assert_eq!(silent.config.decoding, Decoding::Greedy);
    assert_eq!(
        (silent.sampling.temperature, silent.sampling.top_p),
        (0.6, 0.9)
    );
    assert_eq!(silent.config.max_new_tokens, 128);
}

#[test]
fn wrong_fields_of_the_generation_config_are_named() {
    for (text, message) in [
        (
            r#"{"repetition_penalty": "high"}"#,
            "\"repetition_penalty\": expected a number",
        ),
        (
            r#"{"do_sample": 1}"#,
            "\"do_sample\": expected true or false",
        ),
        (
            r#"{"max_new_tokens": -1}"#,
            "\"max_new_tokens\": expected a whole number",
        ),
        (
            r#"{"early_stopping": "soon"}"#,
            "\"early_stopping\": expected true, false",
        ),
        (
            r#"{"suppress_tokens": ["a"]}"#,
            "\"suppress_tokens\": expected a token id",
        ),
        (
            r#"{"bad_words_ids": [3]}"#,
            "\"bad_words_ids\": expected lists of token ids",
        ),
        (
            r#"{"guidance_scale": 1.5}"#,
            "\"guidance_scale\": not implemented",
        ),
        (
            r#"{"sequence_bias": [[[3], 1.0]]}"#,
            "\"sequence_bias\": not implemented",
        ),
        (r#"[1]"#, "not the JSON expected"),
    ] {
        let error = generation_config(text).unwrap_err().to_string();
        assert!(
            error.contains("generation_config.json") && error.contains(message),
            "{error}"
        );
    }
}

/// Cleaning up takes blanks away after text that was given; nothing of it may have been given before.
#[test]
fn text_that_is_cleaned_up_grows_to_the_text_of_all_tokens() {
    let words = ["a", "b", ".", "'", "n't", "'s", "do", "not", ",", "</s>"];
    let vocabulary: BTreeMap<&str, u32> = words.into_iter().zip(0..).collect();
    let tokenizer =
        serde_json::json!({"model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"}});
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = r#"{"clean_up_tokenization_spaces": true, "eos_token": "</s>"}"#;
    std::fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    let files = ModelFiles::open(dir.path()).unwrap();
    let tokenizer = TextTokenizer::from_files(&files).unwrap();
    let mut state = 1u32;
    for _ in 0..300 {
        let mut ids = Vec::new();
        for _ in 0..12 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ids.push((state >> 16) % words.len() as u32);
        }
        let mut stream = TextStream::new(&tokenizer, &[]);
        let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        text += &stream.finish().unwrap();
        assert_eq!(text, tokenizer.decode(&ids).unwrap(), "{ids:?}");
    }
}

/// Keeps the messages of warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Message<'a>(&'a mut Vec<String>);
        impl tracing::field::Visit for Message<'_> {
            fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.push(format!("{value:?}"));
            }
        }
        event.record(&mut Message(&mut self.0.lock().unwrap()));
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn what_is_not_honoured_is_said_once_by_file_and_field() {
    let files = [
        (
            "config.json",
            r#"{"model_type": "llama", "bos_token_id": -1}"#,
        ),
        (
            "generation_config.json",
            r#"{"min_p": 0.1, "typical_p": 1.0, "num_return_sequences": 2, "eos_token_id": [1, 700, -1]}"#,
        ),
        (
            "tokenizer_config.json",
            r#"{"auto_map": {"AutoTokenizer": ["a", null]}, "add_bos_token": true, "pad_token": "[PAD]"}"#,
        ),
    ];
    let files = files.map(|(name, text)| (name.to_owned(), text.to_owned()));
    let (_dir, files) = with_words(&files.into());
    let warnings = Warnings::default();
    let model = DecoderConfig {
        vocab_size: 40,
        ..DecoderConfig::llama_2_7b()
    };
    tracing::subscriber::with_default(warnings.clone(), || {
        for _ in 0..2 {
            let tokenizer = TextTokenizer::from_files(&files).unwrap();
            let tokenizer = tokenizer.for_decoder(&model).unwrap();
            let defaults = GenerationDefaults::from_files(&files, &tokenizer).unwrap();
            assert_eq!(defaults.config.stop_tokens, [1]);
        }
    });
    let mut said = warnings.0.lock().unwrap().clone();
    said.sort();
    let expected = [
        "generation_config.json: field \"eos_token_id\": not used: -1 is no token",
        "generation_config.json: field \"eos_token_id\": not used: 700 is outside the vocabulary of 40",
        "generation_config.json: field \"min_p\": not used: not implemented",
        "generation_config.json: field \"num_return_sequences\": not used: not implemented",
        "tokenizer.json: token \"[PAD]\" has id 40, beyond the model's vocabulary of 40",
        "tokenizer_config.json: field \"add_bos_token\": not used",
        "tokenizer_config.json: field \"auto_map\": not used",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.contains(expected), "{said}");
    }
}

//! Tokenizer files that the tokenizers crate panics at, or believes though they contradict themselves, are errors that name them.
#![allow(missing_docs)]

use std::time::Instant;

use serde_json::{Value, json};
use vblora_models::{ModelFiles, TextTokenizer};

/// The letters of the longest word that a file may have cut into pieces.
const MAX_WORD: u64 = 4096;

/// A word-level tokenizer with one more part, or with another in its place.
fn with(part: &str, value: Value) -> Value {
    let mut tokenizer = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1, "b": 2, "[CLS]": 3, "[SEP]": 4}, "unk_token": "<unk>"},
    });
    tokenizer[part] = value;
    tokenizer
}

fn template(single: Value, special: Value) -> Value {
    let pair =
        json!([{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]);
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special})
}

/// Loads a file and does with it whatever can be done; the first error.
fn use_it(file: &str) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), file).unwrap();
    let files = ModelFiles::open(dir.path()).unwrap();
    let error = |error: vblora_models::Error| error.to_string();
    let tokenizer = TextTokenizer::from_files(&files).map_err(error)?;
    let long = "a b ".repeat(300);
    let texts = [
        "a b",
        "",
        "zzz é 🙂",
        " \t\n",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!",
        &long,
    ];
    let pairs: Vec<(&str, Option<&str>)> = texts.iter().map(|text| (*text, Some("b"))).collect();
    let singles: Vec<(&str, Option<&str>)> = texts.iter().map(|text| (*text, None)).collect();
    tokenizer.encode_plain(&texts).map_err(error)?;
    tokenizer.encode_batch(&singles, 64).map_err(error)?;
    tokenizer.encode_batch(&pairs, 64).map_err(error)?;
    let ids: Vec<u32> = (0..12).chain([u32::MAX]).collect();
    tokenizer.decode(&ids).map_err(error)?;
    tokenizer.decode_with_special_tokens(&ids).map_err(error)?;
    Ok(())
}

#[test]
fn ids_that_the_vocabulary_has_not_are_named() {
    let a = json!({"Sequence": {"id": "A", "type_id": 0}});
    let cls = json!({"SpecialToken": {"id": "[CLS]", "type_id": 0}});
    let special = |id: u32| json!({"[CLS]": {"id": "[CLS]", "ids": [id], "tokens": ["[CLS]"]}});
    let added = |id: u32| json!([{"id": id, "content": "<x>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}]);
    let bert =
        |id: u32| json!({"type": "BertProcessing", "sep": ["[SEP]", id], "cls": ["[CLS]", 3]});
    let roberta = json!({"type": "RobertaProcessing", "sep": ["[SEP]", 4], "cls": ["[CLS]", 4000000000u32], "trim_offsets": true, "add_prefix_space": false});
    let replace = |pattern: Value, content: String| json!({"type": "Replace", "pattern": pattern, "content": content});
    let growing: Vec<Value> = (0..40)
        .map(|_| replace(json!({"String": "a"}), "a".repeat(10)))
        .collect();
    for (part, value, says) in [
        (
            "post_processor",
            template(json!([cls, a]), special(99)),
            "99",
        ),
        (
            "post_processor",
            template(json!([cls, a]), json!({})),
            "[CLS]",
        ),
        (
            "post_processor",
            template(json!([{"Sequence": {"id": "B", "type_id": 0}}]), special(3)),
            "single",
        ),
        ("post_processor", bert(77), "77"),
        ("post_processor", roberta.clone(), "4000000000"),
        (
            "post_processor",
            json!({"type": "Sequence", "processors": [roberta, bert(4)]}),
            "4000000000",
        ),
        ("added_tokens", added(9), "expected id 9"),
        (
            "normalizer",
            json!({"type": "Sequence", "normalizers": growing.clone()}),
            "times as long",
        ),
        (
            "normalizer",
            replace(json!({"Regex": "x*"}), "y".repeat(100_000)),
            "times as long",
        ),
        (
            "decoder",
            json!({"type": "Sequence", "decoders": growing}),
            "times as long",
        ),
    ] {
        let error = use_it(&with(part, value.clone()).to_string()).expect_err(&value.to_string());
        assert!(
            error.contains("tokenizer.json") && error.contains(says),
            "{value}: {error}"
        );
    }
    for (part, value) in [
        ("post_processor", template(json!([cls, a]), special(3))),
        ("post_processor", bert(4)),
        ("added_tokens", added(5)),
        (
            "normalizer",
            replace(json!({"String": " "}), "\u{2581}".into()),
        ),
    ] {
        use_it(&with(part, value).to_string()).unwrap();
    }
}

#[test]
fn no_file_makes_the_crate_panic_at_a_user() {
    let unigram = |unk: Value, vocab: Value, bytes: bool| json!({"type": "Unigram", "unk_id": unk, "vocab": vocab, "byte_fallback": bytes});
    let bpe = |vocab: Value, merges: Value, more: Value| {
        let mut model = json!({"type": "BPE", "vocab": vocab, "merges": merges, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "dropout": null});
        for (name, value) in more.as_object().unwrap() {
            model[name] = value.clone();
        }
        model
    };
    let split = |regex: &str, behavior: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": false});
    let nested = |kind: &str, inner: &str, depth: usize| {
        (0..depth).fold(
            json!({"type": "Lowercase"}),
            |part, _| json!({"type": kind, inner: [part]}),
        )
    };
    let pieces = json!([["<unk>", 0.0], ["a", -1.0], ["b", -2.0]]);
    let cases = [
        (
            "model",
            json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<none>"}),
        ),
        (
            "model",
            json!({"type": "WordLevel", "vocab": {}, "unk_token": "<unk>"}),
        ),
        (
            "model",
            json!({"type": "WordLevel", "vocab": {"a": 4294967295u32, "b": 4294967294u32}, "unk_token": "a"}),
        ),
        (
            "model",
            json!({"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}),
        ),
        (
            "model",
            json!({"type": "WordPiece", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]", "continuing_subword_prefix": "", "max_input_chars_per_word": 0}),
        ),
        ("model", unigram(json!(9), pieces.clone(), false)),
        ("model", unigram(json!(null), pieces.clone(), false)),
        ("model", unigram(json!(null), pieces.clone(), true)),
        ("model", unigram(json!(0), json!([]), false)),
        (
            "model",
            unigram(json!(0), json!([["", 0.0], ["", -1.0]]), true),
        ),
        (
            "model",
            unigram(
                json!(0),
                json!([["<unk>", 0.0], ["a", 1e308], ["aa", 1e308]]),
                false,
            ),
        ),
        (
            "model",
            bpe(json!({"a": 0, "b": 1}), json!(["a b"]), json!({})),
        ),
        (
            "model",
            bpe(json!({"a": 0, "b": 1}), json!(["a"]), json!({})),
        ),
        (
            "model",
            bpe(
                json!({"a": 0, "b": 1, "ab": 2}),
                json!(["a b"]),
                json!({"unk_token": "<none>"}),
            ),
        ),
        (
            "model",
            bpe(
                json!({"a": 0, "b": 1, "ab": 2}),
                json!(["a b"]),
                json!({"continuing_subword_prefix": "éé"}),
            ),
        ),
        (
            "model",
            bpe(
                json!({"a": 0, "b": 1, "ab": 2}),
                json!(["a b"]),
                json!({"byte_fallback": true, "dropout": 7.0}),
            ),
        ),
        ("pre_tokenizer", split("(", "Isolated")),
        ("pre_tokenizer", split("(?=(a+)+$)b", "Isolated")),
        ("pre_tokenizer", split("(?<=a)(?=b)|", "Removed")),
        (
            "pre_tokenizer",
            split("x{1000}{1000}{1000}", "MergedWithNext"),
        ),
        ("pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
        (
            "pre_tokenizer",
            json!({"type": "Metaspace", "replacement": "", "prepend_scheme": "always", "split": true}),
        ),
        (
            "pre_tokenizer",
            json!({"type": "Metaspace", "replacement": "ab", "prepend_scheme": "always", "split": true}),
        ),
        ("pre_tokenizer", nested("Sequence", "pretokenizers", 20)),
        ("normalizer", nested("Sequence", "normalizers", 20)),
        ("normalizer", nested("Sequence", "normalizers", 60)),
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        ),
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
        ),
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "ALQCAACEAAAAAACAAQAAgMz8AgC4BQAAhyIAgMzkAgC4PQAAeyIAgMzsAgC4BQAAiyIAgMw8AADNvAAAmwkAgJ4JAIChCQCA"}),
        ),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"}),
        ),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "(?:)"}, "content": "x"}),
        ),
        ("normalizer", json!({"type": "Prepend", "prepend": ""})),
        (
            "decoder",
            json!({"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": true}),
        ),
        (
            "decoder",
            json!({"type": "Strip", "content": "a", "start": 1000, "stop": 1000}),
        ),
        (
            "decoder",
            json!({"type": "Strip", "content": "a", "start": u64::MAX, "stop": u64::MAX}),
        ),
        (
            "decoder",
            json!({"type": "WordPiece", "prefix": "", "cleanup": true}),
        ),
        ("decoder", json!({"type": "BPEDecoder", "suffix": ""})),
        (
            "decoder",
            json!({"type": "Metaspace", "replacement": "\u{0}", "prepend_scheme": "first", "split": true}),
        ),
        ("decoder", nested("Sequence", "decoders", 20)),
        (
            "truncation",
            json!({"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 9}),
        ),
        (
            "padding",
            json!({"strategy": {"Fixed": 18446744073709551615u64}, "direction": "Left", "pad_to_multiple_of": 0, "pad_id": 0, "pad_type_id": 0, "pad_token": ""}),
        ),
        (
            "added_tokens",
            json!([{"id": 5, "content": "", "special": true, "single_word": true, "lstrip": true, "rstrip": true, "normalized": true}]),
        ),
        (
            "added_tokens",
            json!([{"id": 5, "content": " ", "special": false, "single_word": true, "lstrip": true, "rstrip": true, "normalized": true}]),
        ),
    ];
    for (part, value) in cases {
        let start = Instant::now();
        let found = use_it(&with(part, value.clone()).to_string());
        if let Err(error) = &found {
            assert!(error.contains("tokenizer.json"), "{value}: {error}");
        }
        let seconds = start.elapsed().as_secs_f64();
        assert!(seconds < 20.0, "{value}: {seconds} s");
    }
    for text in [
        "",
        "{",
        "null",
        "[]",
        "{\"version\": \"1.0\"}",
        "{\"model\": {}}",
    ] {
        assert!(use_it(text).unwrap_err().contains("tokenizer.json"));
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(
        use_it(
            &with("normalizer", json!("X"))
                .to_string()
                .replace("\"X\"", &deep)
        )
        .is_err()
    );
}

/// Values of every type, with the edges of numbers.
fn values() -> Vec<Value> {
    vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(u64::MAX),
        json!(0.5),
        json!(1e300),
        json!(""),
        json!("a"),
        json!([]),
        json!([7]),
        json!(["a", 7]),
        json!([["a", -1.0]]),
        json!([null]),
        json!({}),
        json!({"a": "b"}),
        json!({"a": -1}),
        json!({"a": 4294967296u64}),
        json!({"": 0, "a": 0, "b": 0}),
        json!({"type": "WordPiece"}),
    ]
}

/// Every place of a JSON value, as a pointer.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    let mut add = |name: String, inner: &Value| {
        let place = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        found.push(place.clone());
        places(inner, &place, found);
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, v)| add(name.clone(), v)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(i, v)| add(i.to_string(), v)),
        _ => {}
    }
}

/// Whatever stands in the place of whatever in a tokenizer of words or of pieces of words, it is used or refused by the file's name.
#[test]
fn a_part_of_a_wrong_type_is_refused_by_the_files_name() {
    let vocab = json!({"[UNK]": 0, "a": 1, "##b": 2, "[CLS]": 3, "[SEP]": 4});
    let bert = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true});
    for model in [
        json!({"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}),
        json!({"type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}),
    ] {
        let mut whole = with("model", model);
        whole["normalizer"] = bert.clone();
        whole["pre_tokenizer"] = json!({"type": "BertPreTokenizer"});
        whole["post_processor"] =
            json!({"type": "BertProcessing", "sep": ["[SEP]", 4], "cls": ["[CLS]", 3]});
        whole["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
        whole["added_tokens"] = json!([{"id": 0, "content": "[UNK]", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}]);
        use_it(&whole.to_string()).unwrap();
        let mut found = Vec::new();
        places(&whole, "", &mut found);
        assert!(found.len() > 30, "{found:?}");
        for place in found {
            for value in values() {
                let mut changed = whole.clone();
                *changed.pointer_mut(&place).unwrap() = value.clone();
                if let Err(error) = use_it(&changed.to_string()) {
                    assert!(
                        error.contains("tokenizer.json"),
                        "{place} = {value}: {error}"
                    );
                }
            }
        }
    }
}

/// Pieces of a word are looked for in time with the square of its length, or the cube where its letters are pieces.
#[test]
fn pieces_of_words_without_end_are_refused_or_found_in_time() {
    let model = |most: u64| {
        let vocab = json!({"[UNK]": 0, "a": 1, "##a": 2});
        json!({"type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": most})
    };
    for most in [MAX_WORD + 1, u64::from(u32::MAX), u64::MAX] {
        let error = use_it(&with("model", model(most)).to_string()).unwrap_err();
        assert!(
            error.contains("tokenizer.json") && error.contains("max_input_chars_per_word"),
            "{error}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let file = with("model", model(MAX_WORD)).to_string();
    std::fs::write(dir.path().join("tokenizer.json"), file).unwrap();
    let files = ModelFiles::open(dir.path()).unwrap();
    let tokenizer = TextTokenizer::from_files(&files).unwrap();
    // Longer than that it is an unknown word.
    let long = "a".repeat(MAX_WORD as usize + 1);
    assert_eq!(tokenizer.encode_plain(&[&long]).unwrap()[0].len(), 1);
    let word = "a".repeat(200);
    assert_eq!(tokenizer.encode_plain(&[&word]).unwrap()[0].len(), 200);
}

use super::*;
use crate::Family;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, PaddingParams};

/// A byte-level BPE trained in memory: `aaaa`, `bbbb` and so on are tokens of their own.
fn trained() -> Tokenizer {
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    let specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(40)
        .special_tokens(specials.map(|token| AddedToken::from(token, true)).to_vec())
        .build();
    let text = ["a b c d e f g h"].repeat(3);
    tokenizer
        .train(&mut TrainerWrapper::BpeTrainer(trainer), text.into_iter())
        .unwrap();
    let processing = RobertaProcessing::new(("</s>".into(), 2), ("<s>".into(), 0));
    tokenizer.with_post_processor(Some(processing));
    tokenizer
}

fn text_tokenizer() -> TextTokenizer {
    TextTokenizer::new(trained(), "made/tokenizer.json").unwrap()
}

fn lengths(encoded: &Encoded) -> Vec<usize> {
    encoded
        .ids
        .split(|id| *id == 2)
        .map(<[u32]>::len)
        .filter(|length| *length > 0)
        .collect()
}

#[test]
fn truncation_and_padding_of_the_file_are_off() {
    let mut tokenizer = trained();
    tokenizer.with_padding(Some(PaddingParams::default()));
    let truncation = TruncationParams {
        max_length: 4,
        ..TruncationParams::default()
    };
    tokenizer.with_truncation(Some(truncation)).unwrap();
    let file = tokenizer.to_string(false).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(WHOLE), file).unwrap();
    let tokenizer = TextTokenizer::from_files(&ModelFiles::open(dir.path()).unwrap()).unwrap();
    let encoded = tokenizer
        .encode_batch(&[("a b c d", None), ("a", None)], 100)
        .unwrap();
    assert_eq!((encoded[0].ids.len(), encoded[1].ids.len()), (6, 3));
    assert!(!encoded[0].truncated);
}

#[test]
fn single_texts_are_cut_at_the_end_and_say_so() {
    let tokenizer = text_tokenizer();
    let whole = &tokenizer.encode_batch(&[("a b c d e", None)], 7).unwrap()[0];
    assert_eq!((whole.ids.len(), whole.truncated), (7, false));
    let cut = &tokenizer.encode_batch(&[("a b c d e", None)], 6).unwrap()[0];
    assert!(cut.truncated);
    assert_eq!(cut.ids[..5], whole.ids[..5]);
    assert_eq!(cut.ids[5], 2);
}

#[test]
fn pairs_lose_tokens_from_the_longer_text_first() {
    let tokenizer = text_tokenizer();
    let long = "a b c d e f g h";
    let cut = |first: &str, second: &str, max: usize| {
        let encoded = tokenizer
            .encode_batch(&[(first, Some(second))], max)
            .unwrap();
        assert!(encoded[0].truncated && encoded[0].ids.len() == max);
        lengths(&encoded[0])
    };
    // The first part also counts <s>.
    assert_eq!(cut(long, "a b", 10), [5, 2]);
    assert_eq!(cut("a b", long, 10), [3, 4]);
    assert_eq!(cut(long, long, 13), [5, 5]);
    assert_eq!(cut(long, long, 12), [5, 4]);
}

#[test]
fn mixed_batches_keep_their_order() {
    let tokenizer = text_tokenizer();
    let texts = [("a", None), ("b", Some("c")), ("d", None), ("e", Some("f"))];
    let together = tokenizer.encode_batch(&texts, 16).unwrap();
    for (text, expected) in texts.iter().zip(&together) {
        assert_eq!(&tokenizer.encode_batch(&[*text], 16).unwrap()[0], expected);
    }
    assert_eq!(
        together.iter().map(|e| e.ids.len()).collect::<Vec<_>>(),
        [3, 6, 3, 6]
    );
    assert!(tokenizer.encode_batch(&[], 16).unwrap().is_empty());
}

#[test]
fn a_maximum_length_without_room_is_an_error() {
    let tokenizer = text_tokenizer();
    assert!(tokenizer.encode_batch(&[("a", None)], 3).is_ok());
    for (text, max, needed) in [
        (("a", None), 2, 3),
        (("a", None), 0, 3),
        (("a", Some("b")), 4, 5),
    ] {
        let error = tokenizer
            .encode_batch(&[text], max)
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("maximum length {max}")), "{error}");
        assert!(error.ends_with(&format!("at least {needed}")), "{error}");
    }
}

#[test]
fn empty_texts_are_special_tokens_alone() {
    let encoded = text_tokenizer()
        .encode_batch(&[("", None), ("", Some(""))], 8)
        .unwrap();
    assert_eq!(encoded[0].ids, [0, 2]);
    assert_eq!(encoded[1].ids, [0, 2, 2, 2]);
}

#[test]
fn a_tokenizer_that_does_not_fit_names_its_largest_token() {
    let tokenizer = text_tokenizer();
    let largest = tokenizer.largest_id() as usize;
    tokenizer.check_fits(largest + 1).unwrap();
    let error = tokenizer.check_fits(largest).unwrap_err().to_string();
    assert!(
        error.contains("made/tokenizer.json") && error.contains("does not fit"),
        "{error}"
    );
    assert!(error.contains(&format!("has id {largest}")), "{error}");
    assert!(tokenizer.check_fits(0).is_err());
}

#[test]
fn merge_dropout_of_the_file_is_off() {
    let mut tokenizer = trained();
    let ModelWrapper::BPE(model) = tokenizer.get_model() else {
        panic!("not BPE")
    };
    let mut model = model.clone();
    model.dropout = Some(0.9);
    tokenizer.with_model(model);
    let tokenizer = TextTokenizer::new(tokenizer, "x").unwrap();
    let expected = text_tokenizer()
        .encode_batch(&[("a b c d e f g h", None)], 64)
        .unwrap();
    for _ in 0..20 {
        let found = tokenizer
            .encode_batch(&[("a b c d e f g h", None)], 64)
            .unwrap();
        assert_eq!(found, expected);
    }
}

#[test]
fn what_is_written_reads_back_the_same() {
    let tokenizer = text_tokenizer();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(WHOLE), tokenizer.to_json().unwrap()).unwrap();
    let back = TextTokenizer::from_files(&ModelFiles::open(dir.path()).unwrap()).unwrap();
    let texts = [("a b h", Some("c d"))];
    assert_eq!(
        back.encode_batch(&texts, 32).unwrap(),
        tokenizer.encode_batch(&texts, 32).unwrap()
    );
    assert_eq!(back.token_id("<mask>"), Some(4));
}

#[test]
fn absent_and_broken_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let files = ModelFiles::open(dir.path()).unwrap();
    let error = TextTokenizer::from_files(&files).unwrap_err().to_string();
    assert!(
        error.contains("tokenizer.json") && error.contains("merges.txt"),
        "{error}"
    );
    std::fs::write(dir.path().join(VOCAB), "{}").unwrap();
    assert!(matches!(
        TextTokenizer::from_files(&files),
        Err(Error::NoFile { .. })
    ));
    for text in ["", "{", "{}", "[1]"] {
        std::fs::write(dir.path().join(WHOLE), text).unwrap();
        let error = TextTokenizer::from_files(&files).unwrap_err();
        assert!(matches!(error, Error::Tokenizer { .. }), "{text}: {error}");
        assert!(error.to_string().contains("tokenizer.json"));
    }
}

fn folder(files: &[(&str, String)]) -> (tempfile::TempDir, ModelFiles) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let files = ModelFiles::open(dir.path()).unwrap();
    (dir, files)
}

/// A pad that only the tokenizer has is no misfit. A text that spells it is an error, as is one with a word beyond the vocabulary.
#[test]
fn only_tokens_that_come_up_must_fit_the_model() {
    let file = trained().to_string(false).unwrap();
    let config = r#"{"pad_token": "[PAD]", "eos_token": "</s>"}"#.to_owned();
    let (_dir, files) = folder(&[("tokenizer.json", file), ("tokenizer_config.json", config)]);
    let tokenizer = TextTokenizer::from_files(&files).unwrap();
    let pad = tokenizer.token_id("[PAD]").unwrap();
    assert_eq!(tokenizer.largest_id(), pad);
    let model = DecoderConfig {
        vocab_size: pad as usize,
        ..DecoderConfig::gpt2_medium()
    };
    assert!(tokenizer.clone().within(pad as usize - 1).is_err());
    let tokenizer = tokenizer.for_decoder(&model).unwrap();
    assert_eq!(tokenizer.encode_plain(&["a b"]).unwrap()[0].len(), 2);
    let spelt = ("a [PAD]", "b");
    let errors = [
        tokenizer.encode_plain(&[spelt.0]).unwrap_err(),
        tokenizer.encode_batch(&[(spelt.0, None)], 9).unwrap_err(),
        tokenizer.encode_continued(&[spelt]).unwrap_err(),
        tokenizer.encode_prompts(&[spelt.0]).unwrap_err(),
    ];
    for error in errors {
        let expected = format!("a text becomes token \"[PAD]\" with id {pad}");
        assert!(error.to_string().contains(&expected), "{error}");
    }
    // Tokens that the tokenizer adds itself come up in every text.
    let mut framed = trained();
    framed.add_special_tokens(&[AddedToken::from("[END]", true)]);
    let end = framed.token_to_id("[END]").unwrap();
    let frame = RobertaProcessing::new(("[END]".into(), end), ("<s>".into(), 0));
    framed.with_post_processor(Some(frame));
    let framed = TextTokenizer::new(framed, "x").unwrap();
    assert!(framed.check_fits(end as usize).is_err());
}

#[test]
fn a_token_type_that_the_model_does_not_have_is_an_error() {
    let template = r#"{"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {}}"#;
    let mut file: serde_json::Value =
        serde_json::from_str(&trained().to_string(false).unwrap()).unwrap();
    file["post_processor"] = serde_json::from_str(template).unwrap();
    let of = |model_type: &str, side: &str, types: usize| {
        let model = format!("{{\"model_type\": \"{model_type}\"}}");
        let class = format!("{{\"tokenizer_class\": \"PreTrainedTokenizerFast\"{side}}}");
        let (_dir, files) = folder(&[
            ("tokenizer.json", file.to_string()),
            ("config.json", model),
            ("tokenizer_config.json", class),
        ]);
        let model = EncoderConfig {
            family: match model_type {
                "bert" => Family::Bert,
                _ => Family::Roberta,
            },
            type_vocab_size: types,
            ..EncoderConfig::roberta_base()
        };
        let tokenizer = TextTokenizer::from_files(&files).unwrap();
        let tokenizer = tokenizer.for_encoder(&model).unwrap();
        let encoded = tokenizer.encode_batch(&[("a", Some("b"))], 9);
        encoded.map(|encoded| encoded[0].type_ids.clone())
    };
    assert_eq!(of("bert", "", 2).unwrap(), [0, 1]);
    let error = of("bert", "", 1).unwrap_err().to_string();
    assert!(
        error.contains("token type 1") && error.contains("type_vocab_size 1"),
        "{error}"
    );
    // A tokenizer that gives its model no types, and RoBERTa, which has one.
    let none = r#", "model_input_names": ["input_ids", "attention_mask"]"#;
    assert_eq!(of("bert", none, 1).unwrap(), [0, 0]);
    assert_eq!(of("roberta", "", 1).unwrap(), [0, 0]);
}

#[test]
fn a_prompt_with_its_special_tokens_does_not_get_them_twice() {
    let tokenizer = text_tokenizer();
    assert_eq!(tokenizer.frame().unwrap(), (vec![0], vec![2]));
    let of = |text| tokenizer.encode_prompts(&[text]).unwrap().remove(0);
    let expected = of("a b");
    assert_eq!(
        expected,
        tokenizer.encode_batch(&[("a b", None)], 9).unwrap()[0].ids
    );
    for text in ["<s>a b", "a b</s>", "<s>a b</s>"] {
        assert_eq!(of(text), expected, "{text}");
    }
}

#[test]
fn long_texts_lose_the_end_that_the_side_files_say() {
    let file = trained().to_string(false).unwrap();
    let side = r#"{"truncation_side": "left"}"#.to_owned();
    let (_dir, files) = folder(&[("tokenizer.json", file), ("tokenizer_config.json", side)]);
    let tokenizer = TextTokenizer::from_files(&files).unwrap();
    let whole = tokenizer.encode_batch(&[("a b c d", None)], 9).unwrap();
    let cut = tokenizer.encode_batch(&[("a b c d", None)], 4).unwrap();
    let end = &whole[0].ids[3..];
    assert_eq!(cut[0].ids, [&[0], end].concat());
}

#[test]
fn files_of_other_families_are_named() {
    let vocab = r#"{"<s>": 0, "</s>": 1, "a": 2}"#.to_owned();
    let of = |model_type: &str, name: &'static str| {
        let model = format!("{{\"model_type\": \"{model_type}\"}}");
        let words = (name, vocab.clone());
        let (_dir, files) = folder(&[words, ("merges.txt", String::new()), ("config.json", model)]);
        TextTokenizer::from_files(&files).map_err(|error| error.to_string())
    };
    assert!(of("gpt2", "vocab.json").is_ok());
    assert!(of("roberta", "vocab.json").is_ok());
    for (model_type, name, message) in [
        (
            "llama",
            "vocab.json",
            "no tokenizer.json, and other files are not read for a model of type \"llama\"",
        ),
        ("bert", "vocab.json", "tokenizer.json or vocab.txt"),
        ("bert", "vocab.txt", "it has no token \"[UNK]\""),
        ("gpt2", "vocab.txt", "vocab.json and merges.txt"),
    ] {
        let error = of(model_type, name).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn wrong_side_files_are_named() {
    let file = trained().to_string(false).unwrap();
    for (name, text, message) in [
        ("tokenizer_config.json", "{", "not the JSON expected"),
        (
            "tokenizer_config.json",
            r#"{"eos_token": 5}"#,
            "\"eos_token\": expected a token, found 5",
        ),
        (
            "tokenizer_config.json",
            r#"{"do_lower_case": "no"}"#,
            "\"do_lower_case\": expected true or false",
        ),
        (
            "tokenizer_config.json",
            r#"{"added_tokens_decoder": {"x": "a"}}"#,
            "expected token ids as keys, found \"x\"",
        ),
        (
            "special_tokens_map.json",
            r#"{"pad_token": {"text": "a"}}"#,
            "\"pad_token\": expected a token",
        ),
        (
            "added_tokens.json",
            r#"{"<x>": "a"}"#,
            "\"<x>\": expected a token id",
        ),
        (
            "generation_config.json",
            r#"{"eos_token_id": 1.5}"#,
            "\"eos_token_id\": expected a token id",
        ),
    ] {
        let (_dir, files) = folder(&[("tokenizer.json", file.clone()), (name, text.to_owned())]);
        let error = TextTokenizer::from_files(&files).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(message), "{error}");
    }
}

/// Values of the Python package `tokenizers` 0.23.3 on the same file; the folder is the cache of
/// `shared/models/fetch.sh` or `VBLORA_MODELS`.
#[test]
#[allow(clippy::print_stderr)] // The reason for a skip.
fn matches_tokenizers_on_minilm() {
    let cache = std::env::var_os("VBLORA_MODELS")
        .map(std::path::PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cache/vblora-models")));
    let files = cache.and_then(|dir| ModelFiles::open(&dir.join("all-minilm-l6-v2")).ok());
    let Some(files) = files else {
        eprintln!("skipped: MiniLM is not there (shared/models/fetch.sh)");
        return;
    };
    let tokenizer = TextTokenizer::from_files(&files).unwrap();
    for (text, max, ids, type_ids) in minilm_cases() {
        let encoded = &tokenizer.encode_batch(&[text], max).unwrap()[0];
        assert_eq!(encoded.ids, ids, "{text:?}");
        assert_eq!(encoded.type_ids, type_ids, "{text:?}");
    }
    tokenizer.check_fits(30522).unwrap();
    assert!(tokenizer.check_fits(30521).is_err());
}

type Case = (
    (&'static str, Option<&'static str>),
    usize,
    Vec<u32>,
    Vec<u32>,
);

fn minilm_cases() -> Vec<Case> {
    vec![
        (
            ("The quick brown fox doesn't jump!", None),
            128,
            vec![
                101, 1996, 4248, 2829, 4419, 2987, 1005, 1056, 5376, 999, 102,
            ],
            vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        (
            ("Naïve café — 日本 unaffable", None),
            128,
            vec![101, 15743, 7668, 1517, 1864, 1876, 14477, 20961, 3468, 102],
            vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        (
            (
                "Amrozi accused his brother of deliberately distorting his evidence.",
                Some("He called him a witness."),
            ),
            16,
            vec![
                101, 2572, 3217, 5831, 5496, 2010, 2567, 1997, 102, 2002, 2170, 2032, 1037, 7409,
                1012, 102,
            ],
            vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1],
        ),
        (
            (
                "yes",
                Some("The cat sat on the mat because it was tired and hungry"),
            ),
            12,
            vec![
                101, 2748, 102, 1996, 4937, 2938, 2006, 1996, 13523, 2138, 2009, 102,
            ],
            vec![0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        ),
        (
            (
                "one two three four five six seven",
                Some("a b c d e f g h i"),
            ),
            12,
            vec![
                101, 2028, 2048, 2093, 2176, 102, 1037, 1038, 1039, 1040, 1041, 102,
            ],
            vec![0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1],
        ),
    ]
}

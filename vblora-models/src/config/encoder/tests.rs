//! Tests of reading and checking.

use serde_json::{Value, json};

use super::*;
use crate::{Error, config::LayerSet};

/// As transformers 5 writes it (and 4, but for `dtype`).
fn roberta() -> Value {
    json!({
        "add_cross_attention": false, "architectures": ["RobertaForSequenceClassification"],
        "attention_probs_dropout_prob": 0.25, "bos_token_id": 0, "classifier_dropout": null,
        "dtype": "float32", "eos_token_id": 2, "hidden_act": "gelu", "hidden_dropout_prob": 0.5,
        "hidden_size": 64, "initializer_range": 0.125, "intermediate_size": 128, "is_decoder": false,
        "layer_norm_eps": 1e-5, "max_position_embeddings": 40, "model_type": "roberta",
        "num_attention_heads": 4, "num_hidden_layers": 2, "pad_token_id": 1, "type_vocab_size": 1,
        "use_cache": true, "vocab_size": 1000,
    })
}

fn read(value: &Value) -> Result<EncoderConfig> {
    EncoderConfig::from_json(value.to_string().as_bytes(), "dir/config.json")
}

fn with(field: &str, value: Value) -> String {
    let mut config = roberta();
    config[field] = value;
    read(&config).unwrap_err().to_string()
}

#[test]
fn roberta_fields_are_read() {
    let config = read(&roberta()).unwrap();
    let expected = EncoderConfig {
        family: Family::Roberta,
        hidden_size: 64,
        num_layers: 2,
        num_heads: 4,
        intermediate_size: 128,
        vocab_size: 1000,
        max_positions: 40,
        type_vocab_size: 1,
        layer_norm_eps: 1e-5,
        activation: Activation::Gelu,
        hidden_dropout: 0.5,
        attention_dropout: 0.25,
        classifier_dropout: None,
        pad_token_id: 1,
        initializer_range: 0.125,
        position_offset: 2,
        base_dtype: BaseDtype::F32,
        ..EncoderConfig::roberta_base()
    };
    assert_eq!(config, expected);
    assert_eq!(config.usable_positions(), 38);
}

#[test]
fn an_old_bert_gets_the_defaults() {
    let bert = json!({
        "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu_new", "hidden_size": 128,
        "intermediate_size": 512, "max_position_embeddings": 512, "model_type": "bert",
        "num_attention_heads": 2, "num_hidden_layers": 2, "type_vocab_size": 2, "vocab_size": 30522,
        "classifier_dropout": 0.3,
    });
    let config = read(&bert).unwrap();
    assert_eq!(config.family, Family::Bert);
    assert_eq!(
        (config.position_offset, config.usable_positions()),
        (0, 512)
    );
    assert_eq!((config.pad_token_id, config.layer_norm_eps), (0, 1e-12));
    assert_eq!(
        (config.hidden_dropout, config.classifier_dropout),
        (0.1, Some(0.3))
    );
    assert_eq!(config.activation, Activation::GeluTanh);
}

#[test]
fn writing_and_reading_gives_the_same_settings() {
    let mut config = read(&roberta()).unwrap();
    for (family, activation) in [
        (Family::Roberta, Activation::Relu),
        (Family::Bert, Activation::GeluTanh),
    ] {
        config.family = family;
        config.activation = activation;
        config.position_offset = family.position_offset(config.pad_token_id);
        let text = config.to_json();
        assert_eq!(
            EncoderConfig::from_json(text.as_bytes(), "x").unwrap(),
            config
        );
    }
    config.family = Family::Roberta;
    assert!(config.to_json().contains("RobertaForMaskedLM"));
}

#[test]
fn what_is_not_set_is_not_written() {
    for family in Family::ALL {
        let config = EncoderConfig {
            family,
            ..read(&roberta()).unwrap()
        };
        let written: Value = serde_json::from_str(&config.to_json()).unwrap();
        let null = |field: &(&String, &Value)| field.1.is_null();
        assert_eq!(written.as_object().unwrap().iter().find(null), None);
        let set = EncoderConfig {
            classifier_dropout: Some(0.375),
            ..config
        };
        let written: Value = serde_json::from_str(&set.to_json()).unwrap();
        assert_eq!(written[family.keys().classifier_dropout], 0.375);
    }
}

#[test]
fn another_architecture_is_named() {
    for model in ["gpt2", "xlm-roberta-xl", "deberta"] {
        let error = with("model_type", json!(model));
        assert!(
            error.contains("dir/config.json: config of another architecture"),
            "{error}"
        );
        assert!(error.contains(model) && error.contains("\"roberta\", \"bert\", "));
    }
}

#[test]
fn missing_and_wrongly_typed_fields_are_named() {
    for field in [
        "model_type",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "type_vocab_size",
    ] {
        let mut config = roberta();
        config.as_object_mut().unwrap().remove(field);
        let error = read(&config).unwrap_err().to_string();
        assert!(
            error.contains(field) && error.contains("missing"),
            "{error}"
        );
        assert!(with(field, json!([1])).contains(&format!("field {field:?}: expected")));
    }
    for (field, value) in [
        ("hidden_size", json!(-1)),
        ("vocab_size", json!(1.5)),
        ("vocab_size", json!("1000")),
        ("layer_norm_eps", json!("small")),
        ("hidden_act", json!(3)),
        ("pad_token_id", json!(-2)),
        ("pad_token_id", json!([1])),
        ("is_decoder", json!("no")),
    ] {
        let error = with(field, value);
        assert!(
            error.contains("dir/config.json") && error.contains(field),
            "{error}"
        );
    }
}

/// As in transformers: RoBERTa counts positions from it, and no token is it.
#[test]
fn a_padding_of_minus_one_is_no_token() {
    let mut config = roberta();
    config["pad_token_id"] = json!(-1);
    let read_once = read(&config).unwrap();
    assert_eq!((read_once.pad_token_id, read_once.position_offset), (0, 0));
    let again = EncoderConfig::from_json(read_once.to_json().as_bytes(), "x").unwrap();
    assert_eq!(again, read_once);
    config["model_type"] = json!("bert");
    assert_eq!(read(&config).unwrap().position_offset, 0);
}

/// As in transformers: rows are filled with any token, which no token sees, unless positions are counted from it.
#[test]
fn a_padding_of_null_is_no_token() {
    for mut config in [modernbert(), deberta()] {
        config["pad_token_id"] = json!(null);
        let config = read(&config).unwrap();
        assert_eq!((config.pad_token_id, config.position_offset), (0, 0));
    }
    let error = with("pad_token_id", json!(null));
    assert!(
        error.contains("pad_token_id") && error.contains("found null"),
        "{error}"
    );
}

#[test]
fn impossible_values_are_named() {
    let cases = [
        (
            "hidden_size",
            json!(66),
            "not a multiple of num_attention_heads 4",
        ),
        ("hidden_size", json!(0), "expected 1 to"),
        ("num_hidden_layers", json!(0), "expected 1 to"),
        ("type_vocab_size", json!(0), "expected 1 to"),
        ("vocab_size", json!(u64::MAX), "expected 1 to"),
        ("intermediate_size", json!(1_000_000), "expected 1 to"),
        ("hidden_act", json!("swish"), "found \"swish\""),
        (
            "position_embedding_type",
            json!("relative_key"),
            "found \"relative_key\"",
        ),
        ("is_decoder", json!(true), "only encoders"),
        (
            "pad_token_id",
            json!(1000),
            "outside the vocabulary of 1000",
        ),
        ("max_position_embeddings", json!(2), "leaves no position"),
        ("hidden_dropout_prob", json!(1.0), "[0, 1)"),
        ("classifier_dropout", json!(-0.1), "[0, 1)"),
        ("layer_norm_eps", json!(0.0), "between 0 and 1"),
        ("initializer_range", json!(-1), "at least 0"),
    ];
    for (field, value, expected) in cases {
        let error = with(field, value);
        assert!(error.contains(field) && error.contains(expected), "{error}");
    }
}

#[test]
fn a_weight_too_large_to_allocate_is_named() {
    let mut config = roberta();
    config["hidden_size"] = json!(65536);
    config["vocab_size"] = json!(1 << 20);
    let error = read(&config).unwrap_err().to_string();
    assert!(error.contains("over the limit"), "{error}");
}

#[test]
fn broken_json_is_named() {
    for text in ["", "{", "[]", "null"] {
        let error = EncoderConfig::from_json(text.as_bytes(), "d/config.json").unwrap_err();
        assert!(matches!(error, Error::Json { .. }), "{text}");
        assert!(error.to_string().contains("d/config.json"));
    }
}

#[test]
#[allow(clippy::print_stderr)] // The reason for a skip.
fn fixture_configs_of_roberta_load_and_others_are_refused() {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/fixtures");
    let root = std::env::var("VBLORA_FIXTURES").unwrap_or_else(|_| default.to_owned());
    let models = std::path::Path::new(&root).join("models");
    let Ok(entries) = std::fs::read_dir(&models) else {
        eprintln!("skipped: no fixtures in {}", models.display());
        return;
    };
    for entry in entries {
        let base = entry.unwrap().path().join("base");
        let Ok(files) = ModelFiles::open(&base) else {
            continue;
        };
        let found = EncoderConfig::from_files(&files);
        match found {
            Ok(config) => assert_eq!((config.hidden_size, config.num_layers), (64, 2)),
            Err(error) => {
                assert!(matches!(error, Error::OtherArchitecture { .. }), "{error}");
                assert!(!base.to_string_lossy().contains("roberta"));
            }
        }
    }
}

fn deberta() -> Value {
    json!({
        "model_type": "deberta-v2", "hidden_act": "gelu", "hidden_size": 64, "intermediate_size": 48,
        "max_position_embeddings": 40, "max_relative_positions": -1, "norm_rel_ebd": "layer_norm",
        "num_attention_heads": 4, "num_hidden_layers": 2, "pos_att_type": "c2p|p2c", "position_biased_input": false,
        "position_buckets": 8, "relative_attention": true, "share_att_key": true, "vocab_size": 100,
    })
}

fn modernbert() -> Value {
    json!({
        "model_type": "modernbert", "hidden_size": 64, "intermediate_size": 32, "max_position_embeddings": 40,
        "num_attention_heads": 4, "num_hidden_layers": 4, "pad_token_id": 5, "vocab_size": 100,
    })
}

fn refused(mut config: Value, field: &str, value: Value) -> String {
    config[field] = value;
    read(&config).unwrap_err().to_string()
}

#[test]
fn what_deberta_leaves_unsaid_or_has_otherwise_is_known_or_refused() {
    let config = read(&deberta()).unwrap();
    let expected = RelativeBuckets {
        buckets: 8,
        reach: 40,
    };
    assert_eq!(config.positions, EncoderPositions::Relative(expected));
    assert_eq!((config.type_vocab_size, config.layer_norm_eps), (0, 1e-7));
    assert!(!config.head_in_base && config.head_form().has_dense);
    assert_eq!(config.optional_site(), Some("pooler.dense"));
    for (field, value) in [
        ("relative_attention", json!(false)),
        ("share_att_key", json!(false)),
        ("position_biased_input", json!(true)),
        ("norm_rel_ebd", json!("none")),
        ("conv_kernel_size", json!(3)),
        ("pooler_hidden_size", json!(32)),
        ("pooler_hidden_act", json!("mish")),
        ("pooler_dropout", json!(0.1)),
        ("embedding_size", json!(32)),
        ("attention_head_size", json!(32)),
        ("pos_att_type", json!("c2p")),
        ("pos_att_type", json!(["c2p", "p2p"])),
        ("pos_att_type", json!(null)),
        ("position_buckets", json!(-1)),
        ("position_buckets", json!(1)),
        ("position_buckets", json!(78)),
    ] {
        let error = refused(deberta(), field, value.clone());
        assert!(error.contains(field), "{field} {value}: {error}");
    }
    for field in ["position_buckets", "max_relative_positions"] {
        let error = refused(deberta(), field, json!(1.5));
        assert!(
            error.contains("expected a whole number, found 1.5"),
            "{error}"
        );
    }
    let mut typed = deberta();
    typed["type_vocab_size"] = json!(2);
    typed["max_relative_positions"] = json!(30);
    typed["pos_att_type"] = json!(["p2c", "c2p"]);
    let typed = read(&typed).unwrap();
    assert_eq!(typed.type_vocab_size, 2);
    let EncoderPositions::Relative(buckets) = typed.positions else {
        panic!("relative")
    };
    assert_eq!(buckets.reach, 30);
}

#[test]
fn what_modernbert_leaves_unsaid_or_has_otherwise_is_known_or_refused() {
    let rotary = |config: Value| match read(&config).unwrap().positions {
        EncoderPositions::Rotary(rotary) => rotary,
        other => panic!("{other:?}"),
    };
    let listed = |local: [bool; 4]| LayerSet::Listed(local.to_vec());
    let expected = RotaryLayers {
        theta: 160_000.0,
        local_theta: 10_000.0,
        reach: 64,
        local: listed([false, true, true, false]),
    };
    assert_eq!(rotary(modernbert()), expected);
    let config = read(&modernbert()).unwrap();
    assert_eq!(
        (config.pooling, config.hidden_dropout),
        (Pooling::First, 0.0)
    );
    assert!(!config.attention_bias && !config.mlp_bias && !config.norm_bias && !config.head_bias);
    assert!(config.head_in_base && !config.head_form().has_dense);
    let with = |field: &str, value: Value| {
        let mut config = modernbert();
        config[field] = value;
        config
    };
    assert_eq!(
        rotary(with("local_rope_theta", json!(null))).local_theta,
        160_000.0
    );
    let every = rotary(with("global_attn_every_n_layers", json!(2)));
    assert_eq!(every.local, listed([false, true, false, true]));
    assert_eq!(rotary(with("local_attention", json!(7))).reach, 3);
    let mean = read(&with("classifier_pooling", json!("mean"))).unwrap();
    assert_eq!(mean.pooling, Pooling::Mean);
    for field in ["attention_bias", "mlp_bias", "norm_bias", "classifier_bias"] {
        assert_ne!(read(&with(field, json!(true))).unwrap(), config, "{field}");
    }
    // They change nothing here.
    for field in [
        "sparse_prediction",
        "deterministic_flash_attn",
        "decoder_bias",
    ] {
        assert_eq!(read(&with(field, json!(true))).unwrap(), config, "{field}");
    }
    for (field, value) in [
        ("classifier_pooling", json!("max")),
        ("classifier_activation", json!("silu")),
        ("hidden_activation", json!("silu")),
        ("embedding_dropout", json!(0.1)),
        ("global_attn_every_n_layers", json!(0)),
        ("layer_types", json!(["full_attention"])),
        ("layer_types", json!(["a", "b", "c", "d"])),
        ("rope_scaling", json!({"factor": 2.0})),
        (
            "rope_parameters",
            json!({"full_attention": {"rope_type": "yarn"}}),
        ),
        (
            "rope_parameters",
            json!({"full_attention": {"type": "linear", "factor": 4.0}}),
        ),
        (
            "rope_parameters",
            json!({"rope_type": "linear", "factor": 4.0}),
        ),
        ("sliding_window", json!(1)),
        ("global_rope_theta", json!(0)),
        ("local_rope_theta", json!(-1)),
        ("num_attention_heads", json!(64)),
    ] {
        let error = refused(modernbert(), field, value.clone());
        assert!(error.contains(field), "{field} {value}: {error}");
    }
}

#[test]
fn distilbert_and_electra_have_words_and_sizes_of_their_own() {
    let distilbert = json!({
        "model_type": "distilbert", "dim": 64, "hidden_dim": 48, "n_heads": 4, "n_layers": 2, "dropout": 0.25,
        "attention_dropout": 0.5, "seq_classif_dropout": 0.2, "activation": "relu", "vocab_size": 100,
        "max_position_embeddings": 40,
    });
    let config = read(&distilbert).unwrap();
    assert_eq!(
        (config.hidden_dropout, config.attention_dropout),
        (0.25, 0.5)
    );
    assert_eq!(
        (config.classifier_dropout, config.type_vocab_size),
        (Some(0.2), 0)
    );
    assert_eq!(config.activation, Activation::Relu);
    assert!(refused(distilbert.clone(), "n_heads", json!(7)).contains("\"dim\""));
    assert!(refused(distilbert, "dropout", json!(1)).contains("\"dropout\""));
    let mut electra = roberta();
    electra["model_type"] = json!("electra");
    electra["pad_token_id"] = json!(0);
    assert_eq!(read(&electra).unwrap().embedding_size, Some(128));
    electra["embedding_size"] = json!(64);
    assert_eq!(read(&electra).unwrap().embedding_size, None);
}

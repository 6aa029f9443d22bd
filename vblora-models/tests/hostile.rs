//! A model's files made to do harm: whatever their bytes say, reading ends in a model's description or in an error that names the file.
#![allow(missing_docs, clippy::print_stdout)]

#[path = "../../vblora/tests/support/corrupt.rs"]
#[allow(dead_code, unreachable_pub)]
mod corrupt;

use std::{path::Path, time::Instant};

use burn::backend::Flex;
use corrupt::corrupt;
use serde_json::{Value, json};
use vblora_models::{
    Checkpoint, DecoderConfig, DecoderFamily, Encoder, EncoderConfig, ModelFiles, SaveDtype,
    TextTokenizer, decoder::CausalLm, dequantize, quantize, save_safetensors, save_tensors,
};

/// Reads a file in `cases` spoiled forms; gives how many were right all the same.
fn attack(
    path: &Path,
    cases: u64,
    read: impl Fn(&ModelFiles) -> Result<(), vblora_models::Error>,
) -> u64 {
    let (dir, file) = (
        path.parent().unwrap(),
        path.file_name().unwrap().to_str().unwrap(),
    );
    let files = ModelFiles::open(dir).unwrap();
    let whole = std::fs::read(path).unwrap();
    read(&files).unwrap();
    let mut right = 0;
    for case in 0..cases {
        std::fs::write(path, corrupt(&whole, case, file)).unwrap();
        match read(&files) {
            Ok(()) => right += 1,
            Err(error) => {
                let place = dir.display().to_string();
                assert!(error.to_string().contains(&place), "case {case}: {error}");
            }
        }
    }
    println!("{file}: {right} of {cases} were still right");
    std::fs::write(path, whole).unwrap();
    read(&files).unwrap();
    right
}

fn llama() -> serde_json::Value {
    json!({
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 16, "max_position_embeddings": 24, "rms_norm_eps": 1e-5, "rope_theta": 100.0,
        "hidden_act": "silu", "initializer_range": 0.5, "tie_word_embeddings": false, "eos_token_id": [1, 2],
        "rope_scaling": null, "attention_bias": false,
    })
}

fn gpt2() -> serde_json::Value {
    json!({
        "model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 24, "vocab_size": 16, "activation_function": "gelu_new",
        "attn_pdrop": 0.1, "bos_token_id": 1, "eos_token_id": 1,
    })
}

fn bert() -> serde_json::Value {
    json!({
        "model_type": "bert", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 16, "max_position_embeddings": 24, "type_vocab_size": 2, "pad_token_id": 0,
    })
}

fn deberta() -> serde_json::Value {
    json!({
        "model_type": "deberta-v2", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 16, "max_position_embeddings": 24, "max_relative_positions": -1, "norm_rel_ebd": "layer_norm",
        "pos_att_type": "p2c|c2p", "position_biased_input": false, "position_buckets": 8, "relative_attention": true,
        "share_att_key": true,
    })
}

fn modernbert() -> serde_json::Value {
    json!({
        "model_type": "modernbert", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 16, "max_position_embeddings": 24, "pad_token_id": 1, "layer_types": ["full_attention", "sliding_attention"],
        "rope_parameters": {"full_attention": {"rope_theta": 100.0, "rope_type": "default"}}, "local_attention": 4,
    })
}

#[test]
fn a_config_of_arbitrary_bytes_is_read_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    for (config, cases) in [
        (llama(), 3000),
        (gpt2(), 3000),
        (bert(), 3000),
        (deberta(), 1000),
        (modernbert(), 1000),
    ] {
        std::fs::write(&path, config.to_string()).unwrap();
        let is_encoder = !["llama", "gpt2"]
            .iter()
            .any(|name| config["model_type"] == *name);
        let right = attack(&path, cases, |files| match is_encoder {
            true => EncoderConfig::from_files(files).map(|config| assert!(config.parameters() > 0)),
            false => {
                DecoderConfig::from_files(files).map(|config| assert!(config.parameters() > 0))
            }
        });
        assert!(right > 0);
    }
}

#[test]
fn weights_and_their_index_of_arbitrary_bytes_are_read_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let read = |files: &ModelFiles| {
        let mut found = Checkpoint::open(files)?;
        let names: Vec<String> = found.names().map(str::to_owned).collect();
        names
            .iter()
            .try_for_each(|name| found.tensor(name).map(drop))
    };
    save_safetensors(
        &at("one.safetensors"),
        &[("a", &[2], &[1.0, 2.0])],
        SaveDtype::F32,
    )
    .unwrap();
    save_safetensors(
        &at("two.safetensors"),
        &[("b", &[1], &[3.0])],
        SaveDtype::F32,
    )
    .unwrap();
    let index = r#"{"metadata": {"total_size": 12}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#;
    std::fs::write(at("model.safetensors.index.json"), index).unwrap();
    attack(&at("model.safetensors.index.json"), 3000, read);
    attack(&at("two.safetensors"), 3000, read);
}

/// The header, the packed codes, their scales and the JSON beside them; read as a model, and written as floats.
#[test]
fn weights_in_4_bits_of_arbitrary_bytes_are_read_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [dense, packed, floats] = ["dense", "packed", "floats"].map(|name| dir.path().join(name));
    std::fs::create_dir(&dense).unwrap();
    std::fs::write(dense.join("config.json"), llama().to_string()).unwrap();
    let files = ModelFiles::open(&dense).unwrap();
    let config = DecoderConfig::from_files(&files).unwrap();
    let device = Default::default();
    let model = CausalLm::<Flex>::random(config, 3, &device).unwrap();
    let weights = dense.join("model.safetensors");
    save_tensors(&weights, &model.tensors(), SaveDtype::F32).unwrap();
    quantize(&files, &packed, true, &[]).unwrap();
    let weights = packed.join("model.safetensors");
    let right = attack(&weights, 1500, |files| {
        CausalLm::<Flex>::load(files, &device).map(drop)
    });
    assert!(right > 0);
    attack(&weights, 300, |files| {
        dequantize(files, &floats, None)?;
        std::fs::remove_dir_all(&floats).unwrap();
        Ok(())
    });
}

/// A field's type, and the JSON for it.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Count,
    Number,
    Flag,
    Id,
    Ids,
    Texts,
    Counts,
    Numbers,
    Object,
}

impl Kind {
    fn fits(self, value: &Value) -> bool {
        let all = |is: fn(&Value) -> bool| value.as_array().is_some_and(|v| v.iter().all(is));
        match self {
            Self::Text => value.is_string(),
            Self::Count => value.is_u64(),
            Self::Number => value.is_number(),
            Self::Flag => value.is_boolean(),
            Self::Id => value.is_i64(),
            Self::Ids => value.is_i64() || all(Value::is_i64),
            Self::Texts => all(Value::is_string),
            Self::Counts => all(Value::is_u64),
            Self::Numbers => all(Value::is_number),
            Self::Object => value.is_object(),
        }
    }
}

/// Every field that a reader of `config.json` looks at.
const FIELDS: &[(Kind, &[&str])] = &[
    (
        Kind::Text,
        &[
            "model_type",
            "hidden_act",
            "hidden_activation",
            "activation_function",
            "position_embedding_type",
        ],
    ),
    (
        Kind::Count,
        &[
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
            "original_max_position_embeddings",
            "type_vocab_size",
            "sliding_window",
            "max_window_layers",
            "sliding_window_pattern",
            "_sliding_window_pattern",
            "no_rope_layer_interval",
            "n_embd",
            "n_head",
            "n_layer",
            "n_inner",
            "n_positions",
        ],
    ),
    (
        Kind::Number,
        &[
            "rms_norm_eps",
            "layer_norm_eps",
            "layer_norm_epsilon",
            "initializer_range",
            "rope_theta",
            "rope_local_base_freq",
            "partial_rotary_factor",
            "attention_dropout",
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "classifier_dropout",
            "embd_pdrop",
            "resid_pdrop",
            "attn_pdrop",
            "embedding_multiplier",
            "residual_multiplier",
            "attention_multiplier",
            "logits_scaling",
            "query_pre_attn_scalar",
            "attn_logit_softcapping",
            "final_logit_softcapping",
        ],
    ),
    (
        Kind::Flag,
        &[
            "tie_word_embeddings",
            "attention_bias",
            "mlp_bias",
            "use_sliding_window",
            "is_decoder",
            "is_encoder_decoder",
            "add_cross_attention",
            "scale_attn_weights",
            "scale_attn_by_inverse_layer_idx",
            "use_bidirectional_attention",
        ],
    ),
    (Kind::Id, &["bos_token_id", "pad_token_id"]),
    (Kind::Ids, &["eos_token_id"]),
    (Kind::Texts, &["layer_types"]),
    (Kind::Counts, &["no_rope_layers"]),
    (
        Kind::Object,
        &["rope_scaling", "rope_parameters", "quantization_config"],
    ),
];

/// The fields of `rope_scaling`, and of `rope_parameters` or an object in it.
const ROPE_FIELDS: &[(Kind, &[&str])] = &[
    (Kind::Text, &["rope_type", "type"]),
    (
        Kind::Number,
        &[
            "rope_theta",
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
            "partial_rotary_factor",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
        ],
    ),
    (Kind::Flag, &["truncate"]),
    (Kind::Numbers, &["short_factor", "long_factor"]),
    (Kind::Object, &["full_attention", "sliding_attention"]),
];

/// One value of each type, and the edges of numbers.
fn values() -> Vec<Value> {
    vec![
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(7),
        json!(-1),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0.5),
        json!(-2.5),
        json!(4.0),
        json!(1e300),
        json!(""),
        json!("7"),
        json!("true"),
        json!([]),
        json!([7]),
        json!(["x"]),
        json!([null]),
        json!([[7]]),
        json!({}),
        json!({"a": 1}),
    ]
}

/// A small configuration of a family, without what can be left out.
fn least(model_type: &str) -> Value {
    let mut config = match model_type {
        "gpt2" => gpt2(),
        "bert" | "roberta" => bert(),
        _ => llama(),
    };
    config["model_type"] = json!(model_type);
    if model_type == "roberta" {
        config["pad_token_id"] = json!(1);
    }
    config
}

/// A configuration as read, as a text to compare.
fn read_config(config: &Value) -> Result<String, String> {
    let text = config.to_string();
    let is_encoder = matches!(config["model_type"].as_str(), Some("bert" | "roberta"));
    let found = match is_encoder {
        true => EncoderConfig::from_json(text.as_bytes(), "here/config.json").map(|config| {
            assert!(config.parameters() > 0);
            format!("{config:?}")
        }),
        false => DecoderConfig::from_json(text.as_bytes(), "here/config.json").map(|config| {
            assert!(config.parameters() > 0);
            format!("{config:?}")
        }),
    };
    found.map_err(|error| error.to_string())
}

/// Puts every value in the place of every field of an object in `config`. A value of another type than the field's is an error that names
/// the field, or changes nothing. Any other is read or refused.
fn try_types(config: &Value, object: &str, fields: &[(Kind, &'static [&'static str])]) -> usize {
    let mut refused = 0;
    let named = |(kind, names): &(Kind, &'static [&'static str])| {
        let kind = *kind;
        names.iter().map(move |name| (kind, *name))
    };
    for (kind, field) in fields.iter().flat_map(named) {
        let mut without = config.clone();
        let place = without.pointer_mut(object).unwrap();
        place.as_object_mut().unwrap().remove(field);
        let absent = read_config(&without);
        for value in values() {
            let mut changed = config.clone();
            changed.pointer_mut(object).unwrap()[field] = value.clone();
            let what = format!("{}: {object}/{field} = {value}", config["model_type"]);
            let found = read_config(&changed);
            if let Err(error) = &found {
                assert!(error.contains("here/config.json"), "{what}: {error}");
                refused += 1;
            }
            // With `null` a file says that there is no window or cap where the family has one by default.
            let may_be_none = field == "sliding_window" || field.ends_with("softcapping");
            if kind.fits(&value) || may_be_none && value.is_null() {
                continue;
            }
            match &found {
                Err(error) => assert!(error.contains(field), "{what}: {error}"),
                Ok(_) => assert_eq!(found, absent, "{what}"),
            }
        }
    }
    refused
}

#[test]
fn a_field_of_a_wrong_type_is_named_or_as_good_as_absent() {
    let decoders = DecoderFamily::ALL.map(DecoderFamily::name);
    for family in decoders.into_iter().chain(["bert", "roberta"]) {
        let config = least(family);
        read_config(&config).unwrap_or_else(|error| panic!("{family}: {error}"));
        let refused = try_types(&config, "", FIELDS);
        assert!(refused > 100, "{family}: {refused}");
        println!("{family}: {refused} refused");
    }
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
    });
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
    let pairs = least("phi3")["hidden_size"].as_u64().unwrap()
        / least("phi3")["num_attention_heads"].as_u64().unwrap()
        / 2;
    let divisors: Vec<u64> = (1..=pairs).collect();
    let long = json!({"type": "longrope", "short_factor": divisors, "long_factor": divisors});
    let kinds = json!({"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": {"rope_type": "default"}});
    for (family, field, inner, object) in [
        ("llama", "rope_scaling", llama3.clone(), "/rope_scaling"),
        ("llama", "rope_parameters", llama3, "/rope_parameters"),
        ("qwen2", "rope_scaling", yarn, "/rope_scaling"),
        ("phi3", "rope_scaling", long, "/rope_scaling"),
        (
            "gemma3_text",
            "rope_parameters",
            kinds.clone(),
            "/rope_parameters",
        ),
        (
            "gemma3_text",
            "rope_parameters",
            kinds.clone(),
            "/rope_parameters/full_attention",
        ),
        (
            "gemma3_text",
            "rope_parameters",
            kinds,
            "/rope_parameters/sliding_attention",
        ),
    ] {
        let mut config = least(family);
        config[field] = inner;
        read_config(&config).unwrap_or_else(|error| panic!("{family}: {error}"));
        assert!(try_types(&config, object, ROPE_FIELDS) > 20);
    }
}

/// Shapes of `config.json` are compared with those of the weights' headers before anything is allocated.
#[test]
fn a_config_that_claims_more_than_the_weights_hold_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    save_safetensors(
        &at("model.safetensors"),
        &[("x", &[1], &[1.0])],
        SaveDtype::F32,
    )
    .unwrap();
    let files = ModelFiles::open(dir.path()).unwrap();
    for (mut config, width, layers, inner) in [
        (
            llama(),
            "hidden_size",
            "num_hidden_layers",
            "intermediate_size",
        ),
        (gpt2(), "n_embd", "n_layer", "n_inner"),
        (
            bert(),
            "hidden_size",
            "num_hidden_layers",
            "intermediate_size",
        ),
    ] {
        config[width] = json!(32_768);
        config[layers] = json!(1024);
        config[inner] = json!(32_768);
        std::fs::write(at("config.json"), config.to_string()).unwrap();
        let start = Instant::now();
        let device = Default::default();
        let error = match config["model_type"].as_str() {
            Some("bert") => Encoder::<Flex>::load(&files, &device).map(drop),
            // GPT-2's map for query, key and value as it is, and cut in three.
            Some("gpt2") => {
                let config = DecoderConfig {
                    split_qkv: true,
                    ..DecoderConfig::from_files(&files).unwrap()
                };
                CausalLm::<Flex>::load(&files, &device).unwrap_err();
                CausalLm::<Flex>::load_with(config, &files, &device).map(drop)
            }
            _ => CausalLm::<Flex>::load(&files, &device).map(drop),
        };
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("does not fit the model") && error.contains("missing ("),
            "{error:.300}"
        );
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}

#[test]
fn a_tokenizer_of_arbitrary_bytes_is_read_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let words: serde_json::Map<_, _> = ["a", "b", "<unk>", "</s>"]
        .into_iter()
        .zip(0..)
        .map(|(word, id)| (word.to_owned(), json!(id)))
        .collect();
    std::fs::write(dir.path().join("config.json"), llama().to_string()).unwrap();
    let use_it = |files: &ModelFiles| {
        // Files that were read can be used.
        let tokenizer = TextTokenizer::from_files(files)?;
        let _ = tokenizer.encode_batch(&[("a b c", None), ("abab", Some("a"))], 8);
        let _ = tokenizer.decode(&[0, 1, 2, 3, u32::MAX]);
        Ok(())
    };
    for model in [
        json!({"type": "WordLevel", "vocab": words, "unk_token": "<unk>"}),
        json!({"type": "WordPiece", "vocab": words, "unk_token": "<unk>", "continuing_subword_prefix": "", "max_input_chars_per_word": 100}),
    ] {
        let tokenizer = json!({
            "pre_tokenizer": {"type": "Whitespace"},
            "added_tokens": [{"id": 3, "content": "</s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}],
            "model": model,
        });
        std::fs::write(&path, tokenizer.to_string()).unwrap();
        attack(&path, 3000, use_it);
    }
    std::fs::remove_file(&path).unwrap();
    let words = dir.path().join("vocab.txt");
    std::fs::write(&words, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n").unwrap();
    std::fs::write(dir.path().join("config.json"), bert().to_string()).unwrap();
    attack(&words, 1000, use_it);
}

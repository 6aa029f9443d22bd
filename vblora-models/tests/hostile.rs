//! A model's files made to do harm: whatever their bytes say, reading ends in a model's description or in an error that names the file.
#![allow(missing_docs, clippy::print_stdout)]

#[path = "../../vblora/tests/support/corrupt.rs"]
#[allow(dead_code, unreachable_pub)]
mod corrupt;

use std::{path::Path, time::Instant};

use burn::backend::Flex;
use corrupt::corrupt;
use serde_json::json;
use vblora_models::{
    Checkpoint, DecoderConfig, EncoderConfig, ModelFiles, Roberta, SaveDtype, TextTokenizer,
    decoder::CausalLm, save_safetensors,
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

#[test]
fn a_config_of_arbitrary_bytes_is_read_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    for config in [llama(), gpt2(), bert()] {
        std::fs::write(&path, config.to_string()).unwrap();
        let is_encoder = config["model_type"] == "bert";
        let right = attack(&path, 3000, |files| match is_encoder {
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

/// What `config.json` asks for is compared with what the weights' headers say before anything is allocated for it.
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
            Some("bert") => Roberta::<Flex>::load(&files, &device).map(drop),
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
    let tokenizer = json!({
        "pre_tokenizer": {"type": "Whitespace"},
        "added_tokens": [{"id": 3, "content": "</s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}],
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    });
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    std::fs::write(dir.path().join("config.json"), llama().to_string()).unwrap();
    attack(&path, 3000, |files| {
        // What was read can be used.
        let tokenizer = TextTokenizer::from_files(files)?;
        let _ = tokenizer.encode_batch(&[("a b c", None)], 8);
        Ok(())
    });
}

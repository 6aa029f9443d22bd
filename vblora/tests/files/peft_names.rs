//! Names of tensors and files, as PEFT and its users write them.

use serde_json::json;

use crate::peft_fields::{Named, directory, factors, lora_config, read, tensor_file};

const MODULE: &str = "model.layers.0.q_proj";

fn renamed(tensors: &[Named], rename: impl Fn(&str) -> String) -> Vec<Named> {
    let tensors = tensors.iter();
    tensors
        .map(|(name, shape, values)| (rename(name), shape.clone(), values.clone()))
        .collect()
}

#[test]
fn names_that_pefts_loader_takes_are_read_and_others_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let (config, plain) = (lora_config("q_proj"), factors(MODULE, 2));
    directory(dir.path(), &config, &plain);
    let expected = read(dir.path()).unwrap();
    let named = |name: &str| name.replace(".weight", ".default.weight");
    directory(dir.path(), &config, &renamed(&plain, named));
    assert_eq!(read(dir.path()).unwrap(), expected);
    let both = [plain.to_vec(), renamed(&plain, named)].concat();
    directory(dir.path(), &config, &both);
    let error = read(dir.path()).unwrap_err();
    assert!(
        error.contains("lora_A.default.weight") && error.contains("twice"),
        "{error}"
    );
    type Rename = fn(&str) -> String;
    let others: [(Rename, &str); 6] = [
        (|name| format!("_orig_mod.{name}"), "compiled model"),
        (
            |name| name.replace("model.layers", "_orig_mod.model.layers"),
            "compiled model",
        ),
        (
            |name| name["base_model.model.".len()..].to_owned(),
            "base_model.model.",
        ),
        (|name| format!("module.{name}"), "base_model.model."),
        (
            |name| name.replace(".weight", ".other.weight"),
            "\"default\"",
        ),
        (
            |name| name.replace("lora_A.weight", "lora_embedding_A"),
            "embedding",
        ),
    ];
    for (rename, reason) in others {
        directory(dir.path(), &config, &renamed(&plain, rename));
        let error = read(dir.path()).unwrap_err();
        assert!(error.contains(reason), "{reason:?} in {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn shards_are_read_by_their_index_and_a_pickle_says_how_to_convert_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (config, plain) = (lora_config("q_proj"), factors(MODULE, 2));
    directory(dir.path(), &config, &plain);
    let expected = read(dir.path()).unwrap();
    std::fs::remove_file(at("adapter_model.safetensors")).unwrap();
    let error = read(dir.path()).unwrap_err();
    assert!(error.contains("adapter_model.safetensors"), "{error}");
    std::fs::write(at("adapter_model.bin"), "pickle").unwrap();
    let error = read(dir.path()).unwrap_err();
    assert!(
        error.contains("adapter_model.bin") && error.contains("save_file"),
        "{error}"
    );

    let shards = [
        "adapter_model-00001-of-00002.safetensors",
        "adapter_model-00002-of-00002.safetensors",
    ];
    let index = |first: &str, second: &str| {
        let map = json!({"weight_map": {&plain[0].0: first, &plain[1].0: second}});
        std::fs::write(at("adapter_model.safetensors.index.json"), map.to_string()).unwrap();
    };
    tensor_file(&at(shards[0]), &plain[..1]);
    tensor_file(&at(shards[1]), &plain[1..]);
    index(shards[0], shards[1]);
    assert_eq!(read(dir.path()).unwrap(), expected);
    index(shards[1], shards[0]);
    let error = read(dir.path()).unwrap_err();
    assert!(
        error.contains("index.json") && error.contains("no tensor"),
        "{error}"
    );
    index(shards[0], "../elsewhere.safetensors");
    let error = read(dir.path()).unwrap_err();
    assert!(error.contains("plain file name"), "{error}");
    index(shards[0], shards[1]);
    tensor_file(&at(shards[1]), &plain);
    let error = read(dir.path()).unwrap_err();
    assert!(error.contains("twice"), "{error}");
}

fn weight(name: &str) -> Named {
    (
        format!("base_model.model.{name}"),
        vec![2, 3],
        vec![0.25; 6],
    )
}

#[test]
fn embeddings_that_peft_saves_unasked_are_read_and_written() {
    let dir = tempfile::tempdir().unwrap();
    for names in [
        &["model.embed_tokens.weight", "lm_head.weight"][..],
        &["transformer.wte.weight"],
        &["roberta.embeddings.word_embeddings.weight"],
    ] {
        let tensors: Vec<_> = factors(MODULE, 2)
            .into_iter()
            .chain(names.iter().map(|name| weight(name)))
            .collect();
        directory(dir.path(), &lora_config("q_proj"), &tensors);
        let adapter = read(dir.path()).unwrap();
        let mut saved: Vec<_> = adapter
            .saved
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        saved.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(saved, names);
        let again = tempfile::tempdir().unwrap();
        adapter.write(again.path()).unwrap();
        assert_eq!(read(again.path()).unwrap(), adapter);
    }
    let strays = [
        "model.norm.weight",
        "model.layers.1.q_proj.weight",
        "embed_tokens_extra.weight",
    ];
    for stray in strays {
        let tensors = [factors(MODULE, 2).to_vec(), vec![weight(stray)]].concat();
        directory(dir.path(), &lora_config("q_proj"), &tensors);
        let error = read(dir.path()).unwrap_err();
        assert!(error.contains(stray), "{error}");
    }
}

/// PEFT saves the output layer's own weight with the adapter on it, below `base_layer`, and finds it nowhere else.
#[test]
fn the_weight_below_an_adapted_output_layer_is_read_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [
        factors("lm_head", 2).to_vec(),
        vec![weight("lm_head.base_layer.weight")],
    ]
    .concat();
    directory(dir.path(), &lora_config("lm_head"), &tensors);
    let adapter = read(dir.path()).unwrap();
    assert_eq!(adapter.saved[0].0, "lm_head.weight");
    let again = tempfile::tempdir().unwrap();
    adapter.write(again.path()).unwrap();
    let text = std::fs::read(again.path().join("adapter_model.safetensors")).unwrap();
    assert!(String::from_utf8_lossy(&text).contains("base_model.model.lm_head.base_layer.weight"));
    assert_eq!(read(again.path()).unwrap(), adapter);
    let tensors = [
        factors("lm_head", 2).to_vec(),
        vec![weight("lm_head.weight")],
    ]
    .concat();
    directory(dir.path(), &lora_config("lm_head"), &tensors);
    assert!(read(dir.path()).unwrap_err().contains("lm_head.weight"));
}

/// What PEFT 0.21.2 writes of `modules_to_save` where it saves embeddings too (a resized vocabulary): three tensors, of which it reads one.
#[test]
fn pefts_wrapper_around_a_saved_module_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let open = |names: &[&str]| {
        let saved = names.iter().map(|name| weight(name));
        let tensors: Vec<_> = factors(MODULE, 2).into_iter().chain(saved).collect();
        let mut config = lora_config("q_proj");
        config["modules_to_save"] = json!(["lm_head"]);
        directory(dir.path(), &config, &tensors);
        read(dir.path())
    };
    let plain = open(&["lm_head.weight"]).unwrap();
    let copies = [
        "lm_head.weight",
        "lm_head.modules_to_save.weight",
        "lm_head.original_module.weight",
    ];
    assert_eq!(open(&copies).unwrap(), plain);
    let named = ["lm_head.weight", "lm_head.modules_to_save.default.weight"];
    assert_eq!(open(&named).unwrap(), plain);
    for alone in [
        "lm_head.modules_to_save.weight",
        "lm_head.modules_to_save.default.weight",
        "lm_head.original_module.weight",
    ] {
        let error = open(&[alone]).unwrap_err();
        assert!(
            error.contains(alone) && error.contains("PEFT reads"),
            "{error}"
        );
    }
    // Of a module that is not saved it belongs nowhere.
    let error = open(&["lm_head.weight", "norm.original_module.weight"]).unwrap_err();
    assert!(error.contains("belongs neither"), "{error}");
}

#[test]
fn lora_on_an_embedding_is_named_whatever_lies_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["embed_tokens.lora_embedding_A", "wte.lora_embedding_B"] {
        let tensors = [factors(MODULE, 2).to_vec(), vec![weight(name)]].concat();
        directory(dir.path(), &lora_config("q_proj"), &tensors);
        let error = read(dir.path()).unwrap_err();
        assert!(error.contains("LoRA on an embedding"), "{error}");
    }
}

#[test]
fn modules_to_save_need_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let open = |listed: &[&str], saved: &[&str]| {
        let saved = saved.iter().map(|name| weight(name));
        let tensors: Vec<_> = factors(MODULE, 2).into_iter().chain(saved).collect();
        let mut config = lora_config("q_proj");
        config["modules_to_save"] = json!(listed);
        directory(dir.path(), &config, &tensors);
        read(dir.path()).map(|adapter| adapter.saved.len())
    };
    assert_eq!(open(&["head"], &["lm_head.weight"]), Ok(1));
    assert_eq!(open(&["ssifier"], &["x.classifier.dense.weight"]), Ok(1));
    // PEFT lists both for every classification model.
    assert_eq!(open(&["classifier", "score"], &["score.weight"]), Ok(1));
    for (listed, saved, missing) in [
        (&["classifier", "score"][..], &[][..], "classifier"),
        (&["score", "norm"], &["score.weight"], "norm"),
        (&["score"], &["norm.weight"], "norm.weight"),
    ] {
        let error = open(listed, saved).unwrap_err();
        assert!(
            error.contains(missing) && error.contains("modules_to_save"),
            "{error}"
        );
    }
}

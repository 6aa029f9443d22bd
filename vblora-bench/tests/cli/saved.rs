//! Saved tensors and ranks by pattern, as `inspect`, `diff` and `convert` show them.

use std::path::Path;

use serde_json::{Value, json};
use vblora::{
    LoraConfig, Targets,
    storage::{
        HostAdapter, HostLora, HostTensor,
        peft::{PeftAdapter, PeftDirectory},
    },
};

use crate::{sites, vblora};

/// LoRA of rank 2 with tensors that replace those of the base.
fn write(dir: &Path, saved: &[(&str, &[f32])]) {
    let plan = Targets::all_linear().select(&sites()).unwrap();
    let config = LoraConfig {
        rank: 2,
        ..LoraConfig::default()
    };
    let factors = |dims: [usize; 2]| dims.map(|dim| vec![0.5; 2 * dim]).to_vec();
    let lora = HostLora::new(
        config.check(&plan).unwrap(),
        factors([8, 12]),
        factors([12, 4]),
    );
    let saved = saved.iter().map(|(name, values)| {
        let tensor = HostTensor {
            shape: vec![values.len()],
            values: values.to_vec(),
        };
        ((*name).to_owned(), tensor)
    });
    let adapter = PeftAdapter {
        saved: saved.collect(),
        ..PeftAdapter::new(HostAdapter::Lora(lora.unwrap()))
    };
    adapter.write(dir).unwrap();
}

#[test]
fn diff_compares_saved_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write(
        &at("one"),
        &[
            ("lm_head.weight", &[3.0, 4.0]),
            ("m.wte.weight", &[1.0]),
            ("m.embed_tokens.weight", &[1.0]),
        ],
    );
    write(
        &at("two"),
        &[
            ("lm_head.weight", &[0.0, 0.0]),
            ("m.wte.weight", &[1.0, 2.0]),
            ("m.word_embeddings.weight", &[1.0]),
        ],
    );
    let (status, out, error) = vblora(dir.path(), "diff one two --json");
    assert_eq!(status, 0, "{error}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let expected = json!([{"tensor": "lm_head.weight", "one": 5.0, "other": 0.0, "distance": 1.0}]);
    assert_eq!(report["saved"], expected);
    assert_eq!(report["only_in_one"], json!(["m.embed_tokens.weight"]));
    assert_eq!(report["only_in_other"], json!(["m.word_embeddings.weight"]));
    assert_eq!(report["other_dimensions"], json!(["m.wte.weight"]));
    let (_, out, _) = vblora(dir.path(), "diff one two");
    for part in [
        "lm_head.weight  5.000e0",
        "only in the first: m.embed_tokens.weight",
        "different dimensions in the second: m.wte.weight",
    ] {
        assert!(out.contains(part), "{part:?} in {out}");
    }
    let (_, out, _) = vblora(dir.path(), "inspect one");
    assert!(out.contains("beside it: lm_head.weight [2]"), "{out}");
}

#[test]
fn ranks_by_pattern_are_shown_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("net"), &[]);
    let path = dir.path().join("net/adapter_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["r"] = 7.into();
    config["rank_pattern"] = json!({"one": 2, "two": 2});
    config["alpha_pattern"] = json!({"two": 3});
    std::fs::write(&path, config.to_string()).unwrap();
    let (status, out, error) = vblora(dir.path(), "inspect net");
    assert_eq!(status, 0, "{error}");
    for part in ["rank 2, scale 1.5 x 1; rank 2, scale 8 x 1", "72 trained"] {
        assert!(out.contains(part), "{part:?} in {out}");
    }
    let (_, out, _) = vblora(dir.path(), "inspect net --json");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["patterned"], json!([[2, 8.0], [2, 1.5]]));
    // Written again, it needs no patterns.
    let (status, _, error) = vblora(dir.path(), "convert net plain --form peft-lora");
    assert_eq!(status, 0, "{error}");
    let [one, other] = ["net", "plain"].map(|name| {
        let found = PeftDirectory::open(&dir.path().join(name)).unwrap();
        found.bind(&sites()).unwrap().adapter
    });
    assert_eq!(one, other);
}

#[test]
fn an_adapter_is_not_converted_onto_itself() {
    let dir = tempfile::tempdir().unwrap();
    let one = dir.path().join("one");
    write(&one, &[]);
    let before = std::fs::read(one.join("adapter_config.json")).unwrap();
    for to in ["one", "one/.", "one/adapter_config.json"] {
        let command = format!("convert one {to} --form peft-lora --overwrite");
        let (status, _, error) = vblora(dir.path(), &command);
        assert_eq!(status, 1, "{error}");
        assert!(error.contains("the adapter itself"), "{error}");
    }
    assert_eq!(
        std::fs::read(one.join("adapter_config.json")).unwrap(),
        before
    );
}

#[test]
fn labels_come_along_and_files_of_another_adapter_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write(&at("one"), &[]);
    write(&at("other"), &[]);
    std::fs::write(at("one/classifier.json"), "labels").unwrap();
    std::fs::write(at("one/config.json"), "model").unwrap();
    let convert = |from: &str, to: &str| {
        let command = format!("convert {from} {to} --form peft-lora --overwrite");
        let (status, _, error) = vblora(dir.path(), &command);
        (status, error)
    };
    let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
    for labels in ["labels", "other labels"] {
        std::fs::write(at("one/classifier.json"), labels).unwrap();
        let (status, error) = convert("one", "new");
        assert_eq!(status, 0, "{error}");
        assert_eq!(read("new/classifier.json"), labels);
        assert_eq!(read("new/config.json"), "model");
    }
    let refused = |from: &str, name: &str| {
        let (status, error) = convert(from, "new");
        assert_eq!(status, 1, "{error}");
        for part in ["new: expected", &format!("found {name};")] {
            assert!(error.contains(part), "{part:?} in {error}");
        }
    };
    let before = std::fs::read(at("new/adapter_model.safetensors")).unwrap();
    refused("other", "classifier.json");
    for name in ["README.md", "head.safetensors", "compact.safetensors"] {
        std::fs::write(at("new").join(name), "x").unwrap();
        refused("one", name);
        std::fs::remove_file(at("new").join(name)).unwrap();
    }
    std::fs::write(at("new/notes.txt"), "mine").unwrap();
    assert_eq!(convert("one", "new").0, 0);
    assert_eq!(read("new/notes.txt"), "mine");
    let after = std::fs::read(at("new/adapter_model.safetensors")).unwrap();
    assert_eq!(before, after);
    // Without a target nothing is beside it, and nothing comes.
    assert_eq!(convert("other", "bare").0, 0);
    assert!(!at("bare/classifier.json").exists());
}

//! `vblora merge`. The library's tests check the computed values.

use std::{path::Path, process::Command};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use vblora::{
    LoraConfig, Site, Targets,
    storage::{HostAdapter, HostLora, peft::PeftAdapter},
};

use super::{adapter, directory, shell, vblora};

/// A base of zeros, so that the merged weights are the update.
fn base(dir: &Path, prefix: &str, head: bool) {
    std::fs::create_dir(dir.join("base")).unwrap();
    let zeros = [0; 4 * 96];
    let name = |site: &str| format!("{prefix}{site}.weight");
    let mut tensors = vec![
        (name("a.one"), vec![12, 8], 96),
        (name("a.two"), vec![4, 12], 48),
    ];
    tensors.extend(head.then(|| ("classifier.weight".to_owned(), vec![1, 2], 2)));
    let views = tensors.iter().map(|(name, shape, n)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), &zeros[..4 * n]);
        (name, view.unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(dir.join("base/model.safetensors"), bytes).unwrap();
    std::fs::write(dir.join("base/pytorch_model.bin"), "old").unwrap();
}

fn first_value(path: &Path, tensor: &str) -> f32 {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let bytes = file.tensor(tensor).unwrap().data()[..4].try_into();
    f32::from_le_bytes(bytes.unwrap())
}

#[test]
fn directories_and_compact_files_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    directory(dir.path());
    base(dir.path(), "net.", true);
    let (status, out, error) = vblora(dir.path(), "merge base net merged");
    assert_eq!(status, 0, "{error}");
    for part in [
        "2 weights updated, 1 tensors replaced in model.safetensors",
        "left out: pytorch_model.bin",
        "base + net -> merged",
    ] {
        assert!(out.contains(part), "{part:?} in {out}");
    }
    let merged = dir.path().join("merged/model.safetensors");
    assert_eq!(first_value(&merged, "classifier.weight"), 0.5);
    let update = first_value(&merged, "net.a.one.weight");
    let lora = HostAdapter::VbLora(adapter()).to_lora();
    let (a, b) = (&lora.a()[0], &lora.b()[0]);
    let expected: f32 = (0..3).map(|r| a[r * 8] * b[r * 12]).sum();
    assert!(update != 0.0 && (update - expected).abs() < 1e-6);
    // A compact file knows neither prefix nor head.
    let convert = "convert net small --form compact --prefix net. --without-modules";
    assert_eq!(vblora(dir.path(), convert).0, 0);
    let (status, out, error) = vblora(dir.path(), "merge base small merged --overwrite --json");
    assert_eq!(status, 0, "{error}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&report["updated"], &report["replaced"]),
        (&2.into(), &0.into())
    );
    assert_eq!(first_value(&merged, "net.a.one.weight"), update);
    assert_eq!(first_value(&merged, "classifier.weight"), 0.0);
}

/// The cache is that of huggingface_hub, and offline nothing but the cache is looked at.
#[test]
fn the_base_may_be_a_hub_id_at_a_revision() {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    let dir = tempfile::tempdir().unwrap();
    directory(dir.path());
    base(dir.path(), "net.", true);
    let repository = dir.path().join("cache/models--me--base");
    for folder in ["refs", "snapshots"] {
        std::fs::create_dir_all(repository.join(folder)).unwrap();
    }
    std::fs::write(repository.join("refs/v1"), COMMIT).unwrap();
    let snapshot = repository.join("snapshots").join(COMMIT);
    std::fs::rename(dir.path().join("base"), &snapshot).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::write(snapshot.join(file), "{}").unwrap();
    }
    let merge = |arguments: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vblora"));
        command.env("HF_HUB_OFFLINE", "1");
        command.env("HF_HUB_CACHE", dir.path().join("cache"));
        let arguments = arguments.split_whitespace();
        shell::seen(
            command
                .current_dir(dir.path())
                .args(arguments)
                .output()
                .unwrap(),
        )
    };
    let (status, out, error) = merge("merge me/base net merged --revision v1");
    assert_eq!(status, 0, "{error}");
    assert!(out.contains("me/base + net -> merged"), "{out}");
    let merged = dir.path().join("merged/model.safetensors");
    assert_eq!(first_value(&merged, "classifier.weight"), 0.5);
    let (status, _, error) = merge("merge me/base net other");
    assert_eq!(status, 1);
    assert!(
        error.contains("me/base") && error.contains("HF_HUB_OFFLINE"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_merged_is_one_line_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    directory(dir.path());
    base(dir.path(), "other.", false);
    for (arguments, status, reason) in [
        ("merge ./absent net merged", 1, "absent"),
        ("merge base absent merged", 1, "absent"),
        ("merge base net base", 1, "--overwrite"),
        ("merge base net base --overwrite", 1, "the base itself"),
        ("merge base net net --overwrite", 1, "the adapter itself"),
        ("merge base net merged", 1, "no tensor \"net.a.one.weight\""),
        (
            "merge base net merged --prefix net. --fan-in-fan-out",
            1,
            "net.a.one",
        ),
        ("merge base net", 2, "TO"),
    ] {
        let (found, _, error) = vblora(dir.path(), arguments);
        assert_eq!(found, status, "{arguments}: {error}");
        assert!(error.contains(reason), "{arguments}: {error}");
        assert!(
            status == 2 || error.trim_end().lines().count() == 1,
            "{error}"
        );
    }
    assert!(!dir.path().join("merged").exists());
    // Another prefix belongs to another model. Without the head and its prefix it fits.
    let convert = "convert net small --form compact --prefix net. --without-modules";
    assert_eq!(vblora(dir.path(), convert).0, 0);
    let merge = "merge base small merged --fan-in-fan-out";
    let (status, _, error) = vblora(dir.path(), merge);
    assert_eq!(status, 1);
    assert!(error.contains("shape [8, 12], found [12, 8]"), "{error}");
    let merge = "merge base small merged --prefix other.";
    assert_eq!(vblora(dir.path(), merge).0, 0);
    assert!(dir.path().join("merged").exists());
}

/// The files of a bundled model lie in a temporary directory while it is merged into.
#[test]
fn a_bundled_base_has_its_name_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    directory(dir.path());
    for base in ["bundled:roberta", "bundled:llama"] {
        let (status, _, error) = vblora(dir.path(), &format!("merge {base} net merged"));
        assert_eq!(status, 1, "{error}");
        let expected = format!("error: {base}: no tensor \"net.a.one.weight\"");
        assert!(error.starts_with(&expected), "{error}");
    }
    // A tensor of the base that is in a file.
    let site = Site::new("encoder.layer.0.attention.self.query", 256, 256);
    let plan = Targets::all_linear().select(&[site]).unwrap();
    let config = LoraConfig {
        rank: 1,
        alpha: 1e30,
        ..Default::default()
    };
    let ones = || vec![vec![1.0; 256]];
    let lora = HostLora::new(config.check(&plan).unwrap(), ones(), ones()).unwrap();
    let lora = PeftAdapter::new(HostAdapter::Lora(lora));
    lora.write(&dir.path().join("large")).unwrap();
    let (status, _, error) = vblora(dir.path(), "merge bundled:roberta large merged");
    assert_eq!(status, 1, "{error}");
    let expected = "error: bundled:roberta/model.safetensors: tensor";
    assert!(
        error.starts_with(expected) && error.contains("not finite"),
        "{error}"
    );
}

//! The command-line tool as a shell user sees it.
#![allow(missing_docs)]

#[macro_use]
#[path = "../../../vblora/tests/support/mod.rs"]
mod support;

#[path = "../shell/mod.rs"]
mod shell;

mod e2e;
mod merge;
mod plan;
mod quantised;
mod saved;
mod sweep;
mod usage;
mod vera;
mod verify;

use std::{path::Path, process::Command};

use vblora::{
    Site, StoredVbLora,
    count::thousands,
    storage::{
        Bank, HostAdapter, HostLora, HostTensor, HostVbLora, Precision,
        peft::{PeftAdapter, PeftDirectory},
        sites_sha256,
    },
};

use support::random_vblora;

fn sites() -> Vec<Site> {
    vec![Site::new("a.one", 8, 12), Site::new("a.two", 12, 4)]
}

fn adapter() -> HostVbLora {
    random_vblora(&sites(), 10, 2)
}

/// A PEFT directory `net` with a head.
fn directory(dir: &Path) {
    let adapter = PeftAdapter {
        prefix: "net.".into(),
        modules_to_save: vec!["classifier".into()],
        saved: vec![(
            "classifier.weight".into(),
            HostTensor {
                shape: vec![1, 2],
                values: vec![0.5, 1.0],
            },
        )],
        ..PeftAdapter::new(HostAdapter::VbLora(adapter()))
    };
    adapter.write(&dir.join("net")).unwrap();
}

/// Exit status, standard output, standard error.
fn vblora(dir: &Path, arguments: &str) -> (i32, String, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_vblora"))
        .current_dir(dir)
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    shell::seen(done)
}

#[test]
fn inspect_says_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    directory(dir.path());
    let (status, out, _) = vblora(dir.path(), "inspect net");
    assert_eq!(status, 0);
    for part in [
        "PEFT directory, all logits",
        "h = 10, b = 4, r = 3, k = 2 on 2 sites",
        "of 10 vectors used",
        "classifier.weight [1, 2]",
        "names and shapes: SHA-256 ",
    ] {
        assert!(out.contains(part), "{part:?} in {out}");
    }
    let (status, out, _) = vblora(dir.path(), "inspect net --prefix net. --json");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status, 0);
    assert_eq!(report["sites"][0]["name"], "a.one");
    assert_eq!(report["method"]["vblora"]["topk"], 2);
    assert_eq!(report["bank"]["sub_vectors"], 27);
}

#[test]
fn every_form_turns_into_the_others() {
    let dir = tempfile::tempdir().unwrap();
    directory(dir.path());
    let run = |arguments: &str| {
        let (status, out, error) = vblora(dir.path(), arguments);
        assert_eq!(status, 0, "{arguments}: {error}");
        out
    };
    let read = |name: &str| {
        let found = PeftDirectory::open(&dir.path().join(name)).unwrap();
        found.bind(&sites()).unwrap()
    };
    run("convert net topk --form peft-topk");
    assert_eq!(read("topk").adapter, HostAdapter::TopK(adapter().store()));
    assert_eq!(read("topk").saved, read("net").saved);
    let out = run(
        "convert topk small --form compact --prefix net. --without-modules --weight-precision 8bits",
    );
    assert!(out.contains("largest change"), "{out}");
    let small = StoredVbLora::load(&dir.path().join("small")).unwrap();
    assert_eq!(small.bank(), adapter().bank());
    assert_eq!(small.settings().plan().sites(), sites());
    std::fs::write(dir.path().join("recipe"), "epochs = 3\nlr = 0.01\n").unwrap();
    run("convert topk told --form compact --prefix net. --without-modules --recipe recipe");
    run("convert told again --form compact --weight-precision 8bits");
    let out = run("inspect again");
    let size = std::fs::metadata(dir.path().join("again")).unwrap().len();
    let stored = format!(
        "stored: bank in 32 bits, weights in 8 bits; {} bytes",
        thousands(size as usize)
    );
    assert!(out.contains(&stored), "{stored:?} in {out}");
    assert!(
        out.contains("recipe: epochs = 3\n  recipe: lr = 0.01\n"),
        "{out}"
    );
    let hash = sites_sha256(&sites());
    assert!(
        out.contains(&format!("names and shapes: SHA-256 {hash}")),
        "{out}"
    );
    std::fs::remove_file(dir.path().join("again")).unwrap();
    run("convert small lora --form peft-lora --prefix net.");
    let lora = HostAdapter::TopK(small.clone()).to_lora();
    assert_eq!(read("lora").adapter, HostAdapter::Lora(lora));
    // Codes alone, with their bank in another file.
    let bank = small.own_bank();
    bank.save(&dir.path().join("bank"), Precision::F32).unwrap();
    small
        .save_codes(&dir.path().join("codes"), &bank, Precision::F32)
        .unwrap();
    run("convert codes again --bank bank --form peft-topk");
    assert_eq!(read("again").adapter, HostAdapter::TopK(small));
    assert!(Bank::load(&dir.path().join("bank")).is_ok());
}

#[test]
fn diff_measures_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    directory(dir.path());
    let diff = |arguments: &str| {
        let (status, out, error) = vblora(dir.path(), &format!("diff {arguments} --json"));
        assert_eq!(status, 0, "{error}");
        serde_json::from_str::<serde_json::Value>(&out).unwrap()
    };
    let same = diff("net net");
    assert_eq!(same["codes"]["changed"], 0);
    assert_eq!(same["bank"]["same_nearest"], 10);
    assert!(same["sites"][0]["distance"].as_f64().unwrap() < 1e-6);
    // Doubling LoRA's A doubles the update of a site. Its norm is twice as large and the distance is half of it.
    let adapter = HostAdapter::VbLora(adapter());
    let lora = adapter.to_lora();
    let doubled: Vec<_> = lora.a()[..1]
        .iter()
        .map(|a| a.iter().map(|v| 2.0 * v).collect())
        .chain(lora.a()[1..].to_vec())
        .collect();
    let doubled = HostLora::new(lora.settings().clone(), doubled, lora.b().to_vec()).unwrap();
    let doubled = PeftAdapter {
        prefix: "net.".into(),
        ..PeftAdapter::new(HostAdapter::Lora(doubled))
    };
    doubled.write(&dir.path().join("doubled")).unwrap();
    let found = diff("net doubled");
    let number = |site: usize, key: &str| found["sites"][site][key].as_f64().unwrap();
    assert!((number(0, "other") / number(0, "one") - 2.0).abs() < 1e-6);
    assert!((number(0, "distance") - 0.5).abs() < 1e-6);
    assert!(number(1, "distance") < 1e-6);
    // The first site's update as a matrix, computed by hand.
    let (a, b) = (&lora.a()[0], &lora.b()[0]);
    let entry = |i: usize, o: usize| {
        (0..3)
            .map(|r| f64::from(a[r * 8 + i] * b[r * 12 + o]))
            .sum::<f64>()
    };
    let squares: f64 = (0..8)
        .flat_map(|i| (0..12).map(move |o| (i, o)))
        .map(|(i, o)| entry(i, o).powi(2))
        .sum();
    assert!((number(0, "one") - squares.sqrt()).abs() < 1e-5 * squares.sqrt());
    assert!(found["codes"].is_null());
    // One code changed.
    let HostAdapter::VbLora(full) = adapter else {
        panic!("VB-LoRA")
    };
    let mut codes = full.store().codes().clone();
    codes.indices[0] = (0..10).find(|i| !codes.indices[..2].contains(i)).unwrap();
    let other = StoredVbLora::new(full.settings().clone(), full.bank().to_vec(), codes).unwrap();
    other.save(&dir.path().join("other")).unwrap();
    full.store().save(&dir.path().join("this")).unwrap();
    let found = diff("this other");
    assert_eq!(found["codes"]["changed"], 1);
    let (_, out, _) = vblora(dir.path(), "diff this other");
    assert!(
        out.contains("1 of 27 sub-vectors") && out.contains("a.one"),
        "{out}"
    );
}

#[test]
fn what_cannot_be_done_is_one_line_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    directory(dir.path());
    assert_eq!(vblora(dir.path(), "convert net topk --form peft-topk").0, 0);
    let whole = "convert net whole --form compact --without-modules";
    assert_eq!(vblora(dir.path(), whole).0, 0);
    let before = std::fs::read(dir.path().join("topk/adapter_model.safetensors")).unwrap();
    for (arguments, status, reason) in [
        ("inspect absent", 1, "absent"),
        ("inspect net/adapter_config.json", 1, "adapter_config.json"),
        ("inspect net --prefix other.", 1, "--prefix"),
        ("convert net topk --form peft-lora", 1, "--overwrite"),
        ("convert topk full --form peft-full", 1, "no logits"),
        ("convert net small --form compact", 1, "--without-modules"),
        ("convert net small --form nonsense", 2, "peft-topk"),
        (
            "convert whole lora --form peft-lora --prefix net.",
            1,
            "found \"net.\", with which all",
        ),
        ("inspect", 2, "PATH"),
    ] {
        let (found, _, error) = vblora(dir.path(), arguments);
        assert_eq!(found, status, "{arguments}: {error}");
        assert!(error.contains(reason), "{arguments}: {error}");
        assert!(
            status == 2 || error.trim_end().lines().count() == 1,
            "{error}"
        );
    }
    for absent in ["small", "full", "lora"] {
        assert!(!dir.path().join(absent).exists(), "{absent}");
    }
    let after = std::fs::read(dir.path().join("topk/adapter_model.safetensors")).unwrap();
    assert_eq!(before, after);
}

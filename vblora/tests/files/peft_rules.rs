//! PEFT's rules of which modules an adapter is on, held to what PEFT's own functions said (`tests/fixtures/peft_rules.py`).

use serde::Deserialize;
use serde_json::{Map, Value, json};
use vblora::storage::peft::PeftDirectory;

use crate::peft_fields::{Named, directory, factors, lora_config, read};

/// Patterns and ranks, in order.
type Table = Vec<(String, usize)>;

#[derive(Deserialize)]
struct Recorded {
    names: Vec<String>,
    /// Fields, and for each name whether PEFT picks it.
    rules: Vec<(Map<String, Value>, String)>,
    /// A `rank_pattern` in its order, and the rank of each name.
    patterns: Vec<(Table, Vec<usize>)>,
    /// `modules_to_save`, and for each name whether PEFT saves the module or one above it.
    saved: Vec<(Vec<String>, String)>,
}

fn recorded() -> Recorded {
    serde_json::from_str(include_str!("../fixtures/peft_rules.json")).unwrap()
}

/// A tensor of a module that ends so.
fn saved(module: &str) -> Named {
    (
        format!("base_model.model.{module}.weight"),
        vec![1],
        vec![0.5],
    )
}

#[test]
fn modules_are_picked_as_peft_picks_them() {
    let Recorded { names, rules, .. } = recorded();
    let dir = tempfile::tempdir().unwrap();
    let mut decided = 0;
    for (fields, expected) in &rules {
        let mut config = lora_config("");
        let mut tensors = factors("some.module", 2).to_vec();
        for (key, value) in fields {
            config[key] = value.clone();
        }
        let listed = fields["modules_to_save"].as_array();
        let listed = listed.into_iter().flatten().filter_map(Value::as_str);
        tensors.extend(listed.map(|module| saved(&format!("zz{module}"))));
        directory(dir.path(), &config, &tensors);
        let found = PeftDirectory::open(dir.path()).unwrap();
        for (name, expected) in names.iter().zip(expected.chars()) {
            let picked = found.config().picks(name);
            let expected = (expected == '1').then_some(true).or(Some(false));
            assert_eq!(picked, expected, "{name} by {fields:?}");
            decided += 1;
        }
    }
    assert!(decided > 10_000, "{decided}");
}

#[test]
fn ranks_are_those_of_pefts_patterns() {
    let Recorded {
        names, patterns, ..
    } = recorded();
    let dir = tempfile::tempdir().unwrap();
    for (table, ranks) in &patterns {
        let tensors: Vec<_> = names
            .iter()
            .zip(ranks)
            .flat_map(|(name, rank)| factors(name, *rank))
            .collect();
        let config = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ".*"});
        directory(dir.path(), &config, &tensors);
        let entries = table
            .iter()
            .map(|(key, rank)| format!("{}:{rank}", json!(key)));
        let pattern = entries.collect::<Vec<_>>().join(",");
        let text =
            config
                .to_string()
                .replacen('{', &format!("{{\"rank_pattern\":{{{pattern}}},"), 1);
        std::fs::write(dir.path().join("adapter_config.json"), text).unwrap();
        let found = PeftDirectory::open(dir.path());
        let found = found.unwrap_or_else(|error| panic!("{table:?}: {error}"));
        if let Some(own) = found.patterned() {
            for (site, (rank, _)) in found.sites().iter().zip(own) {
                let at = names.iter().position(|name| *name == site.name).unwrap();
                assert_eq!(rank, ranks[at], "{} by {table:?}", site.name);
            }
        }
    }
}

#[test]
fn tensors_are_of_modules_to_save_as_peft_saves_them() {
    let Recorded {
        names,
        saved: cases,
        ..
    } = recorded();
    let dir = tempfile::tempdir().unwrap();
    for (listed, expected) in &cases {
        for (name, expected) in names.iter().zip(expected.chars()) {
            // Saved without being listed.
            if name.ends_with("lm_head") {
                continue;
            }
            let mut config = lora_config("");
            config["modules_to_save"] = json!(listed);
            config["target_modules"] = json!(null);
            let mut tensors = factors("some_module", 2).to_vec();
            tensors.extend(listed.iter().map(|module| saved(&format!("zz{module}"))));
            tensors.push(saved(name));
            tensors.dedup_by(|a, b| a.0 == b.0);
            directory(dir.path(), &config, &tensors);
            assert_eq!(
                read(dir.path()).is_ok(),
                expected == '1',
                "{name} by {listed:?}"
            );
        }
    }
}

#[test]
fn tensors_of_modules_that_no_rule_picks_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["m.layers.0.q", "m.layers.1.q"];
    let tensors: Vec<_> = names.iter().flat_map(|name| factors(name, 2)).collect();
    for (key, value) in [
        ("exclude_modules", json!(r".*\.layers\.0\..*")),
        ("exclude_modules", json!(["layers.0.q"])),
        ("target_modules", json!(["layers.1.q"])),
        ("layers_to_transform", json!([1])),
    ] {
        let mut config = lora_config("q");
        config[key] = value;
        directory(dir.path(), &config, &tensors);
        let error = read(dir.path()).unwrap_err();
        assert!(
            error.contains("m.layers.0.q.lora_A") && error.contains("target_modules"),
            "{error}"
        );
        // What the rule leaves out needs no tensors.
        directory(dir.path(), &config, &tensors[2..]);
        let found = PeftDirectory::open(dir.path()).unwrap();
        let sites = names.map(|name| vblora::Site::new(name, 3, 2));
        assert_eq!(
            found.bind(&sites).unwrap().adapter.plan().sites(),
            &sites[1..]
        );
    }
}

#[test]
fn the_end_of_a_text_is_pythons_and_other_patterns_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["m.layers.0.q", "m.layers.1.q"];
    let tensors: Vec<_> = names.iter().flat_map(|name| factors(name, 2)).collect();
    let read_with = |key: &str, value: &Value, tensors: &[Named]| {
        let mut config = lora_config("q");
        config[key] = value.clone();
        // layers_pattern counts only beside it.
        config["layers_to_transform"] = match key {
            "layers_pattern" => json!([0]),
            _ => Value::Null,
        };
        directory(dir.path(), &config, tensors);
        read(dir.path())
    };
    for (key, pattern) in [
        ("target_modules", r".*layers\.1\..*q\Z"),
        ("exclude_modules", r".*\.layers\.0\..*\Z"),
    ] {
        let error = read_with(key, &json!(pattern), &tensors).unwrap_err();
        assert!(error.contains("m.layers.0.q.lora_A"), "{pattern}: {error}");
        read_with(key, &json!(pattern), &tensors[2..]).unwrap();
    }
    for (key, pattern) in [
        ("target_modules", "zzz("),
        // A backslash and a letter.
        ("target_modules", r"q\\Z("),
        ("exclude_modules", "[q"),
        ("layers_pattern", "layers("),
        ("modules_to_save", "q("),
    ] {
        let value = match key {
            "modules_to_save" => json!([pattern]),
            _ => json!(pattern),
        };
        let error = read_with(key, &value, &tensors).unwrap_err();
        for part in ["adapter_config.json", key, &format!("{pattern:?}")] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}

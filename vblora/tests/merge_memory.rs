//! The memory of a merge, alone in its process so that nothing else moves it.
#![allow(missing_docs)]
#![cfg(target_os = "linux")]

#[path = "support/process.rs"]
mod process;

use std::{fs::File, io::Write, path::Path};

use serde_json::json;
use vblora::{
    LoraConfig, Site, Targets,
    rng::Key,
    storage::{HostAdapter, HostLora, merge, peft::PeftAdapter},
};

const ROWS: usize = 2048;
const COLUMNS: usize = 4096;
const SHARDS: usize = 3;

/// Two weights of 32 MiB, zeros.
fn shard(dir: &Path, index: usize) -> String {
    let bytes = 4 * ROWS * COLUMNS;
    let weight = |start: usize| json!({"dtype": "F32", "shape": [ROWS, COLUMNS], "data_offsets": [start, start + bytes]});
    let header = json!({
        format!("layer.{index}.one.weight"): weight(0),
        format!("layer.{index}.two.weight"): weight(bytes),
    });
    let header = header.to_string();
    let name = format!("model-{index}.safetensors");
    let mut file = File::create(dir.join(&name)).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + 2 * bytes) as u64).unwrap();
    name
}

/// 192 MiB in weights of 32 MiB are merged in less than a weight's memory.
#[test]
fn a_merge_holds_less_than_the_largest_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let (base, out) = (dir.path().join("base"), dir.path().join("out"));
    std::fs::create_dir(&base).unwrap();
    let mut weight_map = serde_json::Map::new();
    for index in 0..SHARDS {
        let name = shard(&base, index);
        for part in ["one", "two"] {
            weight_map.insert(format!("layer.{index}.{part}.weight"), json!(name));
        }
    }
    let index = json!({"weight_map": weight_map}).to_string();
    std::fs::write(base.join("model.safetensors.index.json"), index).unwrap();
    let sites: Vec<_> = (0..SHARDS)
        .map(|index| Site::new(format!("layer.{index}.one"), COLUMNS, ROWS))
        .collect();
    let config = LoraConfig {
        rank: 1,
        alpha: 1.0,
        dropout: 0.0,
        ..LoraConfig::default()
    };
    let settings = config.check(&Targets::all_linear().select(&sites).unwrap());
    let draw = |dim| vec![Key::new(1).normal(dim, 1.0); SHARDS];
    let lora = HostLora::new(settings.unwrap(), draw(COLUMNS), draw(ROWS)).unwrap();
    let adapter = PeftAdapter::new(HostAdapter::Lora(lora));
    if !process::reset_peak() {
        return;
    }
    let before = process::resident();
    let report = merge(&base, &adapter, &out, false).unwrap();
    let grown = process::peak().saturating_sub(before) >> 20;
    assert_eq!((report.updated, report.weights.len()), (SHARDS, SHARDS));
    let tensor = (4 * ROWS * COLUMNS) >> 20;
    assert!(
        grown < tensor / 2,
        "{grown} MiB more, with weights of {tensor} MiB"
    );
}

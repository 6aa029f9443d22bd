//! The memory of loading a model, measured by an allocator that counts. Alone in its process, and one test, so that nothing else is counted.
#![allow(missing_docs, clippy::print_stdout)]
#![cfg(feature = "flex")]

#[path = "../../vblora/tests/support/counting.rs"]
mod counting;
#[path = "../../vblora/tests/support/models.rs"]
mod models;

use std::{fs::File, io::Write, path::Path};

use burn::backend::Flex;
use serde_json::json;
use vblora_models::{BaseDtype, DecoderConfig, ModelFiles, decoder::CausalLm};

use counting::{Counting, measured};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A Llama of 137 million parameters: 275 MB in f16.
fn config() -> DecoderConfig {
    DecoderConfig {
        hidden_size: 768,
        num_layers: 14,
        num_heads: 12,
        num_kv_heads: 4,
        head_size: 64,
        intermediate_size: 2816,
        vocab_size: 16_000,
        ..DecoderConfig::llama_2_7b()
    }
}

/// Zeros in four shards, as f16 or f32; the files take no room on a disk that keeps holes.
fn write(dir: &Path, config: &DecoderConfig, dtype: &str, size: usize) {
    std::fs::write(dir.join("config.json"), config.to_json()).unwrap();
    let d = config.hidden_size;
    let mut tensors = vec![
        (
            "model.embed_tokens.weight".to_owned(),
            vec![config.vocab_size, d],
        ),
        ("lm_head.weight".to_owned(), vec![config.vocab_size, d]),
        ("model.norm.weight".to_owned(), vec![d]),
    ];
    for layer in 0..config.num_layers {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push((format!("model.layers.{layer}.{norm}.weight"), vec![d]));
        }
    }
    for site in vblora_models::decoder::sites(config) {
        tensors.push((format!("{}.weight", site.name), vec![site.d_out, site.d_in]));
    }
    let mut map = serde_json::Map::new();
    for (index, part) in tensors.chunks(tensors.len().div_ceil(4)).enumerate() {
        let file = format!("model-{index}.safetensors");
        let (mut header, mut end) = (serde_json::Map::new(), 0);
        for (name, shape) in part {
            let start = end;
            end += size * shape.iter().product::<usize>();
            let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
            header.insert(name.clone(), entry);
            map.insert(name.clone(), json!(file));
        }
        let header = serde_json::Value::Object(header).to_string();
        let mut out = File::create(dir.join(&file)).unwrap();
        out.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        out.write_all(header.as_bytes()).unwrap();
        out.set_len((8 + header.len() + end) as u64).unwrap();
    }
    let index = json!({"weight_map": map}).to_string();
    std::fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
}

/// How many times its weights in `dtype` a model takes at most while it is loaded, and once it is there.
fn taken(dir: &Path, dtype: BaseDtype) -> [f64; 2] {
    let files = ModelFiles::open(dir).unwrap();
    let config = DecoderConfig {
        base_dtype: dtype,
        ..DecoderConfig::from_files(&files).unwrap()
    };
    let size = if dtype == BaseDtype::F32 { 4.0 } else { 2.0 };
    let weights = size * config.parameters() as f64;
    let load = || CausalLm::<Flex>::load_with(config, &files, &Default::default()).unwrap();
    let (_, [held, peak]) = measured(load);
    println!(
        "{} as {dtype}: {:.0} MB at the most, {:.0} MB held for {:.0} MB of weights",
        dir.display(),
        peak as f64 / 1e6,
        held as f64 / 1e6,
        weights / 1e6
    );
    [held, peak].map(|bytes| bytes as f64 / weights)
}

/// A model in four shards, as it lies in the file and from f32 to f16, never takes more than 1.15 times its size in memory, nor does
/// SmolLM2. Once loaded, the weights are all that is held.
#[test]
fn loading_holds_the_weights_once() {
    let mut all = Vec::new();
    if let Some(dir) = models::smollm2() {
        all.extend([BaseDtype::F16, BaseDtype::F32].map(|dtype| taken(&dir, dtype)));
    }
    for (stored, size) in [("F16", 2), ("F32", 4)] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &config(), stored, size);
        all.push(taken(dir.path(), BaseDtype::F16));
    }
    println!("{all:.3?} times the weights");
    let kept = |&[held, peak]: &[f64; 2]| (1.0..1.01).contains(&held) && peak < 1.15;
    assert!(all.iter().all(kept), "{all:?}");
}

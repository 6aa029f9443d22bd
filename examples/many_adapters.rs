//! Runs one causal model with many adapters in memory, on a batch whose rows use different adapters.
//!
//! ```text
//! vblora train --model bundled:llama --method vblora --seeds 1,2 --out runs/texts
//! cargo run --release --example many_adapters -- runs/texts/vblora-seed1 runs/texts/vblora-seed2
//! ```
#![forbid(unsafe_code)]

use std::{ops::ControlFlow, path::Path};

use anyhow::{Result, ensure};
use burn::backend::Flex;
use vblora::AdapterSet;
use vblora_bench::{demo, program::say};
use vblora_models::{
    DecoderConfig, TextTokenizer,
    decoder::{AdaptedConfig, CachedLm, CausalLm},
    generate::{GenerationConfig, generate_text},
    stop_tokens,
};

const PROMPT: &str = "name : The Old Mill | kind : bakery | area : harbor ||";

fn main() -> Result<()> {
    let device = Default::default();
    // For your own model: ModelFiles::open("path/to/llama"), or vblora_models::resolve with a hub id.
    let files = demo::decoder_files();
    let config = DecoderConfig::from_files(&files)?;
    let tokenizer = TextTokenizer::from_files(&files)?.for_decoder(&config)?;
    let (model, _) = CausalLm::<Flex>::load(&files, &device)?;

    // Each adapter takes a few kilobytes. Adapters with the same bank share one copy of it.
    let names: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut set = AdapterSet::new(device);
    for name in &names {
        let found = AdaptedConfig::open(Path::new(name), config.clone())?;
        ensure!(
            found.saved.is_empty(),
            "{name} replaces tensors of the model, which others share"
        );
        set.load(name, &found.adapter)?;
    }

    // Row 0 uses no adapter, and every other row uses one of them. One forward pass serves all rows.
    let adapters = (0..names.len()).map(Some);
    let rows: Vec<Option<usize>> = [None].into_iter().chain(adapters).collect();
    let factors = set.stack(&names)?.assign(&rows, &device)?;
    let prompt = tokenizer.encode_prompts(&[PROMPT])?.remove(0);
    let prompts = vec![prompt.as_slice(); rows.len()];
    let settings = GenerationConfig {
        max_new_tokens: 40,
        stop_tokens: stop_tokens(&files, &tokenizer)?,
        ..GenerationConfig::default()
    };
    let capacity = prompt.len() + settings.max_new_tokens;
    let mut decoding = CachedLm::new(&model, factors, capacity, &device);
    // The generator calls this with every piece of text. It could end a row early.
    let on_piece = |_row: usize, _piece: &str| ControlFlow::Continue(());
    let texts = generate_text(&mut decoding, &tokenizer, &prompts, &settings, on_piece)?;

    let names = ["no adapter"].into_iter().chain(names);
    for (name, text) in names.zip(texts) {
        say(format!("{name}: {}", text.text.trim()));
    }
    Ok(())
}

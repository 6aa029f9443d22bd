//! The memory of training steps beside what was foretold, alone in its process so that nothing else moves it.
#![allow(missing_docs, clippy::print_stdout)]
#![cfg(all(target_os = "linux", feature = "flex"))]

#[path = "../../vblora/tests/support/process.rs"]
mod process;

use burn::{
    backend::{Autodiff, Flex},
    tensor::Tensor,
};
use vblora::{AdapterConfig, AnyAdapter, Composition, VbLoraConfig};
use vblora_models::{
    DecoderConfig,
    decoder::{CausalBatch, CausalInput, CausalLm, Footprint, Side, targets},
};

type Ad = Autodiff<Flex>;

const ROWS: usize = 8;
const LENGTH: usize = 128;

fn config() -> DecoderConfig {
    DecoderConfig {
        hidden_size: 512,
        num_layers: 10,
        num_heads: 8,
        num_kv_heads: 4,
        head_size: 64,
        intermediate_size: 1536,
        vocab_size: 1000,
        ..DecoderConfig::llama_2_7b()
    }
}

struct Training {
    model: CausalLm<Ad>,
    adapter: AnyAdapter<Ad>,
    input: CausalInput<Ad>,
    foretold: Footprint,
}

impl Training {
    fn new() -> Self {
        let device = Default::default();
        let config = config();
        let model = CausalLm::random(config.clone(), 1, &device).unwrap();
        let plan = targets("all").unwrap().select(&model.sites()).unwrap();
        let vblora = VbLoraConfig {
            vector_length: 128,
            ..Default::default()
        };
        let trained = vblora.check(&plan).unwrap().count().trained;
        let foretold = Footprint::new(&config, &plan, [vblora.rank, trained], LENGTH);
        let adapter = AdapterConfig::VbLora(vblora)
            .init(&plan, 1, &device)
            .unwrap();
        let text = vec![7; LENGTH];
        let batch = CausalBatch::pad(&[&text[..]; ROWS], 0, Side::Right);
        let input = CausalInput::new(&batch, &config, &device).unwrap();
        Self {
            model,
            adapter,
            input,
            foretold,
        }
    }

    fn loss(hidden: Tensor<Ad, 3>) -> Tensor<Ad, 1> {
        hidden.square().mean()
    }

    /// A step that runs blocks twice.
    fn step(&self) {
        let mut step = Composition::new(&self.adapter);
        let factors = step.factors().clone();
        let collect = |grads: &mut _| step.collect(grads);
        self.model
            .recompute(&self.input, &factors, Self::loss, collect);
        step.push_back().unwrap();
    }
}

/// A forward pass keeps the predicted bytes, and recomputation takes the predicted part of them.
#[test]
fn memory_is_as_foretold() {
    let training = Training::new();
    let tokens = ROWS * LENGTH;
    let foretold = training.foretold;
    // Once, so that what is made once and kept is there.
    training.step();
    let before = process::resident();
    if !process::reset_peak() {
        return;
    }
    training.step();
    let recomputed = process::peak().saturating_sub(before);
    let step = Composition::new(&training.adapter);
    let kept = Training::loss(training.model.forward(&training.input, step.factors()));
    let held = process::resident().saturating_sub(before);
    drop(kept.backward());
    let whole = process::peak().saturating_sub(before);
    let expected = tokens * foretold.kept_per_token;
    let mib = |bytes: usize| bytes >> 20;
    println!(
        "kept by a forward pass: {} MiB, foretold {}; a step's peak: {} MiB, with blocks run twice {} MiB, foretold {}",
        mib(held),
        mib(expected),
        mib(whole),
        mib(recomputed),
        mib(foretold.activations(tokens, true)),
    );
    let ratio = held as f64 / expected as f64;
    assert!((0.75..1.2).contains(&ratio), "{ratio}");
    assert!(
        recomputed < whole / 2,
        "{} of {} MiB",
        mib(recomputed),
        mib(whole)
    );
}

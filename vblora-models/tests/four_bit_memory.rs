//! The memory of a base in 4 bits, measured by an allocator that counts: no consumer keeps a dense copy of a map. Alone in its process, and
//! one test, so that nothing else is counted.
#![allow(missing_docs, clippy::print_stdout)]
#![cfg(feature = "flex")]

#[path = "../../vblora/tests/support/counting.rs"]
mod counting;

use std::ops::ControlFlow;

use burn::{
    backend::{Autodiff, Flex},
    module::AutodiffModule,
};
use vblora::{Adapter, Composition, VbLoraConfig};
use vblora_models::{
    BaseDtype, DecoderConfig, Nf4Settings,
    decoder::{CachedLm, CausalBatch, CausalInput, CausalLm, Footprint, Side, sites, targets},
    generate::{GenerationConfig, generate},
};

use counting::{Counting, measured};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

type Ad = Autodiff<Flex>;

/// 29 million weights in maps: 117 MB in f32, 15 MB in 4 bits.
fn config() -> DecoderConfig {
    DecoderConfig {
        hidden_size: 512,
        num_layers: 7,
        num_heads: 8,
        num_kv_heads: 8,
        head_size: 64,
        intermediate_size: 2048,
        vocab_size: 300,
        base_dtype: BaseDtype::Nf4(Nf4Settings::default()),
        ..DecoderConfig::llama_2_7b()
    }
}

#[test]
fn nothing_keeps_a_dense_copy_of_a_map() {
    let config = config();
    let device = Default::default();
    let plan = targets("all").unwrap().select(&sites(&config)).unwrap();
    let weights: usize = plan.sites().iter().map(|site| site.d_in * site.d_out).sum();
    let (in_floats, base) = (4 * weights, Footprint::new(&config, &plan, [4, 0], 64).base);
    // Decoded panels of one product, which a thread keeps for the next one.
    let panels = 3 * 4 * 512 * 2048;

    let (model, [held, peak]) =
        measured(|| CausalLm::<Ad>::random(config.clone(), 1, &device).unwrap());
    println!("{in_floats} bytes in f32; {base} planned, {held} held, {peak} at the most");
    assert!(held < base + base / 50 + (1 << 20), "{held} {base}");
    assert!(
        peak < base + panels,
        "one dense map above the result: {peak}"
    );

    let settings = VbLoraConfig {
        bank: 24,
        vector_length: 64,
        ..VbLoraConfig::default()
    };
    let adapter = settings.check(&plan).unwrap().init::<Ad>(1, &device);
    let batch = CausalBatch::pad(&[&[1, 5, 9, 4, 7, 2, 8, 3]], 0, Side::Right);
    let input = CausalInput::new(&batch, model.config(), &device).unwrap();
    let step = |recomputes: bool| {
        let mut step = Composition::new(&adapter);
        let factors = step.factors().clone();
        if recomputes {
            let loss = |hidden: burn::tensor::Tensor<Ad, 3>| hidden.mean();
            model.recompute(&input, &factors, loss, |grads| step.collect(grads));
        } else {
            let loss = model.forward(&input, &factors).mean();
            step.collect(&mut loss.backward());
        }
        step.push_back().map(drop).unwrap();
    };
    for recomputes in [false, true] {
        let ((), [left, peak]) = measured(|| step(recomputes));
        println!("a step, recomputed {recomputes}: {left} left, {peak} at the most");
        assert!(left < panels && peak < in_floats / 3, "{left} {peak}");
    }

    let inner = model.valid();
    let factors = adapter.valid().factors();
    let ((), [left, peak]) = measured(|| {
        let mut cached = CachedLm::new(&inner, factors, 16, &device);
        let settings = GenerationConfig {
            max_new_tokens: 4,
            ..GenerationConfig::default()
        };
        let texts = generate(&mut cached, &[&[1, 5, 9]], &settings, |_| {
            ControlFlow::Continue(())
        });
        assert_eq!(texts.unwrap().len(), 1);
    });
    println!("four tokens: {left} left, {peak} at the most");
    assert!(left < panels && peak < in_floats / 3, "{left} {peak}");
}

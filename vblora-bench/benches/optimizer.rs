//! One AdamW step of VB-LoRA at Llama-2-7B's shapes (all linear maps, h = 2,048, r = 4). It compares moments for all logits with moments
//! only for logits that were selected at least once. It needs 4 GB of memory.
#![allow(
    missing_docs,
    clippy::print_stdout,
    reason = "criterion's macros; the table of bytes is output"
)]

use std::time::Duration;

use burn::{
    backend::{Autodiff, Flex},
    tensor::{Tensor, TensorData},
};
use criterion::{Criterion, criterion_group, criterion_main};
use vblora::{Adapter, Targets, VbLora, VbLoraConfig, count::thousands, rng::Key};
use vblora_bench::{
    recipes::AdamSettings,
    train::{AdamW, Gradients, Rule},
};
use vblora_models::{DecoderConfig, decoder::sites};

#[global_allocator]
static ALLOCATOR: vblora_allocator::Keeping = vblora_allocator::Keeping;

/// Steps with other gradients before the measured one, so that each row has selected several columns.
const STEPS_BEFORE: u64 = 12;

fn adapter() -> VbLora<Autodiff<Flex>> {
    let config = VbLoraConfig {
        bank: 2048,
        ..Default::default()
    };
    let plan = Targets::all_linear()
        .select(&sites(&DecoderConfig::llama_2_7b()))
        .expect("the model has linear maps");
    let valid = config.check(&plan).expect("256 divides every dimension");
    valid.init(1, &Default::default())
}

fn gradients(adapter: &VbLora<Autodiff<Flex>>, seed: u64) -> Gradients<Flex> {
    let slab = adapter.slabs().remove(0);
    let shape = slab.dims();
    let gradient = Key::new(seed).normal(shape[0] * shape[1], 1e-3);
    let gradient = Tensor::from_data(TensorData::new(gradient, shape), &Default::default());
    let mut graph = (slab * gradient).sum().backward();
    let mut grads = Gradients::new();
    grads.collect("adapter", adapter, &mut graph);
    grads
}

fn optimizer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("AdamW, Llama-2-7B");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(20));
    let mut table = Vec::new();
    for (name, selected) in [
        ("moments of all", None),
        ("moments of the touched", Some(2)),
    ] {
        let rule = |path: &str, _: usize| Rule {
            lr: 1e-2,
            decay: 0.0,
            selected: selected.filter(|_| path.ends_with(".logits")),
        };
        let mut optimizer = AdamW::<Flex>::new(AdamSettings::default());
        let mut trained = adapter();
        for seed in 0..STEPS_BEFORE {
            let grads = gradients(&trained, seed);
            optimizer.begin_step(None);
            trained = optimizer.apply("adapter", trained, &grads, rule);
        }
        let grads = gradients(&trained, STEPS_BEFORE);
        let mut trained = Some(trained);
        group.bench_function(name, |b| {
            b.iter(|| {
                optimizer.begin_step(None);
                let before = trained.take().expect("put back below");
                trained = Some(optimizer.apply("adapter", before, &grads, rule));
            })
        });
        let bytes: usize = optimizer.state().1.values().map(|m| m.bytes()).sum();
        table.push((name, bytes));
    }
    group.finish();
    println!("\n| optimizer state | bytes |\n| --- | ---: |");
    table
        .iter()
        .for_each(|(name, bytes)| println!("| {name} | {} |", thousands(*bytes)));
}

criterion_group!(benches, optimizer);
criterion_main!(benches);

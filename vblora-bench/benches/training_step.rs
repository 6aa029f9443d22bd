//! One training step at RoBERTa-base shapes: random weights, batch 8 x 128, f32, dropout off, and each case's peak memory.
//!
//! `cargo bench -p vblora-bench` runs it on flex.
#![allow(
    missing_docs,
    clippy::print_stdout,
    reason = "criterion's macros; the memory table is output"
)]

use std::{cell::RefCell, time::Duration};

use burn::backend::{Autodiff, Flex};
use criterion::{Criterion, criterion_group, criterion_main};
use vblora::{AdapterConfig, Factors, LoraConfig, VbLoraConfig, rng::Key};
use vblora_bench::{
    recipes::{Recipe, Size},
    tasks::Task,
    train::{LabelledBatch, Learner, Trained},
};
use vblora_models::{
    ClassificationHead, Encoder, EncoderConfig, EncoderInput, HeadForm, HeadInit, Labels,
    PaddedBatch, encoder,
};

#[global_allocator]
static ALLOCATOR: vblora_allocator::Keeping = vblora_allocator::Keeping;

const ROWS: usize = 8;
const COLUMNS: usize = 128;

fn batch() -> LabelledBatch {
    let ids = (0..ROWS * COLUMNS)
        .map(|i| 5 + Key::new(1).below(i as u64, 50_000) as i64)
        .collect();
    let cells = ROWS * COLUMNS;
    let inputs = PaddedBatch {
        ids,
        type_ids: vec![0; cells],
        mask: vec![1; cells],
        rows: ROWS,
        columns: COLUMNS,
    };
    LabelledBatch {
        inputs,
        labels: Labels::Classes((0..ROWS).map(|row| row % 2).collect()),
    }
}

fn learner(
    base: &Encoder<Flex>,
    method: Option<(&str, AdapterConfig)>,
    full: bool,
) -> Learner<Flex> {
    let device = Default::default();
    let mut recipe = Recipe::builtin(Size::Base, &Task::mrpc()).expect("built in");
    recipe.head.dropout = 0.0;
    let trained = match method {
        Some((targets, adapter)) => {
            let plan = encoder::targets(targets)
                .and_then(|t| Ok(t.select(&base.sites())?))
                .expect("sites of the model");
            Trained::Adapter(Box::new(
                adapter
                    .init::<Autodiff<Flex>>(&plan, 1, &device)
                    .expect("fits"),
            ))
        }
        None if full => Trained::Everything,
        None => Trained::HeadOnly,
    };
    let head = ClassificationHead::init(
        HeadForm::ROBERTA,
        [768, 2],
        0.0,
        HeadInit::Normal(0.02),
        1,
        &device,
    );
    Learner::new(base, trained, head, &recipe, 1, &device)
}

/// The largest resident size since the last call, in MiB. It is 0 if the system does not report it.
fn peak_since_last_call() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or("0 kB");
    std::fs::write("/proc/self/clear_refs", "5").ok();
    line.trim()
        .trim_end_matches(" kB")
        .parse::<u64>()
        .unwrap_or(0)
        / 1024
}

fn training_step(criterion: &mut Criterion) {
    let device = Default::default();
    let base = Encoder::<Flex>::random(EncoderConfig::roberta_base().without_dropout(), 1, &device)
        .expect("no limit on the CPU");
    let input = EncoderInput::new(&batch().inputs, base.config(), &device);
    let mut group = criterion.benchmark_group("roberta-base 8x128");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_secs(3))
        .measurement_time(Duration::from_secs(20));
    let peaks = RefCell::new(Vec::new());
    peak_since_last_call();
    group.bench_function("frozen forward", |b| {
        b.iter(|| base.forward(&input, &Factors::none()).into_data())
    });
    peaks
        .borrow_mut()
        .push(("frozen forward", peak_since_last_call()));
    let vblora = || AdapterConfig::VbLora(VbLoraConfig::default());
    let cases = [
        (
            "LoRA qv",
            Some(("qv", AdapterConfig::Lora(LoraConfig::default()))),
            false,
        ),
        ("VB-LoRA qv", Some(("qv", vblora())), false),
        ("VB-LoRA all", Some(("all", vblora())), false),
        ("full", None, true),
    ];
    for (name, method, full) in cases {
        let mut learner = learner(&base, method, full);
        let mut step = 0;
        peak_since_last_call();
        group.bench_function(name, |b| {
            b.iter(|| {
                step += 1;
                learner
                    .step(step, &[batch()], 1.0)
                    .expect("every site gets a gradient")
            });
        });
        peaks.borrow_mut().push((name, peak_since_last_call()));
    }
    group.finish();
    println!("\npeak resident memory (the base's weights included):");
    for (name, mib) in peaks.into_inner() {
        println!("  {name:<16} {mib:>6} MiB");
    }
}

criterion_group!(benches, training_step);
criterion_main!(benches);

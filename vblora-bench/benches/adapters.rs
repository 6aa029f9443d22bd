//! Adapters at run time: loading, switching, composing and merging at RoBERTa-base and Llama-2-7B shapes. It also compares a batch whose
//! rows use different adapters with a batch that uses one. Weights and codes are random, in f32.
//!
//! `cargo bench -p vblora-bench --bench adapters` runs it on flex.
#![allow(
    missing_docs,
    clippy::print_stdout,
    reason = "criterion's macros; the table of processor times is output"
)]

use std::time::Duration;

use burn::{
    backend::Flex,
    tensor::{Distribution, Tensor},
};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use vblora::{
    Adapter, AdapterSet, Factors, FrozenLinear, Site, StoredVbLora, ValidVbLora, VbLoraConfig,
    WeightLayout,
    rng::Key,
    storage::{Codes, HostAdapter, Precision, Precisions},
};
use vblora_models::{
    DecoderConfig, Encoder, EncoderConfig, EncoderInput, PaddedBatch, decoder::sites, encoder,
};

#[global_allocator]
static ALLOCATOR: vblora_allocator::Keeping = vblora_allocator::Keeping;

const ROWS: usize = 8;
const COLUMNS: usize = 128;

fn roberta_base() -> EncoderConfig {
    EncoderConfig::roberta_base().without_dropout()
}

/// The paper's settings on these sites.
fn settings(sites: &[Site], targets: &str, bank: usize) -> ValidVbLora {
    let config = VbLoraConfig {
        bank,
        ..VbLoraConfig::default()
    };
    let plan = encoder::targets(targets).expect("a rule").select(sites);
    config.check(&plan.expect("sites")).expect("b = 256 fits")
}

/// Random codes over one bank.
fn stored(settings: &ValidVbLora, seed: u64) -> StoredVbLora {
    let (config, s) = (settings.config(), settings.sub_vectors());
    let bank = Key::new(1).normal(config.bank * config.vector_length, 0.02);
    let key = Key::new(seed);
    let first = |row| key.below(row, config.bank) as u32;
    let codes = Codes {
        topk: 2,
        indices: (0..s as u64)
            .flat_map(|row| [first(row), (first(row) + 1) % config.bank as u32])
            .collect(),
        weights: key.uniform(s, 0.5, 1.0),
    };
    StoredVbLora::new(settings.clone(), bank, codes).expect("codes that fit")
}

fn cases() -> [(&'static str, ValidVbLora); 3] {
    let roberta = encoder::sites(&roberta_base());
    [
        ("RoBERTa-base qv", settings(&roberta, "qv", 90)),
        ("RoBERTa-base all", settings(&roberta, "all", 90)),
        (
            "Llama-2-7B all",
            settings(&sites(&DecoderConfig::llama_2_7b()), "all", 2048),
        ),
    ]
}

/// Measures three ways: from a file into a set, from codes in memory to factors, and from all logits to factors.
fn adapters(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("adapter.safetensors");
    let device = Default::default();
    for (name, settings) in cases() {
        let mut group = criterion.benchmark_group(name);
        group
            .sample_size(20)
            .warm_up_time(Duration::from_secs(1))
            .measurement_time(Duration::from_secs(5));
        let eight_bits = Precisions {
            bank: Precision::Bits8,
            weights: Precision::Bits8,
        };
        let small = stored(&settings, 2);
        small.save_as(&path, eight_bits).expect("written");
        let mut set = AdapterSet::<Flex>::new(device);
        for (adapter, seed) in [("one", 2), ("other", 3)] {
            let adapter_of = HostAdapter::TopK(stored(&settings, seed));
            set.load(adapter, &adapter_of).expect("a new name");
        }
        group.bench_function("load", |b| {
            b.iter(|| {
                let found = StoredVbLora::load(&path).expect("read");
                set.load("new", &HostAdapter::TopK(found)).expect("new");
                set.unload("new").expect("loaded");
            })
        });
        let mut turn = false;
        group.bench_function("switch", |b| {
            b.iter(|| {
                turn = !turn;
                set.factors(if turn { "one" } else { "other" })
            })
        });
        let full = settings.init::<Flex>(1, &device);
        group.bench_function("compose from logits", |b| b.iter(|| full.factors()));
        group.finish();
    }
}

fn merging(criterion: &mut Criterion) {
    let device = Default::default();
    let mut group = criterion.benchmark_group("merge");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    let base = Encoder::<Flex>::random(roberta_base(), 1, &device).expect("no limit on the CPU");
    for (name, targets) in [("RoBERTa-base qv", "qv"), ("RoBERTa-base all", "all")] {
        let adapter = stored(&settings(&base.sites(), targets, 90), 2);
        let factors = adapter.factors(&device);
        group.bench_function(name, |b| {
            b.iter_batched(|| (), |()| base.merged(&factors), BatchSize::PerIteration)
        });
    }
    drop(base);
    let one = DecoderConfig {
        num_layers: 1,
        ..DecoderConfig::llama_2_7b()
    };
    let sites = sites(&one);
    let layer = sites.iter().map(|site| {
        let shape = [site.d_in, site.d_out];
        let weight = Tensor::<Flex, 2>::random(shape, Distribution::Normal(0.0, 0.02), &device);
        FrozenLinear::new(site.name.clone(), weight, None, WeightLayout::InOut)
    });
    let layer: Vec<_> = layer.collect();
    let factors = stored(&settings(&sites, "all", 2048), 2).factors(&device);
    group.bench_function("one layer of Llama-2-7B", |b| {
        let merged = |()| -> Vec<_> { layer.iter().map(|map| map.merged(&factors)).collect() };
        b.iter_batched(|| (), merged, BatchSize::PerIteration)
    });
    group.finish();
}

/// A forward pass of RoBERTa-base at 8 x 128 tokens: frozen, with one adapter on every linear map, and with several adapters in one batch.
///
/// One adapter adds little to the base's cost. The cases are therefore measured in turn by processor time as well.
fn multi_adapter_batches(criterion: &mut Criterion) {
    let device = Default::default();
    let base = Encoder::<Flex>::random(roberta_base(), 1, &device).expect("no limit on the CPU");
    let cells = ROWS * COLUMNS;
    let ids = (0..cells as u64).map(|i| 5 + Key::new(1).below(i, 50_000) as i64);
    let batch = PaddedBatch {
        ids: ids.collect(),
        type_ids: vec![0; cells],
        mask: vec![1; cells],
        rows: ROWS,
        columns: COLUMNS,
    };
    let input = EncoderInput::new(&batch, base.config(), &device);
    let settings = settings(&base.sites(), "all", 90);
    let mut set = AdapterSet::<Flex>::new(device);
    let names: Vec<_> = (0..ROWS).map(|i| i.to_string()).collect();
    for (i, name) in names.iter().enumerate() {
        let adapter = HostAdapter::TopK(stored(&settings, i as u64));
        set.load(name, &adapter).expect("a new name");
    }
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut group = criterion.benchmark_group("RoBERTa-base 8x128 forward");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_secs(3))
        .measurement_time(Duration::from_secs(15));
    let mut cases = vec![
        ("frozen".to_owned(), Factors::none()),
        ("one adapter".to_owned(), set.factors("0").expect("loaded")),
    ];
    for adapters in [2, 4, 8] {
        let stack = set.stack(&names[..adapters]).expect("loaded");
        let rows: Vec<_> = (0..ROWS).map(|row| Some(row % adapters)).collect();
        let factors = stack.assign(&rows, &device).expect("adapters of the stack");
        cases.push((format!("{adapters} adapters"), factors));
    }
    let forward = |factors: &Factors<Flex>| base.forward(&input, factors).into_data();
    for (name, factors) in &cases {
        group.bench_function(name, |b| b.iter(|| forward(factors)));
    }
    group.finish();
    println!("\nprocessor seconds of a forward pass, the cases in turn, median of {ROUNDS}:");
    let mut seconds = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        for ((_, factors), seconds) in cases.iter().zip(&mut seconds) {
            let before = processor_seconds();
            forward(factors);
            seconds.push(processor_seconds() - before);
        }
    }
    for ((name, _), mut seconds) in cases.into_iter().zip(seconds) {
        seconds.sort_by(f64::total_cmp);
        println!("  {name:<12} {:.2}", seconds[ROUNDS / 2]);
    }
}

/// Rounds in which each case is measured by processor time.
const ROUNDS: usize = 9;

/// Processor time that this process has used, in seconds, with a resolution of 10 ms. Other programs disturb it less than elapsed time. It
/// is 0 if the system does not report it.
fn processor_seconds() -> f64 {
    let status = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The fields follow the name in brackets. User and system time are the 12th and 13th of them.
    let (_, fields) = status.rsplit_once(')').unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

criterion_group!(benches, adapters, merging, multi_adapter_batches);
criterion_main!(benches);
